"""Long work beside the aggregator's own thread: sealing, checking, folding. Trust zone: aggregator TEE.

Rules: the state machines live on one thread. What takes long is handed over as a job; its outcome comes back to that
thread, as everything else does. A job changes no state: it reads what it was given and returns a value.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

T = TypeVar("T")


class Jobs(Protocol):
    """Where jobs run."""

    def submit(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """Do ``work``; then ``done`` with its value and the time, on the caller's thread."""

    def submit_later(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """The same, when there is time: ``work`` may not be needed any more by then, and finds that out itself."""

    def each_lane(self, work: Callable[[int, int], None]) -> None:
        """``work(lane, lanes)`` for every lane, side by side; returns when all are done, or raises what one raised."""


class Inline:
    """Everything at once, in the caller's thread: for tests, and wherever threads would be in the way."""

    def submit(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """Do it now."""
        done(work(), now)

    def submit_later(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """Now is late enough."""
        self.submit(work, done, now)

    def each_lane(self, work: Callable[[int, int], None]) -> None:
        """One lane."""
        work(0, 1)
