"""The bare loop: what a PyTorch user would write by hand for two cores, without any framework.

One model per process, its tensors reused, one thread; rows mapped; sums in shared memory.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from benchmarks.simulation.asked import Asked, Laps
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of
from benchmarks.simulation.work import norm, read_rows


def split(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """Views of ``flat`` in these shapes."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def serve(pipe: Connection, asked: Asked, given: Tensor, total: Tensor) -> None:
    """Train the sites that come through ``pipe`` from ``given`` and leave the sum of their models in ``total``."""
    torch.set_num_threads(1)
    work = asked.work
    features, labels = (torch.from_numpy(rows) for rows in read_rows(asked.rows, work))
    module = module_of(work.model)
    parameters = list(module.parameters())
    shapes = [parameter.shape for parameter in parameters]
    start, sums = split(given, shapes), split(total, shapes)
    pipe.send(None)
    while (sites := pipe.recv()) is not None:
        total.zero_()
        for site in sites:
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
            for low in range(0, work.rows, work.batch):
                batch = slice(low, low + work.batch)
                loss = loss_of(work.model, module(features[site, batch]), labels[site, batch])
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    torch._foreach_add_(parameters, gradients, alpha=-LEARNING_RATE)
            with torch.no_grad():
                torch._foreach_add_(sums, parameters)
        pipe.send(None)


def main(path: str) -> None:
    """All rounds."""
    asked = Asked.read(path)
    initial = [parameter.detach() for parameter in module_of(asked.work.model).parameters()]
    given = torch.cat([part.flatten() for part in initial]).share_memory_()
    totals = torch.zeros(asked.processes, len(given)).share_memory_()
    fork = multiprocessing.get_context("fork")
    pipes = []
    for total in totals:
        here, there = fork.Pipe()
        fork.Process(target=serve, args=(there, asked, given, total), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    laps = Laps()
    for cohort in asked.cohorts:
        for place, pipe in enumerate(pipes):
            pipe.send(cohort[place :: asked.processes])
        for pipe in pipes:
            pipe.recv()
        torch.sum(totals, 0, out=given)
        given.div_(len(cohort))
        laps.mark()
    for pipe in pipes:
        pipe.send(None)
    laps.found(norm([given.numpy()])).write(path)


if __name__ == "__main__":
    main(sys.argv[1])
