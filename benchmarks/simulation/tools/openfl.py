"""OpenFL's local runtime of its workflow API: one process on all cores, every site in each round."""

from __future__ import annotations

import sys
import types

import torch

# nbdev as OpenFL pins it does not import with what it resolves to; the runtime does not use it.
for _name in ("nbdev", "nbdev.export"):
    sys.modules[_name] = types.ModuleType(_name)
sys.modules["nbdev.export"].nb_export = None

from openfl.experimental.workflow.interface import Aggregator, Collaborator, FLSpec  # noqa: E402
from openfl.experimental.workflow.placement import aggregator, collaborator  # noqa: E402
from openfl.experimental.workflow.runtime import LocalRuntime  # noqa: E402

from benchmarks.simulation.asked import Asked, Laps  # noqa: E402
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of  # noqa: E402
from benchmarks.simulation.work import norm, read_rows  # noqa: E402


class Flow(FLSpec):
    def __init__(self, path, **options):
        super().__init__(**options)
        self.path, self.work = path, Asked.read(path).work
        self.model, self.round_s, self.at = module_of(self.work.model), [], 0

    @aggregator
    def start(self):
        self.collaborators = self.runtime.collaborators
        self.laps = Laps()
        self.next(self.train, foreach="collaborators")

    @collaborator
    def train(self):
        features, labels = self.rows
        optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE)
        for low in range(0, self.work.rows, self.work.batch):
            batch = slice(low, low + self.work.batch)
            optimizer.zero_grad()
            loss_of(self.work.model, self.model(features[batch]), labels[batch]).backward()
            optimizer.step()
        self.next(self.join)

    @aggregator
    def join(self, inputs):
        states = [each.model.state_dict() for each in inputs]
        self.model.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
        self.laps.mark()
        self.at += 1
        if self.at < self.work.rounds:
            self.next(self.train, foreach="collaborators")
        else:
            self.next(self.end)

    @aggregator
    def end(self):
        self.laps.found(norm([part.detach().numpy() for part in self.model.parameters()])).write(self.path)


def rows_of(path: str, site: int) -> dict:
    asked = Asked.read(path)
    return {"rows": tuple(torch.from_numpy(part[site]) for part in read_rows(asked.rows, asked.work))}


def main(path: str) -> None:
    asked = Asked.read(path)
    torch.set_num_threads(asked.processes)
    sites = [
        Collaborator(f"site-{site}", private_attributes_callable=rows_of, num_cpus=0, path=path, site=site)
        for site in range(asked.work.sites)
    ]
    flow = Flow(path, checkpoint=False)
    flow.runtime = LocalRuntime(aggregator=Aggregator(), collaborators=sites, backend="single_process")
    flow.run()


if __name__ == "__main__":
    main(sys.argv[1])
