"""A simulated run and a deployed run of one plan: the same model, to the bit where no noise is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from simulations.behaviour import Behaviour
from simulations.of_plan import Papers
from simulations.simulation import Simulation
from tests.enclave.folds import ADAM, terms
from tests.simulations.deployed import deployed
from trusted.apps.bundle import build_bundle, bundle_digest
from trusted.documents.layout import Layout
from trusted.documents.plan import initial_digest
from trusted.documents.terms import App, Cohort, DatasetContract, Exchange, MetricRule, Privacy
from trusted.encoding import Encoding
from trusted.errors import AppError, Reason
from worker.trainer import join_arrays, split_vector

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "rand_hie"
DATA = {f"site-{number}": ROOT / "data" / "rand_hie" / f"site-{number}.csv" for number in range(1, 7)}
COLUMNS = tuple(DATA["site-1"].read_text().splitlines()[0].split(","))
SHAPES = {"hidden.weight": (16, 24), "hidden.bias": (16,), "out.weight": (1, 16), "out.bias": (1,)}
LAYOUT = Layout.parse(
    [{"name": name, "dtype": "float32", "shape": list(shape)} for name, shape in sorted(SHAPES.items())]
)
INITIAL = (np.random.default_rng(7).standard_normal(LAYOUT.elements) * 0.2).astype("f4")
SETTINGS = {"local-epochs": 1, "seed": 7}
PLANS: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {"aggregation": terms("median", max_weight=10_000)},
    "adam": {"aggregation": terms("weighted-mean", server=ADAM, max_weight=10_000)},
    "encoded": {"exchange": Exchange(Encoding.BFLOAT16, Encoding.INT8)},
    "named": {"exchange": Exchange(Encoding.FLOAT32, Encoding.BFLOAT16, ("out.bias", "out.weight"))},
    "heavy": {"aggregation": terms("weighted-mean", max_weight=700)},  # some sites have more rows, and are refused
    "drawn": {"cohort": Cohort(tuple(DATA), 2, 3)},
}


def plan_of(**changes: Any) -> dict[str, Any]:
    config = {"kind": "flower", "bundle_sha256": bundle_digest(build_bundle(APP)).hex(), "config": SETTINGS}
    return {
        "app": App.read(config),
        "layout": LAYOUT,
        "initial_sha256": initial_digest(LAYOUT, INITIAL.tobytes()),
        "rounds": 2,
        "cohort": Cohort(tuple(DATA), 3, len(DATA)),
        "aggregation": terms("weighted-mean", max_weight=10_000),
        "dataset": DatasetContract(min_rows=1, columns=COLUMNS),
        "metrics": (MetricRule("auc", 2, 4), MetricRule("train-loss", 2, 4)),
    } | changes


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    save_file(split_vector(LAYOUT, INITIAL), tmp_path / "initial.safetensors")
    return Papers(APP, tmp_path / "initial.safetensors", DATA)


@pytest.mark.parametrize(
    ("name", "engine"), [*((name, "in-process") for name in PLANS), ("mean", "pool"), ("drawn", "pool")]
)
def test_a_simulated_run_gives_the_bits_of_the_deployed_run(name, engine, papers, chip, software_root, tmp_path):
    world, net, released = deployed(
        chip, software_root, APP, DATA, tmp_path / "work", initial=INITIAL, **plan_of(**PLANS[name])
    )
    seed = net.aggregator._run._course.seed  # which the log tells, once the run is over
    simulation = Simulation.from_plan(world.plan.document, papers, engine=engine, cohorts=seed)
    result = simulation.run()
    assert result.model.tobytes() == released.tobytes()
    assert not np.array_equal(released, INITIAL)
    told = net.outcomes("round-committed")
    assert [dict(row.reported) for row in result.rounds] == [event["metrics"] for event in told]
    opened = net.outcomes("round-opened")
    assert [list(row.drawn) for row in result.rounds] == [event["waiting_for"] for event in opened]
    assert [row.bytes_down for row in result.rounds] == [len(e["waiting_for"]) * e["bytes"] for e in opened]
    refused = {(e["round"], e["member"]) for e in net.outcomes("contribution") if e["outcome"] == "refused"}
    assert {(row.number, member) for row in result.rounds for member in row.lost} == refused
    assert bool(refused) == (name == "heavy")


@pytest.mark.parametrize(("name", "engine"), [("mean", "pool"), ("named", "in-process"), ("heavy", "in-process")])
def test_a_plan_simulated_with_admission_gives_the_bits_of_the_deployed_run(
    name, engine, papers, chip, software_root, tmp_path
):
    world, net, released = deployed(
        chip, software_root, APP, DATA, tmp_path / "work", initial=INITIAL, **plan_of(**PLANS[name])
    )
    result = Simulation.from_plan(world.plan.document, papers, engine=engine, admission=True).run()
    assert result.model.tobytes() == released.tobytes()
    told = net.outcomes("round-committed")
    assert [dict(row.reported) for row in result.rounds] == [event["metrics"] for event in told]


def test_with_noise_both_are_within_its_reach(papers, chip, software_root, tmp_path):
    mechanism = {"mechanism": "member-clipping", "clip_norm": 10, "noise_multiplier": 0.5, "epsilon": 20, "delta": 1e-3}
    private = plan_of(privacy=Privacy.read(mechanism), aggregation=terms("weighted-mean", max_weight=1), rounds=1)
    world, net, released = deployed(chip, software_root, APP, DATA, tmp_path / "work", initial=INITIAL, **private)
    row = (result := Simulation.from_plan(world.plan.document, papers, engine="in-process").run()).rounds[0]
    assert row.epsilon == pytest.approx(net.outcomes("privacy-spent")[0]["metrics"]["epsilon"])
    deviation = 0.5 * 10 / len(DATA)
    difference = result.model - released
    assert 0.8 < difference.std() / (deviation * 2**0.5) < 1.2


def test_another_seed_of_cohorts_draws_others(papers, chip, software_root, tmp_path):
    world, _, released = deployed(
        chip, software_root, APP, DATA, tmp_path / "work", initial=INITIAL, **plan_of(**PLANS["drawn"])
    )
    other = Simulation.from_plan(world.plan.document, papers, engine="in-process", cohorts=bytes(32)).run()
    assert other.model.tobytes() != released.tobytes()


def test_a_poisoned_site_of_a_plan_trains_on_other_rows_and_the_others_on_their_own(
    papers, chip, software_root, tmp_path
):
    world, _, released = deployed(chip, software_root, APP, DATA, tmp_path / "work", initial=INITIAL, **plan_of())
    plan = world.plan.document

    def unchanged(rows, rng):
        return rows

    def turned(rows, rng):
        return {**rows, "mdvis": np.where(rows["mdvis"] >= 5, 0, 9)}

    for poison, same in ((unchanged, True), (turned, False)):
        behaviour = Behaviour("poison", "trains on others", ("site-2",), poisons=poison)
        made = Simulation.from_plan(plan, papers, engine="in-process", behaviours=[behaviour]).run()
        assert (made.model.tobytes() == released.tobytes()) == same


def test_what_the_plan_does_not_name_is_refused(papers, world, tmp_path):
    from dataclasses import replace

    plan = replace(world.plan.document, **plan_of())
    other = tmp_path / "other.safetensors"
    save_file(split_vector(LAYOUT, -INITIAL), other)
    with pytest.raises(AppError) as caught:
        Simulation.from_plan(plan, replace(papers, initial=other))
    assert caught.value.reason is Reason.INITIAL_MODEL
    with pytest.raises(AppError) as caught:
        Simulation.from_plan(plan, replace(papers, app=ROOT / "examples" / "bank_fraud"))
    assert caught.value.reason is Reason.BUNDLE_DIGEST
    with pytest.raises(ValueError, match="data: none of site-6, whom the plan names"):
        Simulation.from_plan(plan, replace(papers, data={name: DATA[name] for name in list(DATA)[:5]}))
    strict = replace(plan, dataset=DatasetContract(min_rows=100_000, columns=COLUMNS))
    with pytest.raises(AppError) as caught:
        Simulation.from_plan(strict, papers)
    assert caught.value.reason is Reason.DATA_CONTRACT
    assert join_arrays(LAYOUT, split_vector(LAYOUT, INITIAL)).tobytes() == INITIAL.tobytes()
