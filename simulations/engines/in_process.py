"""All sites in this process, one after the other. Trust zone: the developer's machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulations.engine import Crew, Done
from simulations.engines.sharing import share_size
from simulations.task import Job, Task
from trusted.encoding import Vector


@dataclass(frozen=True, slots=True)
class InProcess:
    """``threads`` of torch: 1 gives the bits of the other engines, 0 stands for all cores."""

    threads: int = 1

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it."""
        return "in-process"

    @contextmanager
    def open(self, task: Task, *, most_jobs: int, holds_all: bool) -> Iterator[Crew]:
        """A crew of one, whose updates lie in the same room each round."""
        rows = most_jobs if holds_all else min(most_jobs, max(1, task.together))
        with torch_threads(self.threads or os.cpu_count() or 1):
            yield _Alone(task, np.empty((rows, task.layout.elements), np.float32))


@dataclass(frozen=True, slots=True)
class _Alone:
    task: Task
    updates: NDArray[np.float32] = field(repr=False)

    def train(self, model: Vector, jobs: Sequence[Job]) -> Iterator[Done]:
        size = share_size(len(jobs), 1, len(self.updates))
        for start in range(0, len(jobs), size):
            share = jobs[start : start + size]
            updates = self.updates[: len(share)]
            yield from map(Done, self.task.train(model, share, updates), updates)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many for what torch does here, if the task has brought torch; as before, afterwards."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
