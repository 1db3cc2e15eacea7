"""Clocks that jump: by years, in either direction, once or for a while."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import trusted.evidence.clocks


@dataclass(frozen=True, slots=True)
class Jump:
    """``after_s`` after a process first looked at it its machine's clock is wrong by ``by``, for ``for_s`` seconds."""

    after_s: float
    by: timedelta
    for_s: float


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands for ``datetime`` where an enclave's shell reads its machine's clock."""

    wall: Any

    def now(self, tz: Any) -> datetime:
        """The time as this machine tells it."""
        return self.wall()


@dataclass(slots=True)
class Clocks:
    """The time as one machine tells it."""

    jumps: tuple[Jump, ...] = ()

    def wall(self) -> Any:
        """A function that gives this machine's time in UTC."""
        started: list[float] = []

        def now() -> datetime:
            started[:] = started or [time.monotonic()]  # since it was first asked
            lived = time.monotonic() - started[0]
            wrong = [jump.by for jump in self.jumps if jump.after_s <= lived < jump.after_s + jump.for_s]
            return datetime.now(UTC) + sum(wrong, timedelta())

        return now

    def set(self) -> None:
        """Let this process live by it."""
        if self.jumps:
            wrong = _Wrong(self.wall())
            trusted.evidence.clocks.datetime = wrong  # type: ignore[misc, assignment]
