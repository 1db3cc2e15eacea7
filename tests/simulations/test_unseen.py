"""Where a plan hides columns from the app (``evaluation.unseen``), a simulated app sees what a deployed one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.of_plan import Papers
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.tasks.app import App
from tests.enclave.evaluations import TERMS
from tests.enclave.folds import terms
from tests.simulations.deployed import deployed
from tests.simulations.test_app import READS
from tests.worker.flower_apps import LAYOUT, write_app
from tests.world import World
from trusted.apps.bundle import build_bundle, bundle_digest
from trusted.documents.plan import initial_digest
from trusted.documents.terms import App as PlanApp
from trusted.documents.terms import Cohort, DatasetContract, Evaluation

MEMBERS = ("site-1", "site-2", "site-3")
COLUMNS = ("age", "visits", "sex")
INITIAL = np.zeros(LAYOUT.elements, "f4")
# Every column that it finds moves the model, each by its own measure.
TRAIN = (
    READS
    + """\
measures = {"age": 0.001, "visits": 0.01, "sex": 1.0}
moved = sum(measures[name] * float(value) for row in rows for name, value in row.items())
arrays["w"] = arrays["w"] + np.float32(moved)
return answered(message, arrays, {"num-examples": len(rows)})
"""
)
JUDGE = (
    READS
    + """\
return answered(message, None, {"columns": len(rows[0]), "num-examples": len(rows)})
"""
)


def judged(*unseen: str) -> Evaluation:
    given = {name: value for name, value in TERMS.items() if name != "audit"}
    return Evaluation.read(given | ({"unseen": list(unseen)} if unseen else {}))


class Place:
    """An app, its model, and a table for each member."""

    def __init__(self, folder: Path) -> None:
        self.work, self.app = folder / "work", write_app(folder / "app", train=TRAIN, evaluate=JUDGE)
        self.tables = {}
        for number, member in enumerate(MEMBERS, 1):
            self.tables[member] = folder / f"{member}.csv"
            lines = [f"{20 + 7 * row},{row % 9},{(row + number) % 2}" for row in range(10 + number)]
            self.tables[member].write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
        save_file({"w": np.zeros((2, 3), "f4"), "scale": np.zeros((), "f4"), "steps": np.zeros(2, "i8")},
                  folder / "initial.safetensors")  # fmt: skip
        self.papers = Papers(self.app, folder / "initial.safetensors", self.tables)

    def plan(self, *unseen: str) -> dict[str, Any]:
        digest = bundle_digest(build_bundle(self.app)).hex()
        return {
            "app": PlanApp.read({"kind": "flower", "bundle_sha256": digest, "config": {}}),
            "layout": LAYOUT,
            "initial_sha256": initial_digest(LAYOUT, INITIAL.tobytes()),
            "rounds": 2,
            "cohort": Cohort(MEMBERS, 2, len(MEMBERS)),
            "aggregation": terms("weighted-mean", max_weight=1000),
            "dataset": DatasetContract(min_rows=1, columns=COLUMNS),
            "evaluation": judged(*unseen),
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("unseen", [(), ("sex",), ("age", "sex")], ids=["all seen", "one unseen", "two unseen"])
@pytest.mark.parametrize("admission", [False, True], ids=["bare", "admitted"])
def test_a_simulated_app_sees_the_columns_of_the_deployed_one(unseen, admission, place, chip, software_root):
    plan = place.plan(*unseen)
    world, net, released = deployed(chip, software_root, place.app, place.tables, place.work, initial=INITIAL, **plan)
    assert net.outcomes("evaluation-opened")
    simulation = Simulation.from_plan(world.plan.document, place.papers, engine="in-process", admission=admission)
    result = simulation.run()
    assert result.model.tobytes() == released.tobytes()
    assert np.any(released)


def test_what_is_unseen_would_move_the_model(place, chip, software_root):
    models = []
    for number, unseen in enumerate([(), ("sex",)]):
        work = place.work / str(number)
        _, _, released = deployed(
            chip, software_root, place.app, place.tables, work, initial=INITIAL, **place.plan(*unseen)
        )
        models.append(released)
    assert not np.array_equal(*models)


def world_of(place: Place, software_root, chip, *unseen: str):
    return World(software_root, chip, members=MEMBERS, plan_changes=place.plan(*unseen)).plan.document


def test_rows_that_judge_are_shown_to_the_app_without_the_unseen_columns(place, chip, software_root):
    held_out = Dataset({"age": np.arange(4.0), "visits": np.arange(4), "sex": np.arange(4) % 2}, "visits")
    for unseen, count in (((), 3), (("sex",), 2)):
        plan = world_of(place, software_root, chip, *unseen)
        result = Simulation.from_plan(plan, place.papers, engine="in-process", held_out=held_out).run()
        assert result.final["columns"] == count


def test_a_poisoned_member_poisons_also_what_its_app_does_not_see_and_trains_on_the_rest(place, chip, software_root):
    def older(rows, rng):
        return {**rows, "age": rows["age"] + 5 * rows["sex"]}

    plan = world_of(place, software_root, chip, "sex")
    poison = Behaviour("poison", "adds to ages by what is unseen", ("site-2",), poisons=older)
    made = Simulation.from_plan(plan, place.papers, engine="in-process", behaviours=[poison]).run()
    honest = Simulation.from_plan(plan, place.papers, engine="in-process").run()
    ones = sum(line.endswith(",1") for line in place.tables["site-2"].read_text().splitlines())
    rows = [len(path.read_text().splitlines()) - 1 for path in place.tables.values()]
    expected = 2 * 0.001 * 5 * ones * rows[1] / sum(rows)  # two rounds
    assert (made.model - honest.model)[0] == pytest.approx(expected, rel=1e-3)


def test_columns_of_an_app_are_those_that_judge_too(place):
    rows = Dataset({"age": np.arange(4.0), "visits": np.arange(4), "sex": np.arange(4) % 2}, "visits")
    app = App(place.app, initial=place.papers.initial, columns=("age", "visits"))
    parts = Partition.of(np.split(np.arange(4), 2))
    assert Simulation(app, rows, parts, rounds=1, engine="in-process", held_out=rows).run().final["columns"] == 2
