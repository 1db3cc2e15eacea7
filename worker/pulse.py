"""How far this site's work is, for its session to tell. Trust zone: worker TEE. No I/O, no clock.

The aggregator waits for what moves. A transfer moves with its bytes; training, which knows no percent, with the
processor time that the trainer has used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_LARGEST = (1 << 53) - 1


@dataclass(slots=True)
class Pulse:
    """The work of one round. One thread reports, another reads; ``trainer`` is any number that grows while it works."""

    round: int
    trainer: Callable[[], int]
    stage: str = "download"
    percent: int = 0
    _reports: int = 0
    _told: tuple[str, int, int] = field(default=("", -1, -1))

    def report(self, stage: str, percent: int) -> None:
        """Something moved."""
        self.stage, self.percent = stage, percent
        self._reports += 1

    def news(self, *, coarse: bool) -> dict[str, Any] | None:
        """A ``progress`` document if anything moved since the last one; ``coarse``: a new stage or quarter at least."""
        stage, percent = self.stage, self.percent
        beat = min(self._reports + self.trainer(), _LARGEST)
        told_stage, told_percent, told_beat = self._told
        is_new = (stage, percent // 25) != (told_stage, told_percent // 25)
        if not is_new and (coarse or (percent, beat) == (told_percent, told_beat)):
            return None
        self._told = stage, percent, beat
        return {"type": "progress", "round": self.round, "stage": stage, "percent": percent, "beat": beat}
