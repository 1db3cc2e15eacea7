"""A sweep measures each point once, keeps what is finished whatever happens, and goes on from there."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from console.output import UserError
from simulations.sweep import Point, Sweep
from simulations.sweep_shown import plot, table_of
from tests.simulations.points import squared

REPOSITORY = Path(__file__).parents[2]


def calls(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "trace").mkdir()
    return tmp_path / "trace"


def test_every_setting_is_measured_with_every_seed(tmp_path: Path) -> None:
    swept = Sweep(squared, {"x": [1, 2, 3], "y": ["a", "b"]}, seeds=(0, 1)).run(tmp_path, processes=1)
    assert len(swept.points) == 12
    assert [point.settings["seed"] for point in swept.points[:3]] == [0, 1, 0]
    assert swept.points[-1].figures == {"square": 9.01}
    assert set(swept.groups()) == {(x, y) for x in (1, 2, 3) for y in "ab"}


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    sweep = Sweep(squared, {"x": [3, 1, 2]}, seeds=(5, 4))
    one = sweep.run(tmp_path / "one", processes=1)
    two = sweep.run(tmp_path / "two", processes=2)
    assert [point.figures for point in one.points] == [point.figures for point in two.points]
    assert [point.settings for point in one.points] == [point.settings for point in two.points]


def test_what_is_finished_is_not_measured_again(tmp_path: Path, trace: Path) -> None:
    told: list[tuple[int, int]] = []
    base = {"trace": str(trace)}
    Sweep(squared, {"x": [1, 2]}, base=base).run(tmp_path, processes=1)
    assert calls(trace) == 2
    more = Sweep(squared, {"x": [1, 2, 3]}, base=base)
    swept = more.run(tmp_path, processes=1, told=lambda done, total, _: told.append((done, total)))
    assert calls(trace) == 3
    assert told == [(2, 3), (3, 3)]
    assert [point.settings["x"] for point in swept.points] == [1, 2, 3]


def test_another_function_or_setting_is_another_point(tmp_path: Path) -> None:
    Sweep(squared, {"x": [1]}).run(tmp_path, processes=1)
    Sweep(squared, {"x": [1]}, base={"more": True}).run(tmp_path, processes=1)
    Sweep(lambda settings: {"square": 0.0}, {"x": [1]}).run(tmp_path, processes=1)
    assert calls(tmp_path / "points") == 3


def test_a_point_that_fails_is_told_and_tried_again(tmp_path: Path, trace: Path) -> None:
    sweep = Sweep(squared, {"x": [1, "fails", 2]}, base={"trace": str(trace)})
    for run in (1, 2):
        swept = sweep.run(tmp_path, processes=1)
        assert [point.settings["x"] for point in swept.points] == [1, 2]
        assert [why for _, why in swept.failures] == ["ValueError: x: a number expected"]
        assert calls(trace) >= 3, run
    assert any("x: a number expected" in note for note in table_of(swept).notes)


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    swept = Sweep(squared, {"x": ["dies"]}, seeds=(0, 1)).run(tmp_path, processes=2)
    assert not swept.points
    assert len(swept.failures) == 2
    assert all("ended before its point" in why for _, why in swept.failures)


def test_ctrl_c_ends_at_once_and_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    """Points of half a second in two processes; interrupted after the first, finished by the next run."""
    code = (
        "from simulations.sweep import Sweep\n"
        "from tests.simulations.points import squared\n"
        "if __name__ == '__main__':\n"
        f"    Sweep(squared, {{'x': list(range(8))}}, base={{'seconds': 0.7}}).run({str(tmp_path)!r}, processes=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    running = subprocess.Popen(
        [sys.executable, script],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    points = tmp_path / "points"
    until = time.monotonic() + 60
    while not (points.is_dir() and any(points.glob("*.json"))):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: all processes of the group
    begun = time.monotonic()
    _, said = running.communicate(timeout=20)
    assert time.monotonic() - begun < 10
    assert running.returncode != 0
    assert b"KeyboardInterrupt" in said
    finished = {path: path.stat().st_mtime_ns for path in points.iterdir()}
    assert 0 < len(finished) < 8
    assert all(path.suffix == ".json" for path in finished)
    swept = Sweep(squared, {"x": list(range(8))}, base={"seconds": 0.7}).run(tmp_path, processes=2)
    assert [point.figures["square"] for point in swept.points] == [float(x * x) for x in range(8)]
    assert finished.items() <= {path: path.stat().st_mtime_ns for path in points.iterdir()}.items()


def test_a_file_that_is_no_point_is_said_to_be(tmp_path: Path) -> None:
    Sweep(squared, {"x": [1]}).run(tmp_path, processes=1)
    for path in (tmp_path / "points").iterdir():
        path.write_text("{}")
    with pytest.raises(UserError, match="no point of a sweep"):
        Sweep(squared, {"x": [1]}).run(tmp_path, processes=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": {"x": []}}, "at least one value expected for x"),
        ({"seeds": ()}, "at least one value expected for seed"),
        ({"grid": {"seed": [1]}}, "seeds are given as seeds"),
    ],
)
def test_a_grid_that_is_none_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sweep(squared, **({"grid": {"x": [1]}} | changes))  # type: ignore[arg-type]


def test_what_other_processes_cannot_import_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give processes=1"):
        Sweep(lambda settings: {"x": 1.0}, {"x": [1, 2]}).run(tmp_path, processes=2)


def test_settings_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    for value in (math.nan, object()):
        with pytest.raises(ValueError, match="text, finite numbers"):
            Sweep(squared, {"x": [value]}).run(tmp_path, processes=1)


def test_a_figure_that_is_not_finite_reads_back_as_nan(tmp_path: Path) -> None:
    swept = Sweep(lambda settings: {"loss": math.inf}, {"x": [1]}).run(tmp_path, processes=1)
    (path,) = (tmp_path / "points").iterdir()
    assert math.isnan(Point.read(path).figures["loss"])
    assert swept.points[0].figures["loss"] == math.inf


def test_the_table_has_means_with_their_intervals_and_how_many(tmp_path: Path) -> None:
    swept = Sweep(squared, {"x": [1, 2]}, seeds=(0, 1, 2)).run(tmp_path, processes=1)
    table = table_of(swept)
    assert table.headings == ("x", "square", "n")
    assert table.rows[1] == (2, "4.010 ± 0.025", 3)
    assert "Student's t" in table.notes[0]


def test_the_figure_has_a_line_for_each_other_setting(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    swept = Sweep(squared, {"rule": ["mean", "median"], "x": [0.1, 1, 10]}, seeds=(0, 1)).run(tmp_path, processes=1)
    figure = plot(swept).figure
    (axis,), (legend,) = figure.axes, figure.legends
    assert axis.get_xlabel() == "x"
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in legend.get_texts()] == ["mean", "median"]
    with pytest.raises(ValueError, match="nothing was varied along z"):
        plot(swept, along="z")
