"""An app's own server in the aggregator, from ``plan new`` to the opened model: every party a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file

from console.initial_model import read_initial_model
from tests.console.processes import RECIPIENT, ROOT, SITES, Consortium, Running, allow, cloister, establish, made, until
from tests.enclave.server_apps import PlainGrid
from trusted.apps.arrays import Arrays, split_vector
from worker.flower import FlowerApp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAN, TIMEOUT_S, ROUNDS = "own-server", 180.0, 2
OPTIONS = ["--rule", "server-app", "--max-exchanges", 9, "--max-message-mib", 1, "--turn-s", 120]


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    config = ["--config", "min-sites=3"]
    found = establish(tmp_path, {PLAN: ["--rounds", ROUNDS, "--round-s", 120, *config, *OPTIONS]})
    try:
        found.open_host()
        yield found
    finally:
        found.end()


def permit(consortium: Consortium, site: str) -> None:
    """A site policy that lets the app's own server ask."""
    policy, key = consortium / site / "site-policy.dsse.json", consortium / site / "signing-key.pem"
    listed = ["--plan", consortium / f"{PLAN}.dsse.json", "--server-app-exchanges", 9, "--force"]
    made("site-policy", "new", *consortium.charter, "--member", site, *listed, "--out", policy)
    made("site-policy", "sign", policy, *consortium.charter, "--key", key, "--yes")


def serve(consortium: Consortium, *bundle: object, name: str = "aggregator") -> Running:
    door = f"unix:{consortium / 'host' / 'door' / 'door.sock'}"
    tee = ["--tee", "software", "--chip", consortium / "chip-0", "--log", consortium / f"{name}.log"]
    return consortium.start(name, "aggregator", "serve", *consortium.papers(PLAN), "--door", door, *tee, *bundle)


def expected(initial: Arrays) -> Arrays:
    """The same app under the same strategy in this process."""
    torch.set_num_threads(1)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    nodes = {10 + place: str(ROOT / "data" / "rand_hie" / f"{site}.csv") for place, site in enumerate(SITES)}
    loaded = FlowerApp.load(ROOT / "examples" / "rand_hie", config={"min-sites": 3}, node_config={}, log=print)
    grid = PlainGrid(loaded._client, 0)
    config = loaded._context.run_config
    grid.contexts = {
        node: Context(1, node, {"data-path": path, "partition-id": 0, "num-partitions": 1}, RecordDict(), dict(config))
        for node, path in nodes.items()
    }
    start = ArrayRecord({name: Array(array) for name, array in initial.items()})
    three = {"min_train_nodes": 3, "min_evaluate_nodes": 3, "min_available_nodes": 3}
    result = FedAvg(**three).start(grid=grid, initial_arrays=start, num_rounds=ROUNDS)
    return {name: array.numpy() for name, array in result.arrays.items()}


@pytest.fixture(autouse=True)
def clean_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def test_the_apps_own_server_runs_in_the_aggregator_and_the_log_says_so(consortium: Consortium) -> None:
    refused = serve(consortium, name="without-a-bundle")
    assert refused.ended(TIMEOUT_S) != 0
    assert "--bundle" in refused.said
    other = consortium / "other.fab"
    other.write_bytes((consortium / f"{PLAN}.fab").read_bytes() + b"\0")
    wrong = serve(consortium, "--bundle", other, name="with-another-bundle")
    assert wrong.ended(TIMEOUT_S) != 0
    assert "APP-801" in (consortium / "with-another-bundle.log").read_text()

    allow(consortium, SITES[2], PLAN)  # by a policy that says nothing of an app's own server
    unwilling = consortium.join(SITES[2], PLAN, name="unwilling")
    assert unwilling.ended(TIMEOUT_S) == 1
    assert "server_app_exchanges" in unwilling.said + (consortium / SITES[2] / "unwilling.log").read_text()

    for site in SITES:
        permit(consortium, site)
    aggregator = serve(consortium, "--bundle", consortium / f"{PLAN}.fab")
    workers = [consortium.join(site, PLAN) for site in SITES]
    until("all sites attested", lambda: consortium.attested(PLAN) == set(SITES), TIMEOUT_S)
    assert consortium.order("start", PLAN, RECIPIENT).code == 0
    for worker in workers:
        assert worker.ended(TIMEOUT_S) == 0, worker.said
    assert aggregator.ended(TIMEOUT_S) == 0

    log = cloister("run", "log", *consortium.papers(PLAN), *consortium.host)
    assert log.code == 0, log.stderr
    said = log.data["trusted_code_base_enlarged_by"]
    plan = made("plan", "show", consortium / f"{PLAN}.dsse.json", *consortium.charter).data["plan"]
    assert said["bundle_sha256"] == plan["app"]["bundle_sha256"]
    assert said["component"] == "rand_hie.server_app:app"
    assert [leaf["round"] for leaf in log.data["leaves"] if leaf["kind"] == "committed"] == [1, 2, 3, 4]
    assert "held-out AUC" not in aggregator.said + (consortium / "aggregator.log").read_text()

    out = consortium / "released.safetensors"
    key = ["--member", RECIPIENT, "--key", consortium / RECIPIENT / "sealing-key.pem", "--out", out]
    answer = cloister("model", "open", *consortium.papers(PLAN), *consortium.host, *key)
    assert answer.code == 0, answer.stderr
    initial = read_initial_model(consortium / "initial.safetensors")
    wanted, released = expected(split_vector(initial.layout, initial.vector)), load_file(out)
    for name, tensor in released.items():
        np.testing.assert_allclose(tensor, wanted[name], atol=1e-4)
