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
            f"Error: against {self.measured} predictions were too short by a factor of {self.median:.1f} in the median "
            f"and {self.worst:.1f} at worst (memory {self.memory_worst:.1f}, either way). Other sizes, several hosts "
            "and real links were not measured."
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "median_factor": self.median,
            "worst_factor": self.worst,
            "memory_worst_factor": self.memory_worst,
            "measured": self.measured,
        }


ERROR = Error(1.5, 2.4, 1.4, "rounds of 2 and 8 workers with 1 to 100 MB, on two cores that others used too,")
