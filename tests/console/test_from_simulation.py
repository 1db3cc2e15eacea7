"""What was simulated is carried over into the plan, and whatever a person gives goes before it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from console.simulated import PARQUET_KEY
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.result import Ending, Result
from simulations.simulation import Simulation
from simulations.tasks.app import App
from simulations.tasks.function import Function
from tests.console.conftest import Answer, Cloister, Consortium
from tests.simulations.results import row
from tests.worker.flower_apps import LAYOUT, write_app
from trusted.apps.arrays import split_vector
from trusted.documents.terms import MetricRule
from trusted.documents.terms.app import Change
from worker.trainer import join_arrays

ROWS = Dataset({"age": np.arange(6.0), "visits": np.arange(6)})
PARTS = Partition.of(np.split(np.arange(6), 3))
ADAM = {"optimizer": "adam", "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}


def simulated(folder: Path, **changes: Any) -> Simulation:
    app = App(
        write_app(folder / "simulated-app"),
        initial=split_vector(LAYOUT, np.zeros(LAYOUT.elements, "f4")),
        config={"step": 2.5, "note": "a:b=c"},
        train_config={"lr": 1.0},
        changes=(Change(3, (("lr", 0.5),)),),
        columns=("age", "visits"),
    )
    terms = {
        "rounds": 4,
        "cohort": 2,
        "minimum": 2,
        "aggregation": {"rule": "weighted-mean", "max_weight": 500, "server": ADAM, "proximal_mu": 0.25},
        "exchange": {"model": "bfloat16", "update": "int8", "tensors": ["w"]},
        "deadlines": {"round_s": 77},
        "metrics": [MetricRule("train-loss", 2, 4, 3)],
    }
    return Simulation(app, ROWS, PARTS, **(terms | changes))


def planned(folder: Consortium, cloister: Cloister, simulation: Simulation, *options: object) -> Answer:
    """``plan new`` from the saved settings, with what only people know."""
    simulation.save_settings(folder / "simulation.json")
    simulation.save_initial(folder / "initial.safetensors")
    said = ["--name", "visits", "--purpose", "Predict visits", "--recipient", "hospital-a"]
    files = ["--from-simulation", folder / "simulation.json", "--initial-model", folder / "initial.safetensors"]
    charter = ["--charter", folder / "charter.dsse.json", "--out", folder / "plan.dsse.json", "--force"]
    return cloister("plan", "new", *charter, *files, *said, *options)


WHY = ("--no-privacy-because", "all recipients are members")


def test_everything_that_a_plan_has_is_as_it_was_simulated(chartered: Consortium, cloister: Cloister) -> None:
    simulation = simulated(chartered.folder)
    answer = planned(chartered, cloister, simulation, *WHY)
    plan, terms = answer.data["plan"], simulation.settings["terms"]
    for name in ("rounds", "aggregation", "exchange", "deadlines", "metrics"):
        assert plan[name] == json.loads(json.dumps(terms[name])), name
    assert (plan["cohort"]["minimum"], plan["cohort"]["size"]) == (2, 2)
    assert plan["app"]["config"] == {"step": 2.5, "note": "a:b=c", "rounds": 3, "nested.depth": 2}
    assert plan["app"]["train_config"] == {"lr": 1}
    assert plan["app"]["changes"] == [{"from_round": 3, "train_config": {"lr": 0.5}}]
    assert plan["dataset"]["columns"] == ["age", "visits"]
    assert plan["privacy"] == {"mechanism": "none", "reason": WHY[1]}
    assert "rounds 4" in answer.data["simulated"]


def test_what_is_given_goes_before_what_was_simulated(chartered: Consortium, cloister: Cloister) -> None:
    given = (
        *("--rounds", 9, "--minimum", 3, "--size", 3, "--round-s", 66, "--lease-s", 55, "--rule", "median"),
        *("--update-encoding", "bfloat16", "--config", "step=3.5", "--train-config", "lr=2.5", "--metric", "auc:2:1"),
        *("--column", "age"),
    )
    plan = planned(chartered, cloister, simulated(chartered.folder), *WHY, *given).data["plan"]
    assert plan["rounds"] == 9
    assert (plan["cohort"]["minimum"], plan["cohort"]["size"]) == (3, 3)
    assert plan["deadlines"] == {
        "round_s": 66,
        "lease_s": 55,
        "reattest_s": 27,
    }  # what was simulated is too long for it
    assert plan["aggregation"] == {"rule": "median", "max_weight": 1_000_000}
    assert plan.get("exchange") == {"model": "float32", "update": "bfloat16", "tensors": []}
    assert plan["app"]["config"]["step"] == 3.5
    assert plan["app"]["config"]["note"] == "a:b=c"
    assert plan["app"]["train_config"] == {"lr": 2.5}
    assert [rule["name"] for rule in plan["metrics"]] == ["auc"]
    assert plan["dataset"]["columns"] == ["age"]


def test_a_cohort_of_all_sites_becomes_one_of_all_members(chartered: Consortium, cloister: Cloister) -> None:
    simulation = simulated(chartered.folder, cohort=None, minimum=None)
    plan = planned(chartered, cloister, simulation, *WHY).data["plan"]
    assert plan["cohort"] == {"members": ["bank-c", "hospital-a", "lab-b"], "minimum": 2, "size": 3}


def test_privacy_is_carried_over_and_its_absence_needs_a_reason(chartered: Consortium, cloister: Cloister) -> None:
    mechanism = {"mechanism": "member-clipping", "clip_norm": 1.5, "noise_multiplier": 2, "epsilon": 9, "delta": 1e-5}
    private = simulated(chartered.folder, privacy=mechanism, aggregation="weighted-mean")
    plan = planned(chartered, cloister, private).data["plan"]
    assert plan["privacy"] == mechanism
    assert plan["aggregation"] == {"rule": "weighted-mean", "max_weight": 1}
    without = planned(chartered, cloister, private, *WHY).data["plan"]
    assert without["privacy"]["mechanism"] == "none"


def test_without_a_mechanism_people_say_why(chartered: Consortium, cloister: Cloister) -> None:
    answer = planned(chartered, cloister, simulated(chartered.folder))
    assert "--no-privacy-because" in answer.error["message"]


def test_a_rule_too_large_for_the_members_is_told(chartered: Consortium, cloister: Cloister) -> None:
    simulation = simulated(chartered.folder, cohort=None, minimum=None, aggregation="median")
    answer = planned(chartered, cloister, simulation, *WHY, "--minimum", 2)
    assert "a round of only 2 updates would mean nothing to it" in answer.error["message"]
    assert planned(chartered, cloister, simulation, *WHY).data["plan"]["aggregation"]["rule"] == "median"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "neither JSON nor a result as Parquet"),
        ("[]", "not the settings of a simulation"),
        ('{"format": "cloister-simulation/v0"}', "not the settings of a simulation"),
        ('{"format": "cloister-simulation/v1", "terms": {}}', "lack their terms or their task"),
    ],
)
def test_what_is_no_simulation_is_told(chartered: Consortium, cloister: Cloister, text: str, sentence: str) -> None:
    made = simulated(chartered.folder)
    assert planned(chartered, cloister, made, *WHY).code == 0
    (chartered / "other.json").write_text(text)
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", chartered / "other.json")
    assert sentence in answer.error["message"]


def test_a_function_is_no_plans_app_and_a_saved_result_holds_its_settings(
    chartered: Consortium, cloister: Cloister
) -> None:
    def train(arrays: Any, rows: Any, rng: Any, config: Any) -> Any:
        return arrays, {}

    function = Simulation(Function(train, {"w": np.zeros(2, "f4")}), ROWS, PARTS, engine="in-process")
    assert "what was simulated is no Flower app" in planned(chartered, cloister, function, *WHY).error["message"]
    made = simulated(chartered.folder)
    (chartered / "result.json").write_text(json.dumps({"settings": made.settings, "rounds": []}))
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", chartered / "result.json")
    assert answer.data["plan"]["rounds"] == 4


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_result_as_it_was_saved_gives_the_plan_of_its_settings(
    chartered: Consortium, cloister: Cloister, suffix: str
) -> None:
    made = simulated(chartered.folder)
    from_settings = planned(chartered, cloister, made, *WHY).data["plan"]
    initial = split_vector(LAYOUT, np.zeros(LAYOUT.elements, "f4"))
    layout = made._task.layout
    saved = Result(made.settings, (row(1), row(2)), Ending.COMPLETE, layout, join_arrays(layout, initial))
    path = saved.save(chartered / f"result{suffix}")
    found = planned(chartered, cloister, made, *WHY, "--from-simulation", path).data
    for name in ("rounds", "cohort", "aggregation", "exchange", "deadlines", "metrics", "app", "dataset"):
        assert found["plan"][name] == from_settings[name], name
    assert "rounds 4" in found["simulated"]


def test_a_parquet_file_that_is_no_result_is_told(chartered: Consortium, cloister: Cloister) -> None:
    made, path = simulated(chartered.folder), chartered / "rows.parquet"
    pq.write_table(pa.table({"age": [1, 2]}), path)
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", path)
    assert "not the settings of a simulation" in answer.error["message"]
    path.write_bytes(path.read_bytes()[:-5])
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", path)
    assert "cannot be read as Parquet" in answer.error["message"]
    pq.write_table(pa.table({"age": [1]}).replace_schema_metadata({PARQUET_KEY: b"{"}), path)
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", path)
    assert "neither JSON nor a result as Parquet" in answer.error["message"]


def test_without_pyarrow_a_parquet_file_is_told_in_a_sentence_and_json_is_read(
    chartered: Consortium, cloister: Cloister, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = simulated(chartered.folder), chartered / "rows.parquet"
    pq.write_table(pa.table({"age": [1, 2]}), path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = planned(chartered, cloister, made, *WHY, "--from-simulation", path)
    assert "read with pyarrow, which is not installed" in answer.error["message"]
    assert "pip install" in answer.error["hint"]
    assert planned(chartered, cloister, made, *WHY).code == 0


def test_without_a_simulation_an_app_is_needed(chartered: Consortium, cloister: Cloister) -> None:
    options = [option for option in chartered.plan_options if option not in ("--app", chartered / "app")]
    answer = cloister("plan", "new", *options, "--out", chartered / "plan.dsse.json")
    assert answer.error["message"] == "no app was given"
