"""One line of an explanation. Trust zone: a member's machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique

from console.hints import runbook_for
from trusted.errors import Reason
from trusted.wire import Json

NOT_CHECKED = "not checked"
NOTHING = "—"


@unique
class Standing(Enum):
    """What came of one row."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"
    NOT_CHECKED = NOT_CHECKED


@dataclass(frozen=True, slots=True)
class Row:
    """One claim. ``reason`` and ``remedy`` stand where it failed, and nowhere else."""

    claim: str
    expected: str
    actual: str
    standing: Standing
    reason: Reason | None = None
    remedy: str = ""

    def to_json(self) -> dict[str, Json]:
        """The row as ``--json`` prints it."""
        code = None if self.reason is None else self.reason.code
        return {
            "claim": self.claim,
            "expected": self.expected,
            "actual": self.actual,
            "verdict": self.standing.value,
            "reason": code,
            "remedy": self.remedy,
            "runbook": None if code is None else runbook_for(code),
        }


def failures(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows that failed."""
    return tuple(row for row in rows if row.standing is Standing.FAIL)
