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


def add_inner_products(total: Gram, rows: NDArray[np.float32]) -> None:
    """``total`` += the inner products of ``rows``, float32[K, n], each sum by halves in float64."""
    count, width = rows.shape
    wide = np.zeros((count, 1 << max(0, width - 1).bit_length()))
    wide[:, :width] = rows
    products = np.empty_like(wide)
    with np.errstate(invalid="ignore"):  # NaN and infinity show on the diagonal
        for place in range(count):
            part = np.multiply(wide[place:], wide[place], out=products[place:])
            size = wide.shape[1]
            while size > 1:
                size //= 2
                part[:, :size] += part[:, size : 2 * size]
            total[place, place:] += part[:, 0]
            total[place + 1 :, place] = total[place, place + 1 :]


def by_weight(weights: Sequence[int]) -> Shares:
    """Each by its part of all weights."""
    total = float(sum(weights))
    return np.array([weight / total for weight in weights])


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

    Weiszfeld's algorithm from the mean, smoothed as by Pillutla et al. 2022: in each iteration an update's share is
    the inverse of its distance from the last point, or of ``smoothing`` where it is nearer.
    """
    count = len(gram)
    shares = np.full(count, 1.0 / count)
    for _ in range(iterations):
        products = _summed(gram * shares[:, np.newaxis])
        distances = gram.diagonal() - 2.0 * products + _summed(products * shares)
        inverse = 1.0 / np.maximum(np.sqrt(np.maximum(distances, 0.0)), smoothing)
        shares = inverse / _summed(inverse)
    return shares


def _scores(gram: Gram, byzantine: int) -> NDArray[np.float64]:
    squares = gram.diagonal()
    distances = np.maximum(squares[:, np.newaxis] + squares - 2.0 * gram, 0.0)  # rounding alone makes one negative
    np.fill_diagonal(distances, 0.0)
    nearest = sort_rows(list(distances))[1 : max(1, len(gram) - byzantine - 2) + 1]  # the first is itself, or as near
    return _summed(np.array(nearest))


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
