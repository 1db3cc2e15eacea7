"""A wall clock that somebody puts forward or back. Trust zone: every TEE. No I/O: readings are arguments.

The wall clock of a TEE is its host's word, and people set clocks wrong. Evidence and documents are judged by it, since
nothing else knows the date; but it is compared with a clock that only counts, so that a jump is seen when it happens.
Time that passes while a machine sleeps is no jump: the counting clock must count it (CLOCK_BOOTTIME).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

TOLERANCE = timedelta(seconds=10)  # what setting a clock that drifts may cost


@dataclass(slots=True)
class JumpDetector:
    """Compares two clocks from reading to reading. Many small steps add up: what is tolerated once is not each time."""

    wall: datetime
    counted_s: float

    def jump(self, wall: datetime, counted_s: float) -> timedelta | None:
        """By how much the wall clock was put forward (or back, below zero) since it was believed last; None: it was
        not. Each jump is told once: afterwards the new time is the one that is compared with."""
        by = (wall - self.wall) - timedelta(seconds=counted_s - self.counted_s)
        if abs(by) <= TOLERANCE:
            return None
        self.wall, self.counted_s = wall, counted_s
        return by
