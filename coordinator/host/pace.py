"""Whether a transfer moves fast enough to be kept. Trust zone: host; no I/O.

A peer that sends or takes one byte now and then never stands still, and would hold its stream for ever.
"""

from __future__ import annotations

from trusted.errors import Reason, RunError


class Pace:
    """One transfer's: in every ``window_s`` seconds that it had for itself, at least ``floor_bytes`` have to move."""

    def __init__(self, window_s: float, floor_bytes: int) -> None:
        self._window_s = window_s
        self._floor_bytes = floor_bytes
        self._seconds = 0.0
        self._bytes = 0

    def moved(self, size_bytes: int) -> None:
        """So much arrived or left."""
        self._bytes += size_bytes

    def spent(self, seconds: float) -> None:
        """The peer took so long; time that it waited for its turn is not its own.

        Raises:
            RunError: UNREACHABLE: a window is over, and too little has moved in it.
        """
        self._seconds += seconds
        if self._seconds < self._window_s:
            return
        too_slow = self._bytes < self._floor_bytes
        self._seconds, self._bytes = 0.0, 0
        if too_slow:
            raise RunError(Reason.UNREACHABLE, "blob: the transfer crawls; continue where it stopped")
