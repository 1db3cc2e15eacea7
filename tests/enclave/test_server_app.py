"""What the app's own server may do, over sealed sessions in memory, and what it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp, strategy

from coordinator.enclave.server_app.asks import Collect, Offer, Pull, Send
from coordinator.enclave.server_flower import HostedServerApp
from tests.enclave.runs import released_model
from tests.enclave.server_apps import (
    FOUR,
    MIB,
    AppNet,
    AppSite,
    ThreadedServerApp,
    asked,
    echoing,
    fed_avg,
    kept,
    logged,
    main_of,
    running,
    server_of,
    server_world,
)
from tests.enclave.test_server_app_strategies import client_with
from tests.world import INITIAL, LAYOUT, World
from trusted.apps.arrays import final_vector, split_vector
from trusted.errors import Reason
from trusted.ledger import leaves


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


def test_the_log_says_what_is_trusted_beside_our_own_code_before_any_site_is_asked(world: World) -> None:
    net = running(world, server_of(fed_avg, rounds=1), client_with())
    said = [leaf for leaf in logged(net) if isinstance(leaf, leaves.ServerApp | leaves.Opened)]
    assert said[0] == leaves.ServerApp(world.plan.document.app.bundle_sha256, "tests:app", "1.41.0")
    assert [leaf.round for leaf in said[1:]] == [1, 2]


def test_the_plans_initial_model_wins_over_the_apps_own(world: World) -> None:
    started = []

    class Watching(strategy.FedAvg):
        def configure_train(self, server_round: int, arrays: ArrayRecord, *rest: Any) -> Any:
            started.append({name: array.numpy() for name, array in arrays.items()})
            return super().configure_train(server_round, arrays, *rest)

    running(world, server_of(lambda: Watching(**FOUR), rounds=1), client_with())
    np.testing.assert_array_equal(final_vector(LAYOUT, started[0]), INITIAL)


def test_a_broadcast_is_sealed_once_and_every_message_has_the_same_size(world: World) -> None:
    net = running(world, server_of(fed_avg, rounds=2), client_with())
    offers = [ask for ask in net.port.heard if isinstance(ask, Offer)]
    sends = [ask for ask in net.port.heard if isinstance(ask, Send)]
    assert len(offers) == len(sends) == 4
    assert {len(offer.content) for offer in offers} == {MIB}
    uploads = {task.upload_header.sealed_bytes for site in net.sites.values() for task in site.messages}
    assert len(uploads) == 1


def test_nothing_reaches_the_app_before_a_quorum_has_witnessed_whose_answers_count(world: World) -> None:
    """Every worker witnesses; the host holds their cosignatures back once the answers are there."""

    class Holding(AppNet):
        is_holding = False

        def act(self, connection: int, action: Any) -> None:
            if self.is_holding and type(action).__name__ == "Answer" and action.message["type"] == "cosigned":
                self.held = [*getattr(self, "held", []), (connection, action)]
                return
            super().act(connection, action)

    hosted = HostedServerApp(server_of(fed_avg, rounds=1), LAYOUT, {})
    net = Holding(world, ThreadedServerApp(hosted, MIB))
    net.start()
    for place, member in enumerate(world.members):
        site = AppSite(world, member, client_with(), has_initial=place == 0)
        site.automatic = False
        net.join(site)
    net.is_holding = True
    for connection, site in net.sites.items():
        net.respond(connection, site.messages[-1])
    assert not [ask for ask in net.port.heard if isinstance(ask, Pull)]
    assert isinstance(net.port.heard[-1], Collect)
    net.is_holding = False
    for connection, action in net.held:
        net.act(connection, action)
    assert len([ask for ask in net.port.heard if isinstance(ask, Pull)]) == 4


def test_only_listed_metrics_leave_and_only_as_the_plan_rounds_them(world: World) -> None:
    net = running(world, server_of(fed_avg, rounds=1), client_with())
    told = [fields["metrics"] for fields in net.outcomes("round-committed")]
    assert told == [{"auc": 0.7}, {"auc": 0.75}]
    assert "train_loss" not in str(net.events)


def test_a_custom_app_pushes_and_pulls_one_answer_at_a_time_and_sees_one_node_each(world: World) -> None:
    seen: list[tuple[int, int]] = []

    def main(grid: Grid, context: Context) -> None:
        nodes = list(grid.get_node_ids())
        names = list(grid.push_messages([asked(node, f"to {node}") for node in nodes]))
        for name in names:
            (reply,) = grid.pull_messages([name])
            assert reply.content["config"]["said"] == f"to {reply.metadata.src_node_id}"
            seen.append((reply.metadata.src_node_id, int(reply.content["config"]["node"])))
        assert list(grid.pull_messages(names)) == []
        kept(context)

    net = running(world, main_of(main), echoing())
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert len(seen) == 4
    assert all(source == node for source, node in seen)
    assert len({node for node, _ in seen}) == 4
    np.testing.assert_array_equal(released_model(world, net, "site-1"), INITIAL)


def test_two_messages_to_one_node_are_two_exchanges(world: World) -> None:
    def main(grid: Grid, context: Context) -> None:
        nodes = list(grid.get_node_ids())
        sent = [asked(node, word) for word in ("first", "second") for node in nodes]
        replies = list(grid.send_and_receive(sent))
        assert sorted(str(reply.content["config"]["said"]) for reply in replies) == ["first"] * 4 + ["second"] * 4
        kept(context)

    net = running(world, main_of(main), echoing())
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert len(net.outcomes("round-committed")) == 2


def test_a_site_whose_app_raises_costs_its_answer_and_its_words_stay_there(world: World) -> None:
    errors = []

    def main(grid: Grid, context: Context) -> None:
        nodes = list(grid.get_node_ids())
        sent = [asked(node, "raise" if place == 0 else "fine") for place, node in enumerate(nodes)]
        errors.extend(reply.error for reply in grid.send_and_receive(sent) if reply.has_error())
        kept(context)

    net = running(world, main_of(main), echoing())
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert [(error.code, error.reason) for error in errors] == [(2, Reason.APP_FAILED.code)]
    assert "secret words" not in str(net.events)


def test_an_older_server_runs_as_well(world: World) -> None:
    """``server_fn`` and ``client_fn``: each node is asked in a thread of its own, and all together are one exchange."""
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def __init__(self, place: int) -> None:
            self.place = place

        def fit(self, parameters: Any, config: Any) -> Any:
            return [value + np.float32(self.place) for value in parameters], 10, {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return 0.5, 10, {}

    def server_fn(context: Context) -> ServerAppComponents:
        four = {"min_fit_clients": 4, "min_evaluate_clients": 4, "min_available_clients": 4}
        return ServerAppComponents(strategy=LegacyFedAvg(**four), config=ServerConfig(num_rounds=1))

    client = ClientApp(client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client())
    net = running(world, ServerApp(server_fn=server_fn), client)
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert len(net.outcomes("round-committed")) <= 4
    np.testing.assert_allclose(released_model(world, net, "site-1"), INITIAL + 1.5, rtol=1e-5)


def test_the_rounds_of_the_plan_are_what_its_strategy_is_told(tmp_path: Any) -> None:
    from tests.worker.flower_apps import write_app

    app = write_app(tmp_path / "app")
    text = (app / "pyproject.toml").read_text().replace("rounds = 3", "num-server-rounds = 3")
    (app / "pyproject.toml").write_text(text)
    hosted = HostedServerApp.load(app, config={"step": 2}, rounds=7, layout=LAYOUT)
    assert hosted.run_config["num-server-rounds"] == 7
    assert hosted.run_config["step"] == 2.0


def test_secure_aggregation_of_the_older_kind_passes(world: World) -> None:
    """SecAgg+ addresses nodes by number on both sides, sends different messages to each, and large lists of bytes."""
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    from flwr.server.workflow.constant import MAIN_PARAMS_RECORD

    class Client(NumPyClient):
        def __init__(self, place: int) -> None:
            self.place = place

        def fit(self, parameters: Any, config: Any) -> Any:
            return [value + np.float32(self.place) for value in parameters], 10, {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return 0.5, 10, {}

    def main(grid: Grid, context: Context) -> None:
        initial = ndarrays_to_parameters(list(split_vector(LAYOUT, INITIAL).values()))
        four = {"min_fit_clients": 4, "min_evaluate_clients": 4, "min_available_clients": 4}
        legacy = LegacyContext(
            context=context,
            config=ServerConfig(num_rounds=1),
            strategy=LegacyFedAvg(initial_parameters=initial, **four),
        )
        secure = SecAggPlusWorkflow(num_shares=4, reconstruction_threshold=3, clipping_range=8.0, max_weight=100.0)
        DefaultWorkflow(fit_workflow=secure)(grid, legacy)
        trained = [array.numpy() for array in legacy.state.array_records[MAIN_PARAMS_RECORD].values()]
        kept(context, dict(zip((spec.name for spec in LAYOUT.tensors), trained, strict=True)))

    client = ClientApp(
        client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client(), mods=[secaggplus_mod]
    )
    net = running(world, main_of(main), client)
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    np.testing.assert_allclose(released_model(world, net, "site-1"), INITIAL + 1.5, atol=1e-2)
