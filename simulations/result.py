"""What a simulation found: a row for each round, and the final model. Trust zone: the developer's machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trusted.documents.layout import Layout
from trusted.encoding import Vector
from trusted.errors import Reason

if TYPE_CHECKING:
    from rich.console import Group

    from simulations.drawing import Picture
    from simulations.table import Table


class Ending(Enum):
    """Why there are no more rounds."""

    COMPLETE = "complete"
    BUDGET = "budget exhausted"
    ABANDONED = "too many rounds came to nothing"


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round, as a federation's own log would tell it, and what only a simulation knows.

    Attributes:
        number: also rounds that came to nothing have one, and, unlike in a log, those that too few came to open.
        present: how many sites were there when it opened.
        drawn, counted: the cohort, and whose updates are in the model, by id.
        lost: of each other of the cohort, why it does not count.
        abandoned: why the round came to nothing; None: it was committed.
        reported: means, weighted by rows, of what counted sites said of their training.
        evaluated: what the task says of the model after the round, on rows that no site has.
        epsilon: what of the privacy budget is spent after it; None without a mechanism.
        bytes_down, bytes_up: sealed bytes that the cohort fetched, and that arrived of it.
        virtual_s: how long it took on the virtual clock.
        wall_s: how long it took here, by stage (``draw``, ``train``, ``exchange``, ``fold``, ``evaluate``);
            with admission ``protocol``: all that enclave, host and sites do besides training.
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
    """A whole simulation. ``settings`` is plain JSON: with the same code and data it gives the same result again.

    ``admission_s``: how long it took here to admit all sites; None where nobody was admitted.
    """

    settings: Mapping[str, Any]
    rounds: tuple[RoundRow, ...]
    ending: Ending
    layout: Layout
    model: Vector = field(repr=False)
    admission_s: float | None = None

    @property
    def final(self) -> Mapping[str, float]:
        """What was said of the model after the last round that was evaluated; empty where none was."""
        return next((row.evaluated for row in reversed(self.rounds) if row.evaluated), {})

    def table(self) -> Table:
        """A row for each round, for notebooks and terminals."""
        from simulations.round_table import table_of

        return table_of(self)

    def plot(self) -> Picture:
        """Metrics, ε, bytes, cohort and time by round; ``.save(path)`` writes the figure.

        Raises:
            UserError: matplotlib is not installed.
        """
        from simulations.plots import plot

        return plot(self)

    def save(self, path: str | Path) -> Path:
        """Write the rounds (``.parquet`` or ``.json``), and the model as safetensors beside them.

        Raises:
            UserError: another suffix. OSError: it cannot be written.
        """
        from simulations.result_files import save

        return save(self, path)

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """What :meth:`save` wrote.

        Raises:
            UserError: it is something else, or the model is not beside it. OSError: it cannot be read.
        """
        from simulations.result_files import read

        return read(path)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __rich__(self) -> Group:
        return self.table().__rich__()
