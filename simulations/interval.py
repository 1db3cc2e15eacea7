"""How sure a mean over seeds is. Trust zone: the developer's machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of ``count`` figures, and half the width of its interval by Student's t; one figure has no interval."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, figures: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
        """The interval that holds the true mean with ``confidence``, were the figures drawn from a normal law.

        Raises:
            ValueError: no figure.
        """
        if not figures:
            raise ValueError("interval: at least one figure expected")
        count = len(figures)
        mean = math.fsum(figures) / count
        if count == 1 or not math.isfinite(mean):
            return cls(mean, None, count)
        from scipy.stats import t  # slow to import

        deviation = math.sqrt(math.fsum((figure - mean) ** 2 for figure in figures) / (count - 1))
        half = float(t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
        return cls(mean, half, count)

    def __str__(self) -> str:
        from simulations.table import show

        if self.half is None:
            return show(self.mean)
        if not math.isfinite(self.half) or self.half == 0:
            return f"{show(self.mean)} ± {show(self.half)}"
        digits = max(0, 1 - math.floor(math.log10(self.half)))  # of the half width two count
        return (
            f"{self.mean:.{digits}f} ± {self.half:.{digits}f}" if digits < 7 else f"{show(self.mean)} ± {self.half:.1e}"
        )
