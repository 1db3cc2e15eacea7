"""``cloister simulate`` as a person uses it: sentences, one JSON object, exit codes, and files in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulations.capacity.costs import Costs
from simulations.command import app
from simulations.result import Result
from simulations.scenarios.scenario import NAMES, find

APP = Path(__file__).parents[2] / "examples" / "rand_hie"
DATA = Path(__file__).parents[2] / "data" / "rand_hie"
COSTS = Costs(2e9, 2e9, 1e9, 1e9, 2e9, 2e9, 1e9, 1e9, 1e-3, 2)


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> dict[str, Any]:
        envelope = json.loads(self.stdout)
        assert envelope["status"] == "ok", self.stderr
        return dict(envelope["data"])

    @property
    def error(self) -> dict[str, str]:
        return dict(json.loads(self.stdout)["error"])


def simulate(*arguments: object, json_output: bool = True) -> Answer:
    texts = [str(argument) for argument in arguments] + (["--json"] if json_output else [])
    result = CliRunner().invoke(app, texts)
    return Answer(result.exit_code, result.stdout, result.stderr)


def test_an_app_is_simulated_and_everything_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    answer = simulate(
        *("app", APP, "--data", DATA, "--held-out", "all", "--rounds", 2, "--engine", "in-process"),
        *("--behaviour", "dropouts:site-3,chance=1", "--out", tmp_path / "out"),
        *("--save-settings", tmp_path / "settings.json"),
    )
    assert answer.code == 0
    data = answer.data
    assert [list(row["lost"]) for row in data["rounds"]] == [["site-3"]] * 2
    assert 0.6 < data["final"]["auc"] < 0.75
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("figure.png", "figure.svg", "rounds.parquet", "rounds.safetensors"),
        *("settings.json", "table.json", "table.txt"),
    }
    assert Result.read(tmp_path / "out" / "rounds.parquet").final == data["final"]
    assert json.loads((tmp_path / "settings.json").read_text())["terms"]["rounds"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("app", DATA, "--data", DATA), "no pyproject.toml"),
        (("app", APP, "--data", "nowhere.csv"), "nowhere.csv"),
        (("app", APP, "--data", APP), "has no .csv or .parquet file"),
        (("app", APP, "--data", DATA, "--label", "outcome"), "no column 'outcome'"),
        (("app", APP, "--data", DATA, "--partition", "dirichlet:0.1"), "label"),
        (("app", APP, "--data", DATA, "--partition", "random"), "there is none of this name"),
        (("app", APP, "--data", DATA, "--cohort", 7), "only 6"),
        (("app", APP, "--data", DATA, "--engine", "cloud"), "engine"),
        (("app", APP, "--data", DATA, "--held-out", "2"), "a share of the rows"),
        (("app", APP, "--data", DATA, "--rule", "krum"), "how many false sites"),
        (("app", APP, "--data", DATA, "--tracker", "wandb:x"), "no such tracker"),
        (("scenario", "nothing"), "there are digits, hospitals"),
        (("sweep", APP, "--data", DATA, "--vary", "rulez=median", "--out", "never"), "setting=value expected"),
        (("sweep", APP, "--data", DATA, "--vary", "rounds=few", "--out", "never"), "few is no number"),
        (("sweep", APP, "--data", DATA, "--vary", "admission=perhaps", "--out", "never"), "neither true nor false"),
        (("capacity", "--sites", 2, "--model-mb", 1, "--link", "string"), "figures such as"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_what_to_do(arguments: tuple[object, ...], said: str) -> None:
    answer = simulate(*arguments)
    assert answer.code == 1
    assert said in answer.error["message"]
    assert answer.error["code"] == "CLI-001"
    assert "\n" not in answer.error["message"]
    assert answer.error["hint"]
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ("", "does not describe a Flower app"),
        ('[tool.flwr.app.components]\nserverapp = "x.a:app"\nclientapp = "x.a:app"\n', "is not a ClientApp"),
    ],
)
def test_an_app_without_a_client_app_is_one_sentence(tmp_path: Path, components: str, said: str) -> None:
    project = '[project]\nname = "x"\nversion = "1"\n[tool.flwr.app]\npublisher = "x"\n'
    (tmp_path / "pyproject.toml").write_text(project + components)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.py").write_text("app = None\n")
    answer = simulate("app", tmp_path, "--data", DATA)
    assert answer.code != 0
    assert said in answer.error["message"]


def test_a_scenario_leaves_one_figure_and_one_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    answer = simulate("scenario", "digits", "--rounds", 1, "--out", tmp_path)
    assert answer.code == 0
    assert len(answer.data["rows"]) == 4
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"figure.png", "figure.svg", "settings.json", "table.json", "table.txt"}


def test_scenarios_are_listed_with_what_they_ask() -> None:
    found = {one["name"]: one["asks"] for one in simulate("scenario", "list").data["scenarios"]}
    assert tuple(found) == NAMES
    assert all(asks.endswith("?") for asks in found.values())
    assert all(find(name).name == name for name in NAMES)


def test_a_sweep_is_done_once_and_shown_with_intervals(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = (
        *("sweep", APP, "--data", DATA, "--set", "held_out=all", "--set", "rounds=1", "--seeds", 2),
        *("--vary", "rule=weighted-mean median", "--processes", 1, "--show", "auc", "--out", tmp_path),
    )
    first = simulate(*arguments)
    assert first.code == 0
    assert len(first.data["points"]) == 4
    assert "±" in first.data["rows"][0]["auc"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "points").iterdir()}
    assert simulate(*arguments).data["points"] == first.data["points"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "points").iterdir()} == written


def test_an_app_is_simulated_with_admission_and_gives_the_same(tmp_path: Path) -> None:
    arguments = ("app", APP, "--data", DATA, "--held-out", "all", "--rounds", 1, "--engine", "in-process")
    plain, admitted = simulate(*arguments).data, simulate(*arguments, "--admission").data
    assert admitted["final"] == plain["final"]
    assert plain["admission_s"] is None
    assert admitted["admission_s"] > 0
    assert admitted["settings"]["admission"]
    people = simulate(*arguments, "--admission", json_output=False)
    assert "All sites were attested and admitted" in people.stdout
    refused = simulate(*arguments, "--admission", "--partition", "by_column:female", "--cohort", 1)
    assert refused.code == 1
    assert "admission: no plan can be so: plan.cohort.minimum" in refused.error["message"]


def test_a_sweep_goes_over_admission(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("sweep", APP, "--data", DATA, "--set", "held_out=all", "--set", "rounds=1", "--seeds", 1)
    swept = simulate(*arguments, "--vary", "admission=false true", "--processes", 1, "--out", tmp_path)
    assert swept.code == 0
    one, other = swept.data["points"]
    assert one["figures"]["auc"] == other["figures"]["auc"]


def test_a_picture_says_who_has_what(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    answer = simulate("picture", "--data", DATA, "--label", "female", "--out", tmp_path / "who.png")
    assert [site["rows"] for site in answer.data["sites"]] == [1164, 1232, 731, 904, 786, 1090]
    assert (tmp_path / "who.png").stat().st_size > 1000


def test_a_capacity_is_told_with_its_error(tmp_path: Path) -> None:
    COSTS.save(tmp_path / "costs.json")
    arguments = ("capacity", "--sites", 10_000, "--model-mb", 70_000, "--costs", tmp_path / "costs.json")
    data = simulate(*arguments).data
    assert data["round_s"] > 86_400
    assert data["error"]["worst_factor"] >= 1
    people = simulate(*arguments, json_output=False)
    assert people.code == 0
    for words in ("A round takes about", "days", "Error:", "1,024 members", "aggregator", "host out"):
        assert words in people.stdout


def test_names_are_listed() -> None:
    data = simulate("names").data
    assert any(one["write"].startswith("dirichlet:alpha=") for one in data["partitions"])
    assert any(one["write"].startswith("sign_flip:SHARE") for one in data["behaviours"])
