"""What a simulated round asks of whoever folds it. Trust zone: the developer's machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from coordinator.enclave.rounds import Round
from simulations.collecting import Arrival
from simulations.result import Ending
from simulations.task import Trained
from trusted.encoding import Vector
from trusted.errors import Reason


@dataclass(slots=True)
class Stages:
    """How long a round takes here, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """What is done within counts for ``stage``."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Opened:
    """A round that was opened: ``number`` counts those alone, from 1."""

    number: int
    cohort: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site did: ``trained``, with the whole of what it changed, float32[elements], and what it sends of it.

    Attributes:
        update: float32[part.elements], before it is clipped and encoded.
        forged: by a false site, which clips nothing.
    """

    arrival: Arrival
    trained: Trained
    whole: Vector = field(repr=False)
    update: Vector = field(repr=False)
    forged: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What the sites of a round give, in the order of member ids, while they train: all of them are to be taken.

    All train from ``seen``, float32[elements]. An answer's vectors are good until the next one is taken; where the crew
    holds all of a round, until the next round.
    """

    answers: Iterator[Answer]
    seen: Vector = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """A round at its end: ``reason`` says why it came to nothing, if it did; updates of ``sent`` had come whole."""

    round: Round
    reason: Reason | None
    sent: Collection[str]


class Aggregator(Protocol):
    """One run, round after round, on virtual time."""

    @property
    def now(self) -> datetime:
        """The virtual time."""

    @property
    def part(self) -> Vector:
        """What is exchanged of the model, as it is now: float32[part.elements]."""

    @property
    def model(self) -> Vector:
        """The whole model, as it is now: float32[elements]."""

    @property
    def epsilon(self) -> float | None:
        """What of the privacy budget is spent; None without a mechanism."""

    @property
    def ending(self) -> Ending | None:
        """Why there are no more rounds; None: there are."""

    def open(self, present: Sequence[str], stages: Stages) -> Opened | None:
        """The next round, of some of those ``present``. None: the run is over, or too few are there for a lease."""

    def close(self, opened: Opened, work: Work, stages: Stages) -> Closed:
        """Time passes until the round is over, and folded if it can be."""
