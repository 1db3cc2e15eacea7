"""Where sites are simulated: here, in a pool of processes, or on Ray. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from simulations.task import Job, Task, Trained
from trusted.encoding import Vector


@dataclass(frozen=True, slots=True)
class Done:
    """What was said of one job, and its ``update``, float32[elements], which may be written to."""

    trained: Trained
    update: Vector = field(repr=False)


class Crew(Protocol):
    """A task, ready to be asked."""

    def train(self, model: Vector, jobs: Sequence[Job]) -> Iterator[Done]:
        """All ``jobs`` from the same ``model``, which stays as it is meanwhile, in the order of ``jobs``.

        Each as soon as it and those before it are done. All are to be taken before the crew is asked again. A site's
        state stays with its site.
        """


class Engine(Protocol):
    """One way to run a task; every engine gives the same results."""

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it: ``in-process``, ``pool``, ``ray``."""

    def open(self, task: Task, *, most_jobs: int, holds_all: bool) -> AbstractContextManager[Crew]:
        """A crew for ``task``, which is never asked for more than ``most_jobs`` at once.

        An update is good until the next one is taken; if the crew ``holds_all``, until it is asked again.
        """
