"""Rooms above the console offer commands by an entry point; none takes the place of ours, and none can break it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console.main import build_app

ROOT = Path(__file__).parents[2]


def offer(folder: Path, lines: str) -> None:
    """An installed package in ``folder`` that offers these commands, and the module ``offered``."""
    info = folder / "offered-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[cloister.commands]\n{lines}\n")
    module = (
        'import typer\napp = typer.Typer(help="Offered.")\n@app.command()\ndef hello() -> None:\n    print("hello")\n'
    )
    (folder / "offered.py").write_text(module + "@app.command()\ndef bye() -> None:\n    print('bye')\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_installed_command_is_offered(installed: Path) -> None:
    offer(installed, "offered = offered:app")
    assert CliRunner().invoke(build_app(), ["offered", "hello"]).stdout == "hello\n"


@pytest.mark.parametrize("line", ["demo = offered:app", "site-policy = offered:app"])
def test_no_installed_command_takes_the_place_of_ours(installed: Path, line: str) -> None:
    offer(installed, line)
    result = CliRunner().invoke(build_app(), [line.split(" ")[0], "hello"])
    assert "hello\n" not in result.stdout


@pytest.mark.parametrize("line", ["offered = nowhere.at_all:app", "offered = offered.missing:app"])
def test_a_command_whose_module_is_missing_is_not_offered(installed: Path, line: str) -> None:
    offer(installed, line)
    assert "Offered" not in CliRunner().invoke(build_app(), ["--help"]).stdout


def test_the_package_offers_simulate() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["cloister.commands"] == {"simulate": "simulations.command:app"}


def test_help_imports_nothing_heavy() -> None:
    seen = "import sys, simulations.command, console.main; console.main.build_app(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "flwr", "matplotlib", "pyarrow", "scipy", "ray"} & set(modules)
