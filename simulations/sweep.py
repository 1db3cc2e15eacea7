"""A grid of settings, each with several seeds, over processes. Trust zone: the developer's machine.

A point is what its settings say, and its file is named by their digest. Each is written whole as soon as it is there:
an interruption loses what was under way and nothing else, and the next run goes on from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from console.files import write_file
from console.output import UserError

Settings = Mapping[str, Any]
Measure = Callable[[Settings], Mapping[str, float]]
"""From the settings of one point, ``seed`` among them, to its figures by name."""
SEED = "seed"
_VERSION = 1
_POINTS = "points"


@dataclass(frozen=True, slots=True)
class Point:
    """One finished simulation: its settings, what it found, and how long it took."""

    settings: Settings
    figures: Mapping[str, float]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in its file; a figure that is not finite is null."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {
            "schema_version": _VERSION,
            "settings": dict(self.settings),
            "figures": figures,
            "seconds": self.seconds,
        }

    @classmethod
    def read(cls, path: Path) -> Point:
        """What a sweep wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            figures = {name: math.nan if value is None else float(value) for name, value in record["figures"].items()}
            return cls(dict(record["settings"]), figures, float(record["seconds"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            hint = "Take it away: the sweep will make that point again."
            raise UserError(f"{path}: no point of a sweep", hint) from None


_Todo = Sequence[tuple[dict[str, Any], Path]]
Told = Callable[[int, int, Point | None], None]
"""How many points are there, of how many, and the newest; None: found there already."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """``grid``: the settings to vary, each with its values; ``base``: what all points share; each with every seed.

    ``measure`` must be a function of a module where more than one process is used: each imports it by its name.
    ``fresh``: each point in a process of its own, where memory is measured.
    """

    measure: Measure
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int] = (0,)
    base: Settings = field(default_factory=dict)
    fresh: bool = False

    def __post_init__(self) -> None:
        empty = next((name for name, values in self.grid.items() if not len(values)), None)
        if empty is not None or not self.seeds:
            raise ValueError(f"sweep: at least one value expected for {empty or SEED}")
        if SEED in self.grid or SEED in self.base:
            raise ValueError("sweep: seeds are given as seeds, not among the settings")

    def points(self) -> Iterator[dict[str, Any]]:
        """The settings of every point, the seed turning fastest."""
        for values in itertools.product(*self.grid.values()):
            for seed in self.seeds:
                yield {**self.base, **dict(zip(self.grid, values, strict=True)), SEED: seed}

    def run(self, folder: str | Path, *, processes: int | None = None, told: Told | None = None) -> Swept:
        """All points, those in ``folder`` taken from there, the others measured and put there.

        Raises:
            ValueError: fewer than one process, or a setting that JSON does not have.
            UserError: a file in ``folder`` is no point. OSError: it cannot be written.
            KeyboardInterrupt: what is finished stays in ``folder``.
        """
        processes = (os.cpu_count() or 1) if processes is None else processes
        if processes < 1:
            raise ValueError(f"sweep: at least one process expected, not {processes}")
        todo, points = [], []
        for settings in self.points():
            path = self._path(Path(folder), settings)
            if path.exists():
                points.append(Point.read(path))
            else:
                todo.append((settings, path))
        total, failures = len(points) + len(todo), []
        if told is not None and points:
            told(len(points), total, None)
        for measured, found in self._measured(todo, min(processes, len(todo))):
            if isinstance(found, Point):
                points.append(found)
            else:
                failures.append((measured, found))
            if told is not None:
                told(len(points) + len(failures), total, found if isinstance(found, Point) else None)
        order = {_digest(self.measure, settings): place for place, settings in enumerate(self.points())}
        points.sort(key=lambda point: order[_digest(self.measure, point.settings)])
        return Swept(tuple(self.grid), tuple(points), tuple(failures))

    def _measured(self, todo: _Todo, processes: int) -> Iterator[tuple[Settings, Point | str]]:
        measure = self.measure
        if not todo or (processes == 1 and not self.fresh):
            for settings, path in todo:
                yield settings, _point(measure, settings, path)
            return
        if "<" in measure.__qualname__ or measure.__module__ == "__main__":
            raise ValueError(f"sweep: {measure.__qualname__} cannot be found from other processes; give processes=1")
        before = set(multiprocessing.active_children())
        spawn, tasks = multiprocessing.get_context("spawn"), 1 if self.fresh else None
        pool = ProcessPoolExecutor(processes, spawn, initializer=_begin, max_tasks_per_child=tasks)
        try:
            waiting: dict[Future[Point | str], Settings] = {
                pool.submit(_point, measure, settings, path): settings for settings, path in todo
            }
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), _outcome(future)
            pool.shutdown()
        except BaseException:  # Ctrl-C, or nobody listens any more: what is under way is given up
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            raise

    def _path(self, folder: Path, settings: Settings) -> Path:
        return folder / _POINTS / f"{_digest(self.measure, settings)[:32]}.json"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found. ``varied``: the settings of the grid; ``failures``: why a point could not be measured."""

    varied: tuple[str, ...]
    points: tuple[Point, ...]
    failures: tuple[tuple[Settings, str], ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the figures, in the order in which they first appear."""
        return list(dict.fromkeys(name for point in self.points for name in point.figures))

    def groups(self) -> dict[tuple[Any, ...], list[Point]]:
        """The points of each setting of the grid, all seeds together; the key has a value for each of ``varied``."""
        found: dict[str, tuple[tuple[Any, ...], list[Point]]] = {}
        for point in self.points:
            values = tuple(point.settings[name] for name in self.varied)
            found.setdefault(json.dumps(values), (values, []))[1].append(point)
        return {_hashable(values): points for values, points in found.values()}


def _hashable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value if isinstance(value, str | int | float | None) else json.dumps(value) for value in values)


def _digest(measure: Measure, settings: Settings) -> str:
    """Of the function's name and the settings; floats and whole numbers of one value are the same."""
    try:
        text = json.dumps([_name(measure), dict(settings)], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("sweep: settings of text, finite numbers, lists and objects expected") from None
    return hashlib.sha256(text.encode()).hexdigest()


def _name(measure: Measure) -> str:
    return f"{measure.__module__}:{measure.__qualname__}"


def _outcome(future: Future[Point | str]) -> Point | str:
    try:
        return future.result()
    except Exception as error:  # a process that died takes its point with it, and says nothing itself
        return f"{type(error).__name__}: the process ended before its point was there (too little memory?)"


def _begin() -> None:
    """In each process: Ctrl-C is the parent's matter, and processes do not fight for cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"


def _point(measure: Measure, settings: dict[str, Any], path: Path) -> Point | str:
    """Measure and write one point, or say why not: the others go on."""
    started = time.perf_counter()
    try:
        figures = {name: float(value) for name, value in measure(dict(settings)).items()}
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    point = Point(settings, figures, time.perf_counter() - started)
    write_file(path, (json.dumps(point.to_json(), indent=1, allow_nan=False) + "\n").encode(), force=True)
    return point
