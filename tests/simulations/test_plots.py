"""Figures have a panel for each thing there is, are the same bytes twice, and are one sentence without matplotlib."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from console.output import UserError
from simulations.plots import plot
from tests.simulations.results import result, row

matplotlib = pytest.importorskip("matplotlib")


def test_there_is_a_panel_for_each_thing() -> None:
    figure = plot(result()).figure
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
        "accuracy, on rows of no site",
        "losses and other figures",
        "privacy spent, ε",
        "sealed megabytes",
        "sites in the round",
        "seconds here, by stage",
    ]


def test_what_no_round_has_has_no_panel() -> None:
    bare = tuple(row(number, epsilon=None, evaluated={}, reported={}) for number in (1, 2))
    figure = plot(replace(result(), rounds=bare)).figure
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
        "sealed megabytes",
        "sites in the round",
        "seconds here, by stage",
    ]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_figure_is_the_same_bytes_twice(tmp_path: Path, suffix: str) -> None:
    one = result().plot().save(tmp_path / f"one{suffix}").read_bytes()
    assert one == result().plot().save(tmp_path / f"two{suffix}").read_bytes()
    assert len(one) > 1000


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a figure is written as"):
        result().plot().save(tmp_path / "figure.bmp")


def test_a_notebook_shows_a_figure() -> None:
    assert result().plot()._repr_png_().startswith(b"\x89PNG")


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'cloister\[simulate\]'"):
        result().plot()


def test_importing_results_imports_neither_matplotlib_nor_torch() -> None:
    seen = "import sys, simulations.result, simulations.round_table, simulations.plots; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "torch", "flwr", "ray"} & set(modules)
