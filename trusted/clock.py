"""The time as an enclave's shell takes it: its machine's clock, but for jumps. Trust zone: every TEE; it reads clocks.

The clock is the host's, like all that it gives. This guards against accidents, not against the host: a clock that is
set wrong by years and back again, as by a bad time server, must not end a run, void every lease or put a deadline
beyond anybody's life. Rules: time goes on as the machine's uptime does, sleep included. Small steps of the clock are
followed. A jump is told, and believed only when it has lasted: until then time goes on as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_STEP = timedelta(seconds=30)  # what a clock is corrected by in everyday life
_BELIEVED_S = 300.0  # how long a jump must last

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """What the machine's clock shows, in UTC."""
    return datetime.now(UTC)


def uptime_s() -> float:
    """Seconds since the machine started, sleep included; nobody sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SteadyClock:
    """Gives the time in UTC, to one thread. ``jumped`` is told the seconds of each jump, once."""

    def __init__(
        self, jumped: Callable[[float], None], wall: Clock | None = None, uptime: Callable[[], float] = uptime_s
    ) -> None:
        self._jumped = jumped
        self._wall = wall or utc_now
        self._uptime = uptime
        self._time, self._at = self._wall(), uptime()
        self._jumped_at: float | None = None

    def __call__(self) -> datetime:
        """The time now."""
        shown, at = self._wall(), self._uptime()
        kept = self._time + timedelta(seconds=at - self._at)
        if abs(shown - kept) <= _STEP:
            self._time, self._at, self._jumped_at = shown, at, None
            return shown
        if self._jumped_at is None:
            self._jumped_at = at
            self._jumped((shown - kept).total_seconds())
        if at - self._jumped_at < _BELIEVED_S:
            return kept
        self._time, self._at, self._jumped_at = shown, at, None
        return shown
