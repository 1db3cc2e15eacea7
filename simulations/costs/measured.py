"""One thing measured again and again on one core. Trust zone: the developer's machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LEAST_RUNS = 5
_MOST_RUNS = 20_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """How long ``runs`` repetitions of one thing took, each in seconds.

    Attributes:
        what: the thing, in words.
        cost_table_ms: what attestation.md, section 3, gives for it; None where it says nothing.
    """

    what: str
    seconds: tuple[float, ...]
    cost_table_ms: float | None = None

    @property
    def per_second(self) -> float:
        """Runs in a second of one core."""
        return len(self.seconds) / sum(self.seconds)

    @property
    def median_ms(self) -> float:
        """Half of the runs were faster."""
        return 1e3 * statistics.median(self.seconds)

    @property
    def p95_ms(self) -> float:
        """One run in twenty was slower."""
        return 1e3 * sorted(self.seconds)[int(0.95 * (len(self.seconds) - 1))]

    def row(self) -> tuple[str, str, str, str, str]:
        """For the table."""
        figures = (f"{self.per_second:.1f}", f"{self.median_ms:.3f}", f"{self.p95_ms:.3f}", str(len(self.seconds)))
        return (self.what, *figures)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "what": self.what,
            "per_second_and_core": round(self.per_second, 2),
            "median_ms": round(self.median_ms, 4),
            "p95_ms": round(self.p95_ms, 4),
            "runs": len(self.seconds),
            "cost_table_ms": self.cost_table_ms,
        }


def measure(what: str, run: Callable[[], object], seconds: float, *, cost_table_ms: float | None = None) -> Measurement:
    """Repeat ``run`` for ``seconds``, after once to warm up, on this thread alone."""
    run()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < _LEAST_RUNS or (time.perf_counter() < until and len(taken) < _MOST_RUNS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return Measurement(what, tuple(taken), cost_table_ms)
