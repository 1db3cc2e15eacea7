"""Who has what, counted and as text. Trust zone: the developer's machine."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulations.dataset import Dataset
from simulations.partition import Partition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHADES = " ▁▂▃▄▅▆▇█"
_MOST_LABELS = 40  # columns of a terminal


@dataclass(frozen=True, slots=True)
class Holdings:
    """``counts``, int64[sites, labels]: rows of each label at each site; without labels there is one, ``rows``."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each site has."""
        total: NDArray[np.int64] = self.counts.sum(axis=1)
        return total

    def text(self, most_sites: int = 20) -> str:
        """For terminals: a line for each site, or for ``most_sites`` from the largest to the smallest, and a last one.

        Each label is one character wide, and as high as its part of the site's rows.
        """
        sizes, labels = self.sizes, self.labels[:_MOST_LABELS]
        shown = np.arange(len(sizes))
        if len(sizes) > most_sites:
            by_size = np.argsort(-sizes, kind="stable")
            shown = by_size[np.linspace(0, len(sizes) - 1, most_sites).round().astype(int)]
        shares = self.counts[shown][:, : len(labels)] / np.maximum(sizes[shown], 1)[:, np.newaxis]
        width = max(4, *(len(self.names[site]) for site in shown))
        lines = [f"{'site':{width}}  {'rows':>9}  labels {labels[0]} to {labels[-1]}"]
        for site, row in zip(shown, shares, strict=True):
            bars = "".join(_SHADES[int(np.ceil(share * (len(_SHADES) - 1)))] for share in row)
            lines.append(f"{self.names[site]:{width}}  {sizes[site]:>9,}  {bars}")
        return "\n".join((*lines, self._summary(len(shown))))

    def _summary(self, shown: int) -> str:
        sizes = self.sizes
        few, middle, many = np.quantile(sizes, (0.05, 0.5, 0.95)).round().astype(int)
        each = np.count_nonzero(self.counts, axis=1)
        more = f"{len(sizes):,} sites, {shown} shown" if shown < len(sizes) else f"{len(sizes):,} sites"
        return (
            f"{more}; rows: {sizes.sum():,}, a site {sizes.min():,} to {sizes.max():,} "
            f"(5 % {few:,}, half {middle:,}, 95 % {many:,}); labels a site: {each.min()} to {each.max()}, "
            f"{each.mean():.1f} on average"
        )

    def figure(self) -> Figure:
        """The same as a picture, for matplotlib: labels by site, and sizes."""
        from simulations.partitions.plot import drawn

        return drawn(self)

    def _repr_png_(self) -> bytes | None:
        """For notebooks; None, and so the plain text, without matplotlib."""
        try:
            drawn = self.figure()
        except RuntimeError:
            return None
        file = BytesIO()
        drawn.savefig(file, format="png")
        return file.getvalue()

    def save(self, path: Path | str) -> None:
        """:meth:`figure` as a file; its ending says which format (png, svg, pdf)."""
        self.figure().savefig(path)


def holdings(partition: Partition, dataset: Dataset) -> Holdings:
    """What each site of ``partition`` has of ``dataset``."""
    if not dataset.label:
        return Holdings(partition.names, ("rows",), partition.sizes[:, np.newaxis])
    found, places = dataset.labels()
    owner = np.repeat(np.arange(len(partition)), partition.sizes)
    cells = np.bincount(owner * len(found) + places[partition.order], minlength=len(partition) * len(found))
    return Holdings(partition.names, tuple(map(str, found.tolist())), cells.reshape(len(partition), len(found)))
