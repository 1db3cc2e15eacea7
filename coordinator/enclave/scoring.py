"""What a table of binned scores says of a model: AUC, confusion, calibration. Trust zone: aggregator TEE. Pure numbers.

A table is int64[bins, 2]: rows by the bin of their score, NEGATIVE and POSITIVE. From 100 bins and more the binning
costs little, and how much at most is told beside each figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from trusted.tables import NEGATIVE, POSITIVE, Counts

_Z = 1.96
_RANGES = 10


@dataclass(frozen=True, slots=True)
class Auc:
    """The area under the ROC curve of a table.

    Attributes:
        value: the chance that a positive row has a higher bin than a negative one, ties counted half.
        bound: by how much the exact AUC of the unbinned scores may differ, at most: half the share of pairs in one bin.
        standard_error: of sampling the rows (Hanley and McNeil, 1982).
    """

    value: float
    bound: float
    standard_error: float

    @classmethod
    def of(cls, table: Counts) -> Auc:
        """Of a table with at least one row of each class.

        Raises:
            ValueError: a class is empty.
        """
        negatives, positives = (int(count) for count in table.sum(axis=0))
        if not negatives or not positives:
            raise ValueError("AUC of one class alone")
        below = np.cumsum(table[:, NEGATIVE]) - table[:, NEGATIVE]
        pairs = negatives * positives
        tied = sum(int(p) * int(n) for n, p in table) / pairs  # exact: counts may be large
        value = sum(int(p) * int(b) for p, b in zip(table[:, POSITIVE], below, strict=True)) / pairs + tied / 2
        return cls(value, tied / 2, _hanley_mcneil(value, positives, negatives))

    def to_json(self, digits: int) -> dict[str, Any]:
        """Rounded; the bound is rounded up, so that it stays one."""
        step = 10.0**-digits
        bound = round(np.ceil(self.bound / step) * step, digits) if digits else float(np.ceil(self.bound))
        spread = _Z * self.standard_error
        interval = [max(0.0, self.value - spread), min(1.0, self.value + spread)]
        return {
            "auc": round(self.value, digits),
            "auc_binning_error_at_most": float(bound),
            "auc_95": [round(edge, digits) for edge in interval],
        }


def _hanley_mcneil(value: float, positives: int, negatives: int) -> float:
    q1, q2 = value / (2 - value), 2 * value * value / (1 + value)
    spread = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    return sqrt(max(0.0, spread) / (positives * negatives))


@dataclass(frozen=True, slots=True)
class Confusion:
    """What a threshold makes of a table, in rows."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @classmethod
    def of(cls, table: Counts, threshold_bin: int) -> Confusion:
        """Rows of ``threshold_bin`` and above are predicted positive."""
        above, below = table[threshold_bin:].sum(axis=0), table[:threshold_bin].sum(axis=0)
        return cls(int(above[POSITIVE]), int(above[NEGATIVE]), int(below[NEGATIVE]), int(below[POSITIVE]))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The four of them."""
        return self.true_positives, self.false_positives, self.true_negatives, self.false_negatives

    def rates(self, digits: int) -> dict[str, float]:
        """Sensitivity and specificity, predictive values, and the share predicted positive; no count is zero."""
        tp, fp, tn, fn = self.counts
        rates = {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "positive_predictive_value": tp / (tp + fp),
            "negative_predictive_value": tn / (tn + fn),
            "predicted_positive": (tp + fp) / sum(self.counts),
        }
        return {name: round(rate, digits) for name, rate in rates.items()}


def calibration_error(table: Counts) -> float:
    """The expected calibration error over ten equal ranges of scores, or over as many bins as there are if fewer.

    Each bin stands for its middle: within 1 / (2 bins) of the error of the scores themselves.
    """
    bins = len(table)
    rows, middles = table.sum(axis=1), (np.arange(bins) + 0.5) / bins
    ranges = np.minimum(np.arange(bins) * _RANGES // bins, _RANGES - 1)
    apart = np.bincount(ranges, weights=table[:, POSITIVE] - rows * middles)
    return float(np.abs(apart).sum() / rows.sum())


def mean_score(table: Counts) -> float:
    """The mean score, each bin standing for its middle."""
    rows, middles = table.sum(axis=1), (np.arange(len(table)) + 0.5) / len(table)
    return float((rows * middles).sum() / rows.sum())
