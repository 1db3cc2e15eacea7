"""What a simulation found: a row for each round, and the final model. Trust zone: the developer's machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from trusted.documents.layout import Layout
from trusted.encoding import Vector
from trusted.errors import Reason


class Ending(Enum):
    """Why there are no more rounds."""

    COMPLETE = "complete"
    BUDGET = "budget exhausted"
    ABANDONED = "too many rounds came to nothing"


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round, as a federation's own log would tell it, and what only a simulation knows.

    Attributes:
        number: as the log counts: also rounds that came to nothing have one.
        present: how many sites were there when it opened.
        drawn, counted: the cohort, and whose updates are in the model, by id.
        lost: of each other of the cohort, why it does not count.
        abandoned: why the round came to nothing; None: it was committed.
        reported: means, weighted by rows, of what counted sites said of their training.
        evaluated: what the task says of the model after the round, on rows that no site has.
        epsilon: what of the privacy budget is spent after it; None without a mechanism.
        bytes_down, bytes_up: sealed bytes that the cohort fetched, and that arrived of it.
        virtual_s: how long it took on the virtual clock.
        wall_s: how long it took here, by stage (``draw``, ``train``, ``exchange``, ``fold``, ``evaluate``).
    """

    number: int
    present: int
    drawn: tuple[str, ...]
    counted: tuple[str, ...]
    lost: Mapping[str, Reason]
    abandoned: Reason | None
    reported: Mapping[str, float]
    evaluated: Mapping[str, float]
    epsilon: float | None
    bytes_down: int
    bytes_up: int
    virtual_s: float
    wall_s: Mapping[str, float]

    @property
    def lost_by_reason(self) -> Mapping[Reason, int]:
        """How many were lost for each reason."""
        return Counter(self.lost.values())


@dataclass(frozen=True, slots=True)
class Result:
    """A whole simulation. ``settings`` is plain JSON: with the same code and data it gives the same result again."""

    settings: Mapping[str, Any]
    rounds: tuple[RoundRow, ...]
    ending: Ending
    layout: Layout
    model: Vector = field(repr=False)
