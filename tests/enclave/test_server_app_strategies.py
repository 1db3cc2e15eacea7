"""Every built-in strategy, wrapper and mod of Flower over sealed sessions ends as over Flower's own kind of Grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp import mod as mods
from flwr.serverapp import strategy

from tests.enclave.runs import released_model
from tests.enclave.server_apps import plainly, running, server_of, server_world
from tests.world import INITIAL, LAYOUT, World
from trusted.apps.arrays import final_vector
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.plan import initial_digest


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


def client_with(*given: Any) -> ClientApp:
    """A client that moves each number by an amount of its own, and says so."""
    app = ClientApp()

    @app.train(mods=list(given))
    def train(message: Message, context: Context) -> Message:
        place = int(context.node_config["partition-id"])
        seen = int(context.state.metric_records.get("seen", MetricRecord({"n": 0}))["n"]) + 1
        context.state["seen"] = MetricRecord({"n": seen})
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        step = np.float32(0.01) * (place + 1) ** 2 * seen  # no two as far from the others: who is nearest is one
        moved = {name: (value + step).astype(value.dtype) for name, value in arrays.items()}
        content = {
            "arrays": ArrayRecord({name: Array(value) for name, value in moved.items()}),
            "metrics": MetricRecord({"num-examples": 10 * (place + 1), "train_loss": 0.5 / (place + 1), "auc": 0.7}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        record = MetricRecord({"num-examples": 5, "loss": 0.25, "auc": 0.75})
        return Message(RecordDict({"metrics": record}), reply_to=message)

    return app


class Custom(strategy.FedAvg):
    """Somebody's own: half a step of what FedAvg would do."""

    def configure_train(self, server_round, arrays, config, grid):
        self.before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        halved = {name: (self.before[name] + array.numpy()) / 2 for name, array in arrays.items()}
        return ArrayRecord({name: Array(value) for name, value in halved.items()}), metrics


_ONE = {"min_train_nodes": 4, "min_evaluate_nodes": 4, "min_available_nodes": 4}
CASES: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "FedAvg": (lambda: strategy.FedAvg(**_ONE), ()),
    "FedAdam": (lambda: strategy.FedAdam(**_ONE), ()),
    "FedYogi": (lambda: strategy.FedYogi(**_ONE), ()),
    "FedAdagrad": (lambda: strategy.FedAdagrad(**_ONE), ()),
    "FedAvgM": (lambda: strategy.FedAvgM(**_ONE, server_momentum=0.9), ()),
    "FedProx": (lambda: strategy.FedProx(**_ONE, proximal_mu=0.1), ()),
    "FedMedian": (lambda: strategy.FedMedian(**_ONE), ()),
    "FedTrimmedAvg": (lambda: strategy.FedTrimmedAvg(**_ONE, beta=0.25), ()),
    "Krum": (lambda: strategy.Krum(**_ONE, num_malicious_nodes=0), ()),
    "MultiKrum": (lambda: strategy.MultiKrum(**_ONE, num_malicious_nodes=0, num_nodes_to_select=2), ()),
    "Bulyan": (lambda: strategy.Bulyan(**_ONE, num_malicious_nodes=0), ()),
    "QFedAvg": (lambda: strategy.QFedAvg(**_ONE, client_learning_rate=0.1), ()),
    "Custom": (lambda: Custom(**_ONE), ()),
    "DP server-side fixed": (
        lambda: strategy.DifferentialPrivacyServerSideFixedClipping(strategy.FedAvg(**_ONE), 0.0, 0.1, 4),
        (),
    ),
    "DP server-side adaptive": (
        lambda: strategy.DifferentialPrivacyServerSideAdaptiveClipping(
            strategy.FedAvg(**_ONE), 0.0, 4, clipped_count_stddev=1e-9
        ),
        (),
    ),
    "DP client-side fixed": (
        lambda: strategy.DifferentialPrivacyClientSideFixedClipping(strategy.FedAvg(**_ONE), 0.0, 0.1, 4),
        (mods.fixedclipping_mod,),
    ),
    "DP client-side adaptive": (
        lambda: strategy.DifferentialPrivacyClientSideAdaptiveClipping(
            strategy.FedAvg(**_ONE), 0.0, 4, clipped_count_stddev=1e-9
        ),
        (mods.adaptiveclipping_mod,),
    ),
    "LocalDpMod": (lambda: strategy.FedAvg(**_ONE), (mods.LocalDpMod(0.1, 1e-12, 1.0, 1e-5),)),
    "size mods": (lambda: strategy.FedAvg(**_ONE), (mods.arrays_size_mod, mods.message_size_mod)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_strategy_ends_as_over_a_plain_grid(world: World, name: str) -> None:
    make, given = CASES[name]
    net = running(world, server_of(make), client_with(*given))
    assert net.aggregator.state.value == "finished", (net.events[-6:], getattr(net.port, "error", None))
    plain = plainly(make, client_with(*given))
    released = released_model(world, net, "site-1")
    np.testing.assert_allclose(released, final_vector(LAYOUT, plain), rtol=2e-5, atol=1e-6)
    assert not np.allclose(released, INITIAL, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("DP")])
def test_a_wrapper_with_noise_ends_with_another_model_each_time(world: World, name: str) -> None:
    def noisy() -> Any:
        made = CASES[name][0]()
        made.noise_multiplier = 0.01
        return made

    first, second = (running(world, server_of(noisy, rounds=1), client_with(*CASES[name][1])) for _ in range(2))
    assert [net.aggregator.state.value for net in (first, second)] == ["finished"] * 2
    assert not np.array_equal(*(released_model(world, net, "site-1") for net in (first, second)))


# --- trees ------------------------------------------------------------------------------------------------------------


def trees(count: int) -> bytes:
    """The least that Flower's bagging reads of XGBoost's JSON: ``count`` trees."""
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
        "iteration_indptr": list(range(count + 1)),
        "tree_info": [0] * count,
        "trees": [{"id": place, "leaf": 7} for place in range(count)],
    }
    return json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()


def tree_client() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        given = message.content["arrays"]["0"].numpy()
        assert given.dtype == np.uint8
        content = {
            "arrays": ArrayRecord([np.frombuffer(trees(1), np.uint8)]),
            "metrics": MetricRecord({"num-examples": 3}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 3, "auc": 0.7})}), reply_to=message)

    return app


@pytest.mark.parametrize("name", ["FedXgbBagging", "FedXgbCyclic"])
def test_a_forest_passes_whose_size_at_the_end_is_the_plans(software_root, chip, name: str) -> None:
    """Bagging appends trees; a model of bytes fits a plan if that says how many there will be."""

    def make() -> Any:
        return getattr(strategy, name)(min_available_nodes=4, fraction_train=1.0, fraction_evaluate=1.0)

    empty = {"0": np.zeros(0, np.uint8)}
    expected = plainly(make, tree_client(), rounds=2, initial=empty)["0"]
    layout = Layout((TensorSpec("0", Dtype.FLOAT32, expected.shape),))
    initial = np.zeros(layout.elements, "<f4")
    world = server_world(software_root, chip, layout=layout, initial_sha256=initial_digest(layout, initial.tobytes()))
    server = server_of(make, initial=ArrayRecord([empty["0"]]))
    net = running(world, server, tree_client(), layout=layout, initial=initial)
    assert net.aggregator.state.value == "finished", net.events[-6:]
    assert released_model(world, net, "site-1").astype(np.uint8).tobytes() == expected.tobytes()
