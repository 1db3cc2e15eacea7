"""A minimum of rows for every site, met in one pass. Trust zone: the developer's machine."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulations.partition import Partition


def require_room(rows: int, sites: int, least: int) -> None:
    """``sites`` of at least ``least`` rows each can be had of ``rows``.

    Raises:
        ValueError: they cannot; the message says what to change.
    """
    if sites < 1 or least < 1:
        raise ValueError(f"partition: at least one site and one row for each expected, not {sites} and {least}")
    if sites * least > rows:
        raise ValueError(
            f"partition: {sites} sites of at least {least} rows need {sites * least}, and there are {rows}: "
            f"ask for at most {rows // least} sites, or for fewer rows at least"
        )


def with_least(owner: NDArray[np.int64], sites: int, least: int, rng: Generator) -> Partition:
    """The partition in which row ``i`` is of site ``owner[i]``, after sites with too few took rows of the largest.

    The largest are cut down to one size, and no further than it takes; which of their rows go is drawn.
    """
    sizes = np.bincount(owner, minlength=sites)
    lacking = np.maximum(least - sizes, 0)
    if lacking.any():
        owner = owner.copy()
        given = rng.permutation(_given(owner, sizes, _cut(sizes, int(lacking.sum())), rng))
        owner[given] = np.repeat(np.arange(sites), lacking)
    return Partition.by_owner(owner, sites)


def _cut(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """How many rows each site gives, together ``wanted``, so that the largest that is left is as small as can be."""
    descending = np.sort(sizes)[::-1]
    freed = np.cumsum(descending) - descending * np.arange(1, len(sizes) + 1)  # by a cut down to this site's size
    donors = int(np.searchsorted(freed, wanted))
    level = (int(descending[:donors].sum()) - wanted) // donors
    give = np.maximum(sizes - level, 0)
    spare = int(give.sum()) - wanted  # fewer than there are donors: the first of them keep one row more
    give[np.flatnonzero(give)[:spare]] -= 1
    return give


def _given(
    owner: NDArray[np.int64], sizes: NDArray[np.int64], give: NDArray[np.int64], rng: Generator
) -> NDArray[np.int64]:
    """Rows, ``give[i]`` of each site ``i``, at random."""
    order = np.lexsort((rng.random(len(owner)), owner))
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[place < np.repeat(give, sizes)]
