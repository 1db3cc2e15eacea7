"""Count tables of one site: all that an evaluation sends, of a size that the plan fixes (docs/evaluation.md).

Trust zone: every TEE. A worker counts its rows into them, the aggregator reads and adds them. No row, score or loss is
in them: only how many rows of a class fell into a bin. As they travel, every count has four bytes, so that their length
tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trusted.documents.terms import Evaluation
from trusted.errors import Reason, RoundError

Counts = NDArray[np.int64]
NEGATIVE, POSITIVE = 0, 1
NOT_TRAINED_ON, TRAINED_ON = 0, 1
_COUNT = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Tables:
    """How many rows of each class fell into each bin.

    Attributes:
        scores: int64[bins, 2], held-out rows by the bin of their score: NEGATIVE, POSITIVE.
        cells: of each subgroup of the plan the same for each of its cells, int64[cells, bins, 2].
        audits: int64[bins, 2] for the loss threshold and for the shadow attack, rows NOT_TRAINED_ON and TRAINED_ON by
            the bin of their attack score; all zero where the attack did not run. Empty if the plan asks for no audit.
    """

    scores: Counts = field(repr=False)
    cells: tuple[Counts, ...] = field(repr=False)
    audits: tuple[Counts, ...] = field(repr=False)

    @property
    def rows(self) -> int:
        """How many held-out rows they count."""
        return int(self.scores.sum())

    def encode(self) -> bytes:
        """``terms.counts`` numbers of four bytes, little-endian: scores, cells by subgroup, audits."""
        parts = (self.scores, *self.cells, *self.audits)
        return np.concatenate([part.reshape(-1) for part in parts]).astype(_COUNT).tobytes()

    @classmethod
    def decode(cls, data: bytes, terms: Evaluation, *, max_rows: int) -> Tables:
        """The tables that a site sent, which may be lying.

        1. They have the plan's size; a negative count cannot be spelled. 2. No class counts more than ``max_rows``: one
        site must not outweigh all others. 3. The cells of each subgroup are the rows of all scores, bin by bin.
        4. The audits are about no other rows.

        Raises:
            RoundError: TABLES_FORM, TABLES_CONTRADICT.
        """
        if len(data) != terms.counts * _COUNT.itemsize:
            raise RoundError(Reason.TABLES_FORM, "evaluated.tables: not of the size that plan.evaluation fixes")
        flat = np.frombuffer(data, dtype=_COUNT).astype(np.int64)
        shapes = [1, *(len(subgroup.cells) for subgroup in terms.subgroups), *([] if terms.audit is None else [1, 1])]
        starts = np.cumsum([2 * terms.bins * cells for cells in shapes])[:-1]
        parts = [part.reshape(-1, terms.bins, 2) for part in np.split(flat, starts)]
        among = len(terms.subgroups) + 1
        tables = cls(parts[0][0], tuple(parts[1:among]), tuple(part[0] for part in parts[among:]))
        tables._require_consistent(max_rows)
        return tables

    def _require_consistent(self, max_rows: int) -> None:
        if any(part.sum() > 2 * max_rows for part in (self.scores, *self.audits)) or self.rows > max_rows:
            raise _contradiction("more rows than plan.aggregation.max_weight")
        if any(not np.array_equal(cells.sum(axis=0), self.scores) for cells in self.cells):
            raise _contradiction("the cells of a subgroup are not all rows")
        if self.audits:
            loss, shadow = (audit.sum(axis=0) for audit in self.audits)
            if loss.any() and loss[NOT_TRAINED_ON] != self.rows:
                raise _contradiction("the audit is not about the rows that were judged")
            if (shadow > loss).any():
                raise _contradiction("the shadow attack is about other rows than the loss threshold")


def _contradiction(rule: str) -> RoundError:
    return RoundError(Reason.TABLES_CONTRADICT, f"evaluated.tables: {rule}")


def bin_of(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of each value from 0 to 1; the last one holds its upper edge as well."""
    return np.minimum((values * bins).astype(np.int64), bins - 1)


def counted(where: NDArray[np.int64], of_class: NDArray[np.int64], bins: int) -> Counts:
    """int64[bins, 2]: how many rows of each class (0 or 1) fell into each bin."""
    return np.bincount(2 * where + of_class, minlength=2 * bins).astype(np.int64).reshape(bins, 2)
