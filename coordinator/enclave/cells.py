"""Which statistics may be told, so that none that may not can be computed from them. Trust zone: aggregator TEE.

Rules:

1. A statistic stands on counts (of the positive and negative rows of a cell, or of its confusion). It may be told only
   if ``min_sites`` sites have rows in it, and each count is at least ``min_cell``: also for any one site, which can
   subtract its own rows from what is told.
2. Cells are parts of a whole that is told. What is hidden of them together is the whole minus what is told, so anybody
   can compute it: hidden cells together must be tellable as well, or the smallest one that is left is hidden too.
3. If the whole may not be told, nothing is.

No rule protects against what is known from elsewhere, nor against two columns of which one nearly follows from the
other (docs/evaluation.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trusted.tables import Counts


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what a statistic must stand on. ``from_insiders``: rule 1 holds for what each site knows of itself, too."""

    min_cell: int
    min_sites: int
    from_insiders: bool = True

    def allow(self, by_site: Counts) -> bool:
        """Whether a statistic may be told that stands on ``by_site``, int64[sites, counts]."""
        whole = by_site.sum(axis=0)
        sites = int((by_site.sum(axis=1) > 0).sum())
        if sites < self.min_sites or (whole < self.min_cell).any():
            return False
        return not self.from_insiders or bool((whole - by_site >= self.min_cell).all())


def told_cells(cells: Counts, bounds: Bounds, *, hidden: frozenset[int] = frozenset()) -> frozenset[int]:
    """The places of the cells that may be told, of int64[cells, sites, counts] that make up a whole that is told.

    ``hidden`` are not told for another reason. Empty, and the whole may not be told either, if ``bounds`` forbid that.
    """
    everything = frozenset(range(len(cells)))
    if not bounds.allow(cells.sum(axis=0)):
        return frozenset()
    kept = hidden | {place for place in everything if not bounds.allow(cells[place])}
    while kept and kept != everything and not bounds.allow(cells[sorted(kept)].sum(axis=0)):
        kept |= {min(everything - kept, key=lambda place: (int(cells[place].sum()), place))}
    return everything - kept


def groups(by_bin: Counts, bounds: Bounds, *, wanted: int) -> list[slice]:
    """Neighbouring bins of int64[bins, sites, counts] joined into at most ``wanted`` groups, each of which may be told.

    No group is hidden: one that may not be told is joined to its neighbour. Empty if not even all bins together may be.
    """
    bins = len(by_bin)
    if not bounds.allow(by_bin.sum(axis=0)):
        return []
    edges = [0]
    for edge in sorted({round(bins * part / wanted) for part in range(1, wanted)}):
        if edge > edges[-1] and bounds.allow(by_bin[edges[-1] : edge].sum(axis=0)):
            edges.append(edge)
    while len(edges) > 1 and not bounds.allow(by_bin[edges[-1] :].sum(axis=0)):
        edges.pop()
    return [slice(low, high) for low, high in zip(edges, [*edges[1:], bins], strict=True)]


def rounded(count: int, base: int) -> int:
    """``count`` to the nearest multiple of ``base``, halves to even multiples."""
    return int(np.rint(count / base)) * base
