"""Where sites are simulated: here, in a pool of processes, or on Ray. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.task import Job, Task, Trained
from trusted.encoding import Vector


@dataclass(frozen=True, slots=True)
class Answers:
    """``updates``, float32[jobs, elements], good until the crew is asked again, and what was said of each."""

    updates: NDArray[np.float32]
    trained: Sequence[Trained]


class Crew(Protocol):
    """A task, ready to be asked."""

    def train(self, model: Vector, jobs: Sequence[Job]) -> Answers:
        """All ``jobs`` from the same ``model``, in the order of ``jobs``. A site's state stays with its site."""


class Engine(Protocol):
    """One way to run a task; every engine gives the same results."""

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it: ``in-process``, ``pool``, ``ray``."""

    def open(self, task: Task, *, most_jobs: int) -> AbstractContextManager[Crew]:
        """A crew for ``task``, which is never asked for more than ``most_jobs`` at once."""
