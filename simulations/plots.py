"""What a simulation's rounds look like: metrics, ε, bytes, cohort, time. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulations.drawing import Picture, colour, draw, explain, marker, whole_numbers
from simulations.result import Result
from simulations.round_table import metrics_of, reported_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEGABYTE = 1e6
_MARKED = 40  # points with a marker; more would be a band
Panel = Callable[[Result, "Axes"], None]


def plot(result: Result) -> Picture:
    """One panel for each thing there is to see, against the round's number.

    Raises:
        UserError: matplotlib is not installed.
    """
    panels = _panels(result)
    picture, axes = draw(len(panels))
    for panel, axis in zip(panels, axes, strict=True):
        panel(result, axis)
        axis.set_xlabel("round")
        whole_numbers(axis.xaxis)
    return picture


def _panels(result: Result) -> list[Panel]:
    scales = {name: _bounded(result, name) for name in metrics_of(result.rounds)}
    panels: list[Panel] = []
    if any(scales.values()):
        panels.append(lambda result, axis: _metrics(result, axis, [name for name, within in scales.items() if within]))
    unbounded = [name for name, within in scales.items() if not within]
    if unbounded or reported_of(result.rounds):
        panels.append(lambda result, axis: _others(result, axis, unbounded))
    if any(row.epsilon is not None for row in result.rounds):
        panels.append(_epsilon)
    return [*panels, _bytes, _cohort, _time]


def _bounded(result: Result, name: str) -> bool:
    """Whether it is a share: accuracies and areas, which read best on one scale, and losses on another."""
    return "loss" not in name and all(0 <= row.evaluated.get(name, 0.0) <= 1 for row in result.rounds)


def _line(axis: Axes, result: Result, values: list[float | None], place: int, label: str = "") -> None:
    pairs = [(row.number, value) for row, value in zip(result.rounds, values, strict=True) if value is not None]
    style = marker(place) if len(pairs) <= _MARKED else ""
    axis.plot([x for x, _ in pairs], [y for _, y in pairs], color=colour(place), marker=style, label=label or None)


def _metrics(result: Result, axis: Axes, names: list[str]) -> None:
    for place, name in enumerate(names):
        _line(axis, result, [row.evaluated.get(name) for row in result.rounds], place, name)
    axis.set_title("the model, on rows of no site" if len(names) > 1 else f"{names[0]}, on rows of no site")
    if len(names) > 1:
        axis.legend(frameon=False, fontsize=8)


def _others(result: Result, axis: Axes, names: list[str]) -> None:
    shown = [(name, [row.evaluated.get(name) for row in result.rounds]) for name in names]
    shown += [
        (f"sites' {name}", [row.reported.get(name) for row in result.rounds]) for name in reported_of(result.rounds)
    ]
    for place, (name, values) in enumerate(shown):
        _line(axis, result, values, place, name)
    axis.set_title("losses and other figures")
    axis.legend(frameon=False, fontsize=8)


def _epsilon(result: Result, axis: Axes) -> None:
    _line(axis, result, [row.epsilon for row in result.rounds], 3)
    axis.set_title("privacy spent, ε")
    axis.set_ylim(bottom=0)


def _bytes(result: Result, axis: Axes) -> None:
    _line(axis, result, [row.bytes_down / _MEGABYTE for row in result.rounds], 0, "down")
    _line(axis, result, [row.bytes_up / _MEGABYTE for row in result.rounds], 1, "up")
    axis.set_title("sealed megabytes")
    explain(axis)


def _cohort(result: Result, axis: Axes) -> None:
    _line(axis, result, [len(row.drawn) for row in result.rounds], 5, "drawn")
    _line(axis, result, [len(row.counted) for row in result.rounds], 2, "counted")
    axis.set_title("sites in the round")
    explain(axis)
    whole_numbers(axis.yaxis)


def _time(result: Result, axis: Axes) -> None:
    stages = list(dict.fromkeys(stage for row in result.rounds for stage in row.wall_s))
    numbers = [row.number for row in result.rounds]
    if stages:
        parts = [[row.wall_s.get(stage, 0.0) for row in result.rounds] for stage in stages]
        colours = [colour(place) for place in range(len(stages))]
        axis.stackplot(numbers, parts, labels=stages, colors=colours, alpha=0.8)
    if any(row.virtual_s for row in result.rounds):
        twin = axis.twinx()
        twin.plot(numbers, [row.virtual_s for row in result.rounds], color="black", linestyle=":")
        twin.set_ylabel("virtual s (dotted)")
        twin.set_ylim(0, 1.45 * max(row.virtual_s for row in result.rounds))
        twin.grid(visible=False)
        twin.spines["right"].set_visible(True)
    axis.set_title("seconds here, by stage")
    explain(axis, room=1.45, columns=3)
