"""What a tool is asked and what it answers, as files: tools run in environments of their own.

Trust zone: the developer's machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.simulation.work import Work

_ASKED, _FOUND = "asked.json", "found.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """One run of a tool.

    Attributes:
        cohorts: the sites of each round, the same for every tool.
        settings: of this tool alone.
    """

    work: Work
    cohorts: tuple[tuple[int, ...], ...]
    rows: Path
    processes: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Into ``folder``, for :meth:`read`."""
        path = folder / _ASKED
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str) -> Asked:
        """What was written."""
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        cohorts = tuple(tuple(cohort) for cohort in fields["cohorts"])
        rows, work = Path(fields["rows"]), Work(**fields["work"])
        return cls(work, cohorts, rows, fields["processes"], fields["settings"])


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool did.

    Attributes:
        round_s: each round, from the model before to the model after it.
        norm: of the final model.
    """

    round_s: tuple[float, ...]
    norm: float

    def write(self, asked: str) -> None:
        """Beside the file that asked."""
        Path(asked).with_name(_FOUND).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Found | None:
        """What the tool left in ``folder``; None: nothing."""
        path = folder / _FOUND
        if not path.exists():
            return None
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(fields["round_s"]), fields["norm"])


class Laps:
    """The seconds of rounds."""

    def __init__(self) -> None:
        self._marks = [time.perf_counter()]

    def mark(self) -> None:
        """A round is over."""
        self._marks.append(time.perf_counter())

    def found(self, norm: float) -> Found:
        """With the final model's norm."""
        return Found(seconds_between(self._marks), norm)


def seconds_between(marks: Sequence[float]) -> tuple[float, ...]:
    """Between neighbouring ``marks``."""
    return tuple(round(later - earlier, 6) for earlier, later in pairwise(marks))
