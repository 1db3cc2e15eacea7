"""Rules that weigh whole updates, by their inner products alone. Trust zone: aggregator TEE. Pure: no I/O.

Each makes one share for each update, together 1, of the Gram matrix float64[K, K]. What is done does not depend on the
numbers: choices are sums of comparisons, sorting is by a network, iterations are as many as the plan says. No sum is
left to a library, whose order differs from one processor to another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.enclave.fold.sorting import sort_rows

Gram = NDArray[np.float64]
Shares = NDArray[np.float64]


_SUMS = 1 << 18  # elements in which the products of all pairs are added up, unless that makes the columns too few
_FEWEST_COLUMNS = 128


class InnerProducts:
    """Adds up the inner products of updates, some columns of all of them at a time. Each lane has its own.

    A product is added to those of the same column of earlier blocks, and the columns are added up at the end: sums of
    few terms each, and as many operations as without.
    """

    def __init__(self, count: int) -> None:
        self.columns = 1 << max(_FEWEST_COLUMNS, _SUMS // count**2).bit_length() - 1
        self._sums = [np.zeros((count - place, self.columns)) for place in range(count)]
        self._wide, self._products = np.zeros((count, self.columns)), np.empty((count, self.columns))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Count ``rows``, float32[K, up to ``columns``]."""
        width = rows.shape[1]
        self._wide[:, :width], self._wide[:, width:] = rows, 0.0
        with np.errstate(invalid="ignore"):  # NaN and infinity show on the diagonal
            for place, sums in enumerate(self._sums):
                sums += np.multiply(self._wide[place:], self._wide[place], out=self._products[place:])

    def take(self) -> Gram:
        """What was counted, float64[K, K]; from here on it counts anew."""
        count = len(self._sums)
        total = np.empty((count, count))
        with np.errstate(invalid="ignore"):
            for place, sums in enumerate(self._sums):
                size = self.columns
                while size > 1:
                    size //= 2
                    sums[:, :size] += sums[:, size : 2 * size]
                total[place, place:] = total[place:, place] = sums[:, 0]
                sums[:] = 0.0
        return total


def krum(gram: Gram, byzantine: int) -> Shares:
    """All for the one update that lies closest to most others (Blanchard et al. 2017); weights play no part.

    Its score is the sum of its squared distances to the K - ``byzantine`` - 2 nearest others; the lowest wins, among
    equals the first.
    """
    return _lowest(_scores(gram, byzantine), 1)


def multi_krum(gram: Gram, byzantine: int, kept: int, weights: Sequence[int]) -> Shares:
    """The ``kept`` updates with the lowest scores of :func:`krum`, each by its part of their weights."""
    chosen: Shares = _lowest(_scores(gram, byzantine), kept) * np.array(weights, dtype=np.float64)
    chosen /= _summed(chosen)
    return chosen


def geometric_median(gram: Gram, iterations: int, smoothing: float) -> Shares:
    """The point with the least sum of distances to all updates; each counts alike, whatever it weighs.

    Weiszfeld's algorithm, smoothed as by Pillutla et al. 2022: in each iteration an update's share is the inverse of
    its distance from the last point, or of ``smoothing`` where it is nearer. From the mean it would take too long where
    a false update is enormous; so it starts with shares by how near half of the others are, which less than half of all
    cannot feign.
    """
    half = _nearest(gram)[len(gram) // 2]
    shares: Shares = 1.0 / np.maximum(half, smoothing**2)
    shares /= _summed(shares)
    for _ in range(iterations):
        products = _summed(gram * shares[:, np.newaxis])
        distances = gram.diagonal() - 2.0 * products + _summed(products * shares)
        inverse = 1.0 / np.maximum(np.sqrt(np.maximum(distances, 0.0)), smoothing)
        shares = inverse / _summed(inverse)
    return shares


def _scores(gram: Gram, byzantine: int) -> NDArray[np.float64]:
    return _summed(_nearest(gram)[1 : max(1, len(gram) - byzantine - 2) + 1])


def _nearest(gram: Gram) -> NDArray[np.float64]:
    """Squared distances of each update (column) from all, sorted: the first is from itself, 0."""
    squares = gram.diagonal()
    distances = np.maximum(squares[:, np.newaxis] + squares - 2.0 * gram, 0.0)  # rounding alone makes one negative
    np.fill_diagonal(distances, 0.0)
    return np.array(sort_rows(list(distances)))


def _lowest(scores: NDArray[np.float64], count: int) -> Shares:
    """1 for the ``count`` lowest, the first among equals, and 0 for others."""
    places = np.arange(len(scores))
    lower = scores[:, np.newaxis] > scores
    earlier = (scores[:, np.newaxis] == scores) & (places[:, np.newaxis] > places)
    rank: NDArray[np.int64] = np.count_nonzero(lower | earlier, axis=1)
    return (rank < count).astype(np.float64)


def _summed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the first axis, in its order."""
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total += row
    return total
