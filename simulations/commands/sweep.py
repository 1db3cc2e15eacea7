"""``cloister simulate sweep``. Trust zone: the developer's machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from console.output import Report, UserError
from simulations.app_settings import AppSettings, measure_app
from simulations.commands.telling import keep, show_table
from simulations.progress import shown
from simulations.sweep import Point, Sweep
from simulations.sweep_shown import plot, table_of

_NOTHING = "none"
_TRUTHS = {"true": True, "false": False}


def run_sweep(
    report: Report,
    places: tuple[Path, Sequence[Path], Path],
    settings: tuple[Sequence[str], Sequence[str]],
    seeds: Sequence[int],
    *,
    processes: int | None,
    shown_as: tuple[Sequence[str], str],
) -> None:
    """Sweep and tell. ``places``: app, data, out; ``settings``: what varies, and what is the same for all.

    Raises:
        ValueError, UserError, OSError: in one sentence, what does not fit.
    """
    (folder, data, out), (vary, fixed), (figures, along) = places, settings, shown_as
    grid = dict(_varied(text) for text in vary)
    base = {"app": str(folder), "data": list(map(str, data)), "engine": "in-process", "evaluate_every": 0}
    base |= {name: values[0] for name, values in (_varied(text) for text in fixed)}
    AppSettings.of(base | {name: values[0] for name, values in grid.items()}).divided(seeds[0])  # told before it starts
    sweep = Sweep(measure_app, grid, tuple(seeds), {name: value for name, value in base.items() if name not in grid})
    with shown("Sweeping") as told:

        def heard(done: int, total: int, point: Point | None) -> None:
            told(done, total, "" if point is None else _said(point, grid))

        swept = sweep.run(out, processes=processes, told=heard)
    table = table_of(swept, figures, title=f"{len(swept.points)} simulations of {folder.name}")
    show_table(report, table)
    report.data |= table.to_json() | {"points": [point.to_json() for point in swept.points]}
    report.data["failed"] = [{"settings": dict(settings), "why": why} for settings, why in swept.failures]
    picture = plot(swept, figures, along=along) if swept.points else None
    keep(report, out, table, picture, {"base": base, "grid": grid, "seeds": list(seeds)})
    if swept.failures:
        hint = "The others are kept: run the same command again to try these once more."
        raise UserError(f"{len(swept.failures)} point(s) failed; the first: {swept.failures[0][1]}", hint)


def _said(point: Point, grid: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(point.settings[name])}" for name in grid)


def _varied(text: str) -> tuple[str, list[Any]]:
    """``rule=median krum``: the setting and its values, each of the type that the setting has."""
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    defaults = {field.name: field.default for field in fields(AppSettings)}
    if not equals or name not in defaults or not rest.split():
        there = ", ".join(sorted(defaults))
        raise UserError(f"--vary {text!r}: setting=value expected", f"Settings are {there}.")
    return name, [_value(name, defaults[name], word) for word in rest.split()]


def _value(name: str, default: Any, word: str) -> Any:
    if isinstance(default, tuple):
        return [] if word == _NOTHING else [word]
    if isinstance(default, bool):
        if word not in _TRUTHS:
            raise UserError(f"--vary {name}: {word} is neither true nor false", "Write true, false, or both.")
        return _TRUTHS[word]
    if isinstance(default, int | float):
        try:
            return type(default)(word)
        except ValueError:
            raise UserError(f"--vary {name}: {word} is no number", "Write numbers, with spaces between.") from None
    return word
