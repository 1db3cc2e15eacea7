"""A site of NVFlare's: the script that its simulator runs in a process for each."""

from __future__ import annotations

import sys

import nvflare.client as flare
import torch

from benchmarks.simulation.asked import Asked
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of
from benchmarks.simulation.work import read_rows


def main(path: str) -> None:
    torch.set_num_threads(1)
    work = Asked.read(path).work
    flare.init()
    site = int(flare.system_info()["site_name"].partition("-")[2]) - 1
    features, labels = (torch.from_numpy(rows[site]) for rows in read_rows(Asked.read(path).rows, work))
    module = module_of(work.model)
    while flare.is_running():
        given = flare.receive()
        if given is None:
            return
        module.load_state_dict({name: torch.as_tensor(part) for name, part in given.params.items()})
        optimizer = torch.optim.SGD(module.parameters(), LEARNING_RATE)
        for low in range(0, work.rows, work.batch):
            batch = slice(low, low + work.batch)
            optimizer.zero_grad()
            loss_of(work.model, module(features[batch]), labels[batch]).backward()
            optimizer.step()
        trained = {name: part.detach() for name, part in module.state_dict().items()}
        flare.send(flare.FLModel(params=trained, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


main(sys.argv[1])
