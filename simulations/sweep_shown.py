"""A sweep as a table and as a figure, means over seeds with their intervals. Trust zone: the developer's machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulations.drawing import Picture, colour, draw, marker
from simulations.interval import CONFIDENCE, Interval
from simulations.sweep import Point, Swept
from simulations.table import Cell, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def table_of(swept: Swept, names: Sequence[str] = (), *, title: str = "") -> Table:
    """A row for each setting of the grid: means over the seeds, ± half of the 95 % interval, and how many seeds."""
    shown = list(names) or swept.names
    rows: list[tuple[Cell, ...]] = []
    for values, points in swept.groups().items():
        intervals = [interval(points, name) for name in shown]
        rows.append((*map(_cell, values), *(None if found is None else str(found) for found in intervals), len(points)))
    return Table(title, (*swept.varied, *shown, "n"), tuple(rows), _notes(swept))


def plot(swept: Swept, names: Sequence[str] = (), *, along: str = "") -> Picture:
    """A panel for each figure: means with their intervals along one setting, a line for each value of the others.

    ``along`` is the setting of the x axis; if not told, the first one of numbers, or else the first.

    Raises:
        ValueError: nothing was varied, or ``along`` was not. UserError: matplotlib is not installed.
    """
    if not swept.varied or (along and along not in swept.varied):
        raise ValueError(f"sweep: nothing was varied along {along or 'anything'}; there is {', '.join(swept.varied)}")
    shown = list(names) or swept.names
    groups = swept.groups()
    place = swept.varied.index(along) if along else _best_axis(list(groups))
    picture, axes = draw(len(shown), height=3.0, width=4.2)
    for axis, name in zip(axes, shown, strict=True):
        _panel(axis, groups, name, place)
        axis.set_xlabel(swept.varied[place])
        axis.set_title(name)
    others = [name for other, name in enumerate(swept.varied) if other != place]
    if others and axes:
        handles, labels = axes[0].get_legend_handles_labels()
        picture.figure.legend(
            handles, labels, title=", ".join(others), loc="outside right upper", frameon=False, fontsize=8
        )
    return picture


def interval(points: Sequence[Point], name: str) -> Interval | None:
    """Of one figure over the seeds; None where no point has it."""
    figures = [point.figures[name] for point in points if name in point.figures]
    return Interval.of(figures) if figures else None


def _notes(swept: Swept) -> tuple[str, ...]:
    notes = [f"Means over n seeds, ± half of the {CONFIDENCE:.0%} interval (Student's t)."]
    notes += [f"Failed: {json.dumps(dict(settings))}: {why}" for settings, why in swept.failures[:5]]
    if len(swept.failures) > 5:
        notes.append(f"… and {len(swept.failures) - 5} more failed.")
    return tuple(notes)


def _cell(value: Any) -> Cell:
    return value if isinstance(value, str | int | float | None) else json.dumps(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _best_axis(keys: Sequence[tuple[Any, ...]]) -> int:
    for place in range(len(keys[0]) if keys else 0):
        values = {key[place] for key in keys}
        if len(values) > 1 and all(map(_number, values)):
            return place
    return 0


def _panel(axis: Axes, groups: dict[tuple[Any, ...], list[Point]], name: str, place: int) -> None:
    series: dict[tuple[Any, ...], list[tuple[Any, Interval]]] = {}
    for key, points in groups.items():
        found = interval(points, name)
        if found is not None and math.isfinite(found.mean):
            series.setdefault((*key[:place], *key[place + 1 :]), []).append((key[place], found))
    values = list(dict.fromkeys(key[place] for key in groups))
    numeric = all(map(_number, values))
    if numeric and _spread(values):
        axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
        axis.minorticks_off()
    for number, (key, pairs) in enumerate(series.items()):
        if numeric:
            pairs = sorted(pairs, key=lambda pair: float(pair[0]))
        xs = [x if numeric else values.index(x) + 0.06 * (number - (len(series) - 1) / 2) for x, _ in pairs]
        axis.errorbar(
            xs,
            [found.mean for _, found in pairs],
            [found.half or 0.0 for _, found in pairs],
            color=colour(number),
            marker=marker(number),
            linestyle="-" if numeric else "",
            capsize=2,
            label=", ".join(map(str, key)) or None,
        )
    axis.ticklabel_format(axis="y", useOffset=False)
    if not numeric:
        axis.set_xticks(range(len(values)), [str(value) for value in values], rotation=20, ha="right", fontsize=8)
        axis.set_xlim(-0.5, len(values) - 0.5)


def _spread(values: Sequence[Any]) -> bool:
    """Whether they are spread so wide that only a logarithm shows them."""
    return len(values) > 2 and min(values) > 0 and max(values) / min(values) >= 20
