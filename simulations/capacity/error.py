"""How far predictions were from deployed rounds, which is said with each. Trust zone: the developer's machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Error:
    """Of ``python -m benchmarks capacity``: by what factor predictions were off.

    Attributes:
        median, worst: of the round's time.
        memory_worst: of the peaks of aggregator and host.
        measured: what was measured.
    """

    median: float
    worst: float
    memory_worst: float
    measured: str

    @property
    def says(self) -> str:
        """One sentence for people."""
        return (
            f"Error: against {self.measured} predictions were off by a factor of {self.median:.1f} in the median and "
            f"{self.worst:.1f} at worst, either way (memory {self.memory_worst:.1f}). Other sizes, several hosts and "
            "real links were not measured."
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "median_factor": self.median,
            "worst_factor": self.worst,
            "memory_worst_factor": self.memory_worst,
            "measured": self.measured,
        }


ERROR = Error(1.2, 1.4, 1.2, "rounds of 2 to 64 workers with 1 to 100 MB, on two idle cores,")
