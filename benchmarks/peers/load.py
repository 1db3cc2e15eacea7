"""What every peer is asked to carry, and what it reports. Trust zone: the developer's machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BYTES_OF_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Load:
    """Rounds without training: each worker takes the model, adds its own number to it, and gives it back.

    Attributes:
        workers: each in processes of its own.
        megabytes: of the model, float32, decimal.
        rounds: warm ones; a first one is run before and not counted.
        timeout_s: after which a whole run has failed.
    """

    workers: int
    megabytes: float
    rounds: int
    timeout_s: float

    @property
    def elements(self) -> int:
        """Parameters of the model."""
        return round(self.megabytes * 1e6 / _BYTES_OF_FLOAT32)

    def __str__(self) -> str:
        return f"{self.workers} x {self.megabytes:g} MB"

    @property
    def payload_mb(self) -> float:
        """What a round moves, framing left out: the model down to each worker and up from it."""
        return 2 * self.workers * self.megabytes


@dataclass(frozen=True, slots=True)
class Rounds:
    """What one run of a peer took.

    Attributes:
        version: of the peer that ran.
        round_s: the warm rounds, in seconds, from one aggregated model to the next.
        server_peak_mb: peak resident memory of each server process, decimal MB, by its role.
        details: further figures of that peer alone.
    """

    version: str
    round_s: tuple[float, ...]
    server_peak_mb: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        """Half of the warm rounds were faster."""
        return statistics.median(self.round_s)

    @property
    def server_mb(self) -> float:
        """All server processes together."""
        return sum(self.server_peak_mb.values())


class PeerFailed(Exception):
    """A peer could not be installed or did not do its rounds. ``log`` holds the last lines that it wrote."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.log = log


def last_lines(*paths: Path, lines: int = 12) -> str:
    """The ends of log files, each under its name."""
    parts = []
    for path in paths:
        if path.exists():
            end = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.name}", *end]))
    return "\n".join(parts)
