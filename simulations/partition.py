"""Which site has which rows. Trust zone: the developer's machine.

Kept as one array of rows, site after site, or as none where they lie so already: ten thousand sites cost what their
rows cost and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows of the dataset, site after site; site ``i`` has ``starts[i]:starts[i + 1]`` of them.

    ``_order``, int64[rows], says which they are; None where they are the first of the dataset, as they lie there: that
    costs nothing, however many they are. ``names`` are what a plan would call the sites: cohorts are drawn and updates
    folded by them, as in production.
    """

    _order: NDArray[np.int64] | None
    starts: NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self._order is not None and _is_as_it_lies(self._order, self.starts):
            object.__setattr__(self, "_order", None)

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.int64]], names: Sequence[str] = ()) -> Partition:
        """From the rows of each site; without ``names`` they are ``site-0000`` and so on.

        Raises:
            ValueError: no site, a site without rows, or names that are not one for each and all different.
        """
        starts, given = _starts_and_names([len(part) for part in parts], names)
        return cls(np.concatenate(parts).astype(np.int64, copy=False), starts, given)

    @classmethod
    def consecutive(cls, sizes: Sequence[int], names: Sequence[str] = ()) -> Partition:
        """The first ``sizes[0]`` rows of the dataset are the first site's, and so on; ``names`` as for :meth:`of`.

        Raises:
            ValueError: as :meth:`of`.
        """
        return cls(None, *_starts_and_names(sizes, names))

    @classmethod
    def by_owner(cls, owner: NDArray[np.int64], sites: int, names: Sequence[str] = ()) -> Partition:
        """From the place of each row's site; ``names`` as for :meth:`of`. A site's rows stand in the dataset's order.

        Raises:
            ValueError: as :meth:`of`.
        """
        order = np.argsort(owner, kind="stable")
        return cls.of(np.split(order, np.cumsum(np.bincount(owner, minlength=sites))[:-1]), names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lies_in_order(self) -> bool:
        """Whether its rows are the first of the dataset, as they lie there."""
        return self._order is None

    @property
    def order(self) -> NDArray[np.int64]:
        """All rows, int64[rows], site after site."""
        return np.arange(self.starts[-1]) if self._order is None else self._order

    def rows(self, site: int) -> NDArray[np.int64]:
        """Rows of the site at this place."""
        start, end = self.starts[site], self.starts[site + 1]
        return np.arange(start, end) if self._order is None else self._order[start:end]

    def fits(self, rows: int) -> bool:
        """Whether a dataset of so many ``rows`` has all that the sites have."""
        if self._order is None:
            return self.size <= rows
        return bool(0 <= self._order.min() <= self._order.max() < rows)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each site has."""
        return np.diff(self.starts)

    @property
    def size(self) -> int:
        """How many rows all sites have."""
        return int(self.starts[-1])


def _starts_and_names(sizes: Sequence[int], names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if not len(sizes):
        raise ValueError("partition: at least one site expected")
    given = tuple(names) or tuple(f"site-{place:04d}" for place in range(len(sizes)))
    if len(given) != len(sizes) or len(set(given)) != len(given):
        raise ValueError(f"partition: {len(sizes)} different names expected")
    counted = np.asarray(sizes, dtype=np.int64)
    if counted.min() < 1:
        raise ValueError(f"partition: {given[int(np.argmin(counted))]} has no rows; every site needs at least one")
    return np.concatenate(([0], np.cumsum(counted))), given


def _is_as_it_lies(order: NDArray[np.int64], starts: NDArray[np.int64]) -> bool:
    """Whether ``order`` counts from 0: looked at site by site, in little memory, and no further than it does."""
    return all(
        np.array_equal(order[start:end], np.arange(start, end)) for start, end in pairwise(starts.tolist())
    ) and len(order) == int(starts[-1])
