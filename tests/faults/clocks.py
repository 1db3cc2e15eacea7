"""Clocks that jump: by years, in either direction, once or for a while."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Jump:
    """``after_s`` from the start of the process its machine's clock is wrong by ``by``, for ``for_s`` seconds."""

    after_s: float
    by: timedelta
    for_s: float


@dataclass(slots=True)
class Clocks:
    """The time as one machine tells it."""

    jumps: tuple[Jump, ...] = ()

    def wall(self) -> Any:
        """A function that gives this machine's time in UTC."""
        started = time.monotonic()

        def now() -> datetime:
            lived = time.monotonic() - started
            wrong = [jump.by for jump in self.jumps if jump.after_s <= lived < jump.after_s + jump.for_s]
            return datetime.now(UTC) + sum(wrong, timedelta())

        return now

    def set_for_aggregator(self, shell: Any) -> None:
        """Let the aggregator's shell live by it."""
        if self.jumps:
            wall = self.wall()
            serve = shell.serve
            shell.serve = lambda doors, aggregator: serve(doors, aggregator, clock=wall)

    def set_for_worker(self, session_loop: Any) -> None:
        """Let the worker's session live by it."""
        if self.jumps:
            wall = self.wall()

            class Shifted(datetime):
                @classmethod
                def now(cls, tz: Any = None) -> datetime:
                    return wall()

            session_loop.datetime = Shifted
