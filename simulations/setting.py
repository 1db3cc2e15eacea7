"""What a simulated run is made of. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulations.cast import Cast
from simulations.pace import Pace
from simulations.task import Task
from simulations.terms import Terms


@dataclass(frozen=True, slots=True)
class Setting:
    """A run before it begins.

    Attributes:
        cohorts: the seed of cohorts, 32 bytes, as a run's log has it at its end.
        evaluate_every: rounds between two evaluations of the model; 0: never but at the end.
    """

    terms: Terms
    task: Task
    names: Sequence[str]
    sizes: Sequence[int] = field(repr=False)
    cast: Cast
    pace: Pace
    seed: int
    cohorts: bytes = field(repr=False)
    evaluate_every: int = 1
