"""Rules that sort the numbers at each place. Trust zone: aggregator TEE. Pure: no I/O.

Sorting is a network: which rows meet is fixed by their number alone, and what happens to them is a minimum and a
maximum. So neither a branch nor an address depends on what is sorted, as in no other sort of :mod:`numpy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]
AnyRow = NDArray[np.floating]


@lru_cache(maxsize=64)
def network(count: int) -> tuple[tuple[int, int], ...]:
    """The comparators (lower place, higher place) of Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M)."""
    return tuple(_comparators(count))


def _comparators(count: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(0, (count - 1).bit_length() - 1)
    width = top
    while width > 0:
        size, residue, distance = top, 0, width
        while True:
            yield from ((at, at + distance) for at in range(count - distance) if at & width == residue)
            if size == width:
                break
            size, residue, distance = size // 2, width, size - width
        width //= 2


def sort_rows(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """``rows``, arrays of one length, sorted place by place: the first holds the smallest. They are overwritten.

    None of them holds NaN.
    """
    ordered = list(rows)
    spare: AnyRow = np.empty_like(ordered[0])
    for low, high in network(len(ordered)):
        np.minimum(ordered[low], ordered[high], out=spare)
        np.maximum(ordered[low], ordered[high], out=ordered[high])
        ordered[low], spare = spare, ordered[low]
    return ordered


def median(rows: Sequence[AnyRow], out: Row) -> None:
    """``out`` = the middle number at each place; of an even number of rows, the mean of the middle two."""
    middle = (len(rows) - 1) // 2
    _mean_of(sort_rows(rows)[middle : len(rows) - middle], out)


def trimmed_mean(trim: int, rows: Sequence[AnyRow], out: Row) -> None:
    """``out`` = the mean at each place without the ``trim`` smallest and the ``trim`` largest numbers."""
    _mean_of(sort_rows(rows)[trim : len(rows) - trim], out)


def _mean_of(rows: Sequence[AnyRow], out: Row) -> None:
    """In float64, in order, so that two of the largest float32 have a mean."""
    np.copyto(out, rows[0])
    for row in rows[1:]:
        out += row
    out /= len(rows)
