"""Which site has which rows. Trust zone: the developer's machine.

Kept as one array of rows, site after site, so that ten thousand sites cost what their rows cost and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Partition:
    """``order``, int64[rows]: rows of the dataset, site after site; site ``i`` has ``starts[i]:starts[i + 1]`` of it.

    ``names`` are what a plan would call the sites: cohorts are drawn and updates folded by them, as in production.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.int64]], names: Sequence[str] = ()) -> Partition:
        """From the rows of each site; without ``names`` they are ``site-0000`` and so on.

        Raises:
            ValueError: no site, a site without rows, or names that are not one for each and all different.
        """
        if not parts:
            raise ValueError("partition: at least one site expected")
        given = tuple(names) or tuple(f"site-{place:04d}" for place in range(len(parts)))
        if len(given) != len(parts) or len(set(given)) != len(given):
            raise ValueError(f"partition: {len(parts)} different names expected")
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        if not sizes.all():
            raise ValueError(f"partition: {given[int(np.argmin(sizes))]} has no rows; every site needs at least one")
        starts = np.concatenate(([0], np.cumsum(sizes)))
        return cls(np.concatenate(parts).astype(np.int64), starts, given)

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

    def rows(self, site: int) -> NDArray[np.int64]:
        """Rows of the site at this place, a view."""
        return self.order[self.starts[site] : self.starts[site + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each site has."""
        return np.diff(self.starts)
