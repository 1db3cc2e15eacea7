"""How fast bytes go through one stage. Trust zone: the developer's machine."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

_GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """How long each repetition of one stage took, in seconds, for ``size_bytes`` of payload each time."""

    what: str
    size_bytes: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Gigabytes (decimal) a second; half of the runs were faster."""
        return self.size_bytes / statistics.median(self.seconds) / _GIGABYTE

    @property
    def best(self) -> float:
        """Gigabytes a second of the fastest run: on a shared machine, the one that others disturbed least."""
        return self.size_bytes / min(self.seconds) / _GIGABYTE

    def row(self) -> tuple[str, ...]:
        """For the table."""
        return (self.what, f"{self.median:.2f}", f"{self.best:.2f}", str(len(self.seconds)))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "what": self.what,
            "gb_per_s_median": round(self.median, 3),
            "gb_per_s_best": round(self.best, 3),
            "size_bytes": self.size_bytes,
            "runs": len(self.seconds),
        }
