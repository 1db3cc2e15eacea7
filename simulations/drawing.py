"""How every figure looks, and matplotlib only when one is drawn. Trust zone: the developer's machine.

Figures are made without pyplot: nothing is global, no window opens, and a thousand of them leave no memory behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.files import write_file
from console.output import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's: told apart by colour-blind readers, and in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*"
_SUFFIXES = (".png", ".svg", ".pdf")
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "cloister",  # the same figure, the same bytes
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that a notebook shows by itself and :meth:`save` writes."""

    figure: Figure

    def save(self, path: str | Path) -> Path:
        """Write it as PNG, SVG or PDF, by its suffix, over what was there.

        Raises:
            UserError: another suffix. OSError: it cannot be written.
        """
        path = Path(path)
        if path.suffix not in _SUFFIXES:
            raise UserError(f"{path}: a figure is written as {', '.join(_SUFFIXES)}", "Give its name such a suffix.")
        write_file(path, self._bytes(path.suffix[1:]), force=True)
        return path

    def _repr_png_(self) -> bytes:
        return self._bytes("png")

    def _bytes(self, format: str) -> bytes:
        import matplotlib

        out = BytesIO()
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(out, format=format, dpi=150, metadata=undated)
        return out.getvalue()


def draw(panels: int, *, columns: int = 3, width: float = 3.6, height: float = 2.7) -> tuple[Picture, list[Axes]]:
    """An empty figure of ``panels`` axes, at most ``columns`` side by side; sizes are of one panel, in inches.

    Raises:
        UserError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        message = "figures need matplotlib, which is not here: pip install 'cloister[simulate]'"
        raise UserError(message, "Or go on without figures: tables and files need nothing more.") from None
    across = max(1, min(panels, columns))
    down = -(-panels // across)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * across, height * down), layout="constrained")
        axes = [figure.add_subplot(down, across, place + 1) for place in range(panels)]
    return Picture(figure), axes


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def explain(axis: Axes, *, room: float = 1.25, columns: int = 2) -> None:
    """A legend above the lines, on an axis from 0 with ``room`` for it."""
    axis.set_ylim(0, max(axis.get_ylim()[1], 1e-9) * room)
    axis.legend(loc="upper left", ncols=columns, frameon=False, fontsize=8, columnspacing=1.2, handlelength=1.4)


def colour(place: int) -> str:
    """The colour of the series at ``place``; they repeat after the eighth."""
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    """The marker of the series at ``place``."""
    return MARKERS[place % len(MARKERS)]
