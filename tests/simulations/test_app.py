"""Unmodified Flower apps: each site has its own Context and its own rows, and what is wrong is told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.site_files import write_csv
from simulations.tasks.app import App
from tests.worker.flower_apps import LAYOUT, write_app
from trusted.apps.arrays import split_vector
from trusted.errors import AppError, Reason

ROOT = Path(__file__).parents[2]
EXAMPLE, DATA = ROOT / "examples" / "rand_hie", ROOT / "data" / "rand_hie"
INITIAL = split_vector(LAYOUT, np.zeros(LAYOUT.elements, "f4"))
SITES = 4
ROWS = Dataset({"x": np.arange(8, dtype="f8") / 4, "y": np.arange(8)})
PARTS = Partition.of(np.split(np.arange(8), SITES))

READS = """\
import csv, pathlib
folder = pathlib.Path(context.node_config["data-path"])
rows = [row for file in sorted(folder.glob("*.csv")) for row in csv.DictReader(file.open())]
"""
SUMS = (
    READS
    + """\
arrays["w"] = arrays["w"] + np.float32(sum(float(row["x"]) for row in rows))
return answered(message, arrays, {"num-examples": len(rows)})
"""
)
COUNTS = """\
from flwr.app import ConfigRecord
seen = context.state.config_records.get("seen", ConfigRecord({"times": 0}))
seen["times"] = seen["times"] + 1
context.state["seen"] = seen
arrays["w"] = arrays["w"] * 0 + np.float32(seen["times"])
return answered(message, arrays, {"num-examples": 1})
"""
DRAWS = """\
import random
arrays["w"] = arrays["w"] + np.float32(random.random() + np.random.random())
return answered(message, arrays, {"num-examples": 1})
"""
TOLD = """\
said = message.content["config"]
arrays["w"] = arrays["w"] * 0 + np.float32(said.get("proximal-mu", 0) + said.get("lr", 0))
return answered(message, arrays, {"num-examples": 1})
"""


def simulation(app: App, **changes: Any) -> Simulation:
    return Simulation(app, ROWS, PARTS, **({"rounds": 2, "engine": "in-process"} | changes))


def app_of(tmp_path: Path, train: str, **more: Any) -> App:
    evaluate = more.pop("evaluate", "")
    return App(write_app(tmp_path / "app", train=train, evaluate=evaluate), initial=INITIAL, **more)


def first(model: np.ndarray) -> float:
    return float(split_vector(LAYOUT, model)["w"][0, 0])


def test_each_site_finds_its_own_rows_as_a_deployed_site_does(tmp_path):
    result = simulation(app_of(tmp_path, SUMS), rounds=1).run()
    assert first(result.model) == pytest.approx(sum(range(8)) / 4 / SITES)


@pytest.mark.parametrize("engine", ["in-process", "pool"])
def test_a_context_lasts_from_round_to_round_and_is_its_sites_own(tmp_path, engine):
    made = simulation(app_of(tmp_path, COUNTS), rounds=6, cohort=2, engine=engine).run()
    cohorts = [row.drawn for row in made.rounds]
    seen = {name: [drawn for drawn in cohorts if name in drawn] for name in PARTS.names}
    last = np.mean([len(seen[name]) for name in cohorts[-1]])  # how often each of the last cohort was asked
    assert first(made.model) == pytest.approx(last)
    assert last > 1


def test_sites_remember_nothing_of_an_earlier_run(tmp_path):
    made = simulation(app_of(tmp_path, COUNTS))
    assert first(made.run().model) == first(made.run().model) == 2


def test_what_an_app_draws_from_global_generators_is_the_same_twice_and_in_every_engine(tmp_path):
    app = app_of(tmp_path, DRAWS)
    one, again, pool = (simulation(app, engine=name).run().model for name in ("in-process", "in-process", "pool"))
    assert one.tobytes() == again.tobytes() == pool.tobytes()
    assert simulation(app, seed=1).run().model.tobytes() != one.tobytes()


def test_an_app_hears_what_the_plan_says_to_sites(tmp_path):
    mu = {"rule": "weighted-mean", "proximal_mu": 0.25}
    app = app_of(tmp_path, TOLD, train_config={"lr": 2.0})
    assert first(simulation(app, aggregation=mu).run().model) == 2.25


def test_poisons_reach_the_rows_that_the_app_reads(tmp_path):
    poison = Behaviour("poison", "has others", ("site-0000",), poisons=lambda rows, rng: {**rows, "x": rows["x"] * 0})
    result = simulation(app_of(tmp_path, SUMS), rounds=1, behaviours=[poison]).run()
    assert first(result.model) == pytest.approx(sum(range(2, 8)) / 4 / SITES)


def test_the_app_gets_the_columns_that_a_plan_would_name_and_no_others(tmp_path):
    told = (
        READS + 'arrays["w"] = arrays["w"] * 0 + len(rows[0])\nreturn answered(message, arrays, {"num-examples": 1})\n'
    )
    app = app_of(tmp_path, told)
    assert first(simulation(app, rounds=1).run().model) == 2
    assert first(simulation(App(app.folder, INITIAL, columns=("y",)), rounds=1).run().model) == 1
    with pytest.raises(ValueError, match="dataset: no column 'age'; there are x, y"):
        simulation(App(app.folder, INITIAL, columns=("age",)))


def test_a_model_is_judged_by_the_app_on_rows_that_no_site_has(tmp_path):
    judge = (
        READS + 'return answered(message, None, {"num-examples": len(rows), "sum": sum(float(r["x"]) for r in rows)})\n'
    )
    probe = Behaviour("trigger", "aims", 0.0, probes=lambda rows: {**rows, "x": rows["x"] + 1})
    held_out = Dataset({"x": np.array([1.5, 2.0]), "y": np.array([0, 1])})
    row = simulation(app_of(tmp_path, SUMS, evaluate=judge), held_out=held_out, behaviours=[probe]).run().rounds[0]
    assert row.evaluated == {"sum": 3.5, "trigger-sum": 5.5}
    assert row.reported["sum"] == pytest.approx(7 / SITES)  # sites judge on their own rows, as in a worker


def test_a_site_whose_app_fails_costs_itself_the_round(tmp_path):
    fails = (
        READS + 'if rows[0]["y"] == "0": raise KeyError("age")\nreturn answered(message, arrays, {"num-examples": 1})\n'
    )
    row = simulation(app_of(tmp_path, fails)).run().rounds[0]
    assert row.lost == {"site-0000": Reason.APP_FAILED}


@pytest.mark.parametrize("engine", ["in-process", "pool"])
def test_an_app_that_fails_at_every_site_ends_the_simulation_with_what_it_said(tmp_path, engine):
    fails = 'raise ValueError("columns missing: age")\n'
    with pytest.raises(AppError) as caught:
        simulation(app_of(tmp_path, fails), engine=engine).run()
    assert "every site failed in the first round" in str(caught.value)
    assert "(ValueError: columns missing: age)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_app_is_told_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"app: no pyproject.toml in .*; the folder of a Flower app expected"):
        simulation(App(tmp_path))
    folder = write_app(tmp_path / "app")
    (package,) = (path for path in folder.iterdir() if path.is_dir())
    client = package / "client_app.py"
    client.write_text("app = 3\n")
    with pytest.raises(AppError, match=r"components.clientapp is not a ClientApp"):
        simulation(App(folder, INITIAL))
    project = folder / "pyproject.toml"
    project.write_text("\n".join(line for line in project.read_text().splitlines() if "clientapp" not in line))
    with pytest.raises(AppError, match=r"pyproject.toml does not describe a Flower app"):
        simulation(App(folder, INITIAL))


def test_an_app_whose_server_says_nothing_of_a_model_needs_one(tmp_path):
    app = app_of(tmp_path, SUMS)
    with pytest.raises(AppError, match="its ServerApp starts no strategy with initial arrays; give the initial model"):
        simulation(App(app.folder))


def test_dp_sgd_is_for_apps_that_make_private_steps(tmp_path):
    privacy = {
        "mechanism": "dp-sgd", "unit": "record", "max_grad_norm": 1, "noise_multiplier": 1, "sample_rate": 0.1,
        "max_steps": 2, "epsilon": 20, "delta": 1e-3,
    }  # fmt: skip
    with pytest.raises(AppError, match="it made no private step"):
        simulation(app_of(tmp_path, SUMS), privacy=privacy).run()


def test_with_admission_the_aggregator_is_told_of_private_steps(tmp_path):
    pytest.importorskip("opacus")
    privacy = {
        "mechanism": "dp-sgd", "unit": "record", "max_grad_norm": 1, "noise_multiplier": 1, "sample_rate": 0.05,
        "max_steps": 50, "epsilon": 20, "delta": 1e-5,
    }  # fmt: skip
    data = Dataset.from_csvs([DATA / f"site-{number}.csv" for number in (3, 5)])
    names, owner = np.unique(data.column("site"), return_inverse=True)
    parts = Partition.by_owner(owner, len(names), names.tolist())
    app = App(EXAMPLE, config={"private": True})
    terms = {"rounds": 1, "engine": "in-process", "privacy": privacy, "admission": True}
    row = Simulation(app, data, parts, **terms).run().rounds[0]
    assert row.counted == tuple(names)
    assert row.epsilon > 0


def test_the_example_simulates_as_it_is_and_starts_from_what_its_own_server_starts_from():
    files = [DATA / f"site-{number}.csv" for number in (3, 5)]
    data = Dataset.from_csvs(files)
    names, owner = np.unique(data.column("site"), return_inverse=True)
    parts = Partition.by_owner(owner, len(names), names.tolist())
    results = [Simulation(str(EXAMPLE), data, parts, rounds=2, engine=name).run() for name in ("in-process", "pool")]
    assert results[0].model.tobytes() == results[1].model.tobytes()
    assert 0.6 < results[0].rounds[-1].reported["auc"] < 0.8


def test_numbers_survive_a_table(tmp_path):
    odd = np.array([0.1, 1e-300, -2.5, 3.0, 1e17, np.nan])
    rows = {"a": odd, "b": odd[:5].astype("f4").repeat(2)[:6], "c": np.arange(6), "d": np.array(list('x,"y\n'))}
    rows["d"] = np.array(["x", 'a"b', "c,d", "e\nf", "", "é"])
    write_csv(rows, tmp_path / "table.csv")
    read = Dataset.from_csv(tmp_path / "table.csv").columns
    np.testing.assert_array_equal(read["a"], odd)
    assert read["b"].astype("f4").tobytes() == rows["b"].tobytes()
    assert read["c"].tolist() == list(range(6))
    with pytest.raises(ValueError, match="column 'm' has 2 dimensions; apps read tables"):
        write_csv({"m": np.zeros((2, 2))}, tmp_path / "other.csv")
