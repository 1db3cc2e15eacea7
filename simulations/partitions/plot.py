"""Who has what, drawn with matplotlib. Trust zone: the developer's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulations.partitions.picture import Holdings

_NAMED = 30  # sites or labels that can be read beside each other
_ROWS = 400  # of a picture; more sites than that share them


def drawn(held: Holdings) -> Figure:
    """Sites by size from above; on the left each label's part of a site's rows, on the right how many these are.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("pictures are drawn with matplotlib: pip install 'cloister[simulate]'") from None
    order = np.argsort(-held.sizes, kind="stable")
    if len(order) > _ROWS:
        order = order[np.linspace(0, len(order) - 1, _ROWS).round().astype(int)]
    sizes = held.sizes[order]
    figure = Figure(figsize=(9, min(2 + 0.22 * len(order), 8)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    shares = held.counts[order] / sizes[:, np.newaxis]
    image = left.imshow(shares, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=left, label="part of the site's rows")
    if len(held.labels) <= _NAMED:
        left.set_xticks(range(len(held.labels)), held.labels)
    if len(order) <= _NAMED:
        left.set_yticks(range(len(order)), [held.names[site] for site in order])
    else:
        left.set_yticks([])
    left.set_xlabel("label")
    left.set_ylabel(f"{len(held.names):,} sites, the largest first")
    if len(order) <= _NAMED:
        right.barh(range(len(order)), sizes)
    else:
        right.fill_betweenx(range(len(order)), sizes, step="mid")
    right.set_xlim(left=0)
    right.set_xlabel("rows")
    return figure
