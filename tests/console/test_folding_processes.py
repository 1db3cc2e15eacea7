"""A robust rule and a server optimiser from ``plan new`` to the opened model, every party a process, and one killed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from console.documents import load_charter
from console.initial_model import read_initial_model
from coordinator.enclave.model import GlobalModel
from tests.console.processes import RECIPIENT, ROOT, SITES, Consortium, allow, cloister, establish, until
from tests.enclave.folds import Sealed
from trusted.documents.plan import Plan, verify_plan
from trusted.encoding import Vector
from worker.flower import FlowerApp
from worker.trainer import Call, Trainer, split_vector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAN, TIMEOUT_S = "robust", 180.0
ROUNDS = 8  # enough that one commits and the run is not over before the aggregator is killed
OPTIONS = ["--rule", "median", "--minimum", "3", "--server", "yogi:learning_rate=0.05", "--proximal-mu", "0.1"]


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    made = establish(tmp_path, {PLAN: ["--rounds", ROUNDS, "--round-s", 120, *OPTIONS]})
    for site in SITES:
        allow(made, site, PLAN)
    try:
        made.open_host()
        yield made
    finally:
        made.end()


def expected(plan: Plan, initial: Vector) -> Vector:
    """The same training and the same fold in this process, undisturbed."""
    torch.set_num_threads(1)
    app_dir, terms = ROOT / "examples" / "rand_hie", plan.aggregation
    messages, trainers = {Call.TRAIN: terms.train_config}, []
    for site in SITES:
        node = {"data-path": str(ROOT / "data" / "rand_hie" / f"{site}.csv")}
        app = FlowerApp.load(app_dir, config={}, node_config=node, log=print, messages=messages)
        trainers.append(Trainer(app, plan.layout, print))
    model = GlobalModel.first(initial.copy(), terms.moments)  # folds write over it
    for number in range(1, ROUNDS + 1):
        updates = [trainer.train(model.vector, number).delta for trainer in trainers]
        model = Sealed(updates).fold_into(model, terms, number)
    return model.vector


def test_the_released_model_is_the_plans_fold_though_the_aggregator_was_killed(consortium: Consortium) -> None:
    first = consortium.serve(PLAN)
    workers = [consortium.join(site, PLAN) for site in SITES]
    until("all sites attested", lambda: consortium.attested(PLAN) == set(SITES), TIMEOUT_S)
    assert consortium.order("start", PLAN, RECIPIENT).code == 0
    until("a round", lambda: bool(told(consortium, "round-committed")), TIMEOUT_S)
    first.process.kill()
    first.process.wait(TIMEOUT_S)
    second = consortium.serve(PLAN)
    for worker in workers:
        assert worker.ended(TIMEOUT_S) == 0, worker.said
    assert told(consortium, "recovered")
    second.end()
    out = consortium / "released.safetensors"
    key = ["--member", RECIPIENT, "--key", consortium / RECIPIENT / "sealing-key.pem", "--out", out]
    answer = cloister("model", "open", *consortium.papers(PLAN), *consortium.host, *key)
    assert answer.code == 0, answer.stderr
    charter = load_charter(consortium / "charter.dsse.json")
    envelope = (consortium / f"{PLAN}.dsse.json").read_bytes()
    plan = verify_plan(envelope, charter, datetime.now(UTC)).document
    initial = read_initial_model(consortium / "initial.safetensors").vector
    wanted, released = split_vector(plan.layout, expected(plan, initial)), load_file(out)
    for name, tensor in split_vector(plan.layout, initial).items():
        assert not np.array_equal(released[name], tensor)
        np.testing.assert_allclose(released[name], wanted[name], atol=1e-4)


def told(consortium: Consortium, event: str) -> list[dict[str, object]]:
    return [entry for entry in consortium.events(PLAN) if entry.get("event") == event]
