"""What the app's own server may do and may not, over sealed sessions in memory; each refusal has its number."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp, strategy

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.fold import fold
from coordinator.enclave.jobs import Inline
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.server_app.asks import Ask, Collect, Failed, Finished, Offer, Pull, Send
from coordinator.enclave.server_flower import HostedServerApp
from simulations.terms import Terms
from tests.enclave.evaluations import COLUMNS, card_of
from tests.enclave.evaluations import terms as terms_of_evaluation
from tests.enclave.server_apps import MIB, TERMS, AppNet, AppSite, ThreadedServerApp, running, server_of, server_world
from tests.enclave.test_run import released_model
from tests.enclave.test_server_app_strategies import client_with
from tests.world import INITIAL, LAYOUT, NOW, MemoryStore, Net, SimpleSite, World
from trusted.apps.arrays import final_vector, split_vector
from trusted.documents import site_policy as site_policies
from trusted.documents.explain import explain_plan, explain_site_policy
from trusted.documents.plan import Plan
from trusted.documents.terms import Aggregation, Cohort, DatasetContract, Exchange
from trusted.encoding import Encoding
from trusted.errors import DocumentError, ProtocolError, Reason, RoundError
from trusted.ledger import leaves
from trusted.ledger.segments import Segment

_FOUR = {"min_train_nodes": 4, "min_evaluate_nodes": 4, "min_available_nodes": 4}


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


def fed_avg(**more: Any) -> strategy.FedAvg:
    return strategy.FedAvg(**(_FOUR | more))


def main_of(body: Any) -> ServerApp:
    app = ServerApp()
    app.main()(body)
    return app


def kept(context: Context, arrays: dict[str, np.ndarray] | None = None) -> None:
    """A custom app leaves its final model where docs/server-apps.md says."""
    named = split_vector(LAYOUT, INITIAL) if arrays is None else arrays
    context.state["arrays"] = ArrayRecord({name: Array(value) for name, value in named.items()})


def asked(node: int, said: str = "hello", kind: str = "query") -> Message:
    return Message(RecordDict({"config": ConfigRecord({"said": said})}), node, kind)


def echoing() -> ClientApp:
    """A client that says back what it was asked, and as whom."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        said = str(message.content["config"]["said"])
        if said == "raise":
            raise ValueError("secret words of a site")
        content = {"config": ConfigRecord({"said": said, "node": context.node_id})}
        return Message(RecordDict(content), reply_to=message)

    return app


def logged(net: AppNet) -> list[Any]:
    """Every leaf that lies at the host."""
    found = []
    for stored in net.store.blobs.values():
        try:
            segment = Segment.decode(stored)
        except ProtocolError:
            continue
        found.append((segment.before.size, segment.leaves))
    return [leaves.parse(leaf) for _, some in sorted(found) for leaf in some]


def failure(net: AppNet) -> list[str]:
    assert net.aggregator.state.value == "abandoned", net.events[-4:]
    return [fields["reason"] for fields in net.outcomes("server-app-failed")]


# --- what it does ----------------------------------------------------------------------------------------------------


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

    running(world, server_of(lambda: Watching(**_FOUR), rounds=1), client_with())
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


# --- who answers, and who does not -----------------------------------------------------------------------------------


def slow(world: World, server: ServerApp, client: ClientApp, automatic: tuple[str, ...]) -> AppNet:
    """A run in which only some sites answer by themselves."""
    terms = world.plan.document.aggregation
    net = AppNet(world, ThreadedServerApp(HostedServerApp(server, LAYOUT, {}), terms.message_bytes))
    net.start()
    for place, member in enumerate(world.members):
        site = AppSite(world, member, client, has_initial=place == 0)
        site.automatic = member in automatic
        net.join(site)
    return net


def test_a_site_that_does_not_answer_until_the_deadline_costs_its_answer_alone(world: World) -> None:
    results: list[int] = []

    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()], timeout=30))
        results.append(sum(not reply.has_error() for reply in replies))
        errors = [reply.error.reason for reply in replies if reply.has_error()]
        assert errors == [Reason.ROUND_DEADLINE.code]
        kept(context)

    net = slow(world, main_of(main), echoing(), world.members[:3])
    assert net.aggregator.state.value == "running"
    net.pass_time(29)
    assert not results
    net.pass_time(2)
    assert results == [3]
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    late = net.sites[4]
    task = late.messages[-1]
    said = {"type": "reply", "round": task.round, "blob": task.upload.hex(), "key": "00" * 32}
    net.say(4, said | {"prefix_sha256": "00" * 32})
    assert late.receipts[-1] is Reason.ROUND_CLOSED


def test_fewer_answers_than_the_minimum_reach_the_app_never_and_three_times_end_the_run(software_root, chip) -> None:
    world = server_world(software_root, chip, minimum=3)
    given: list[int] = []

    def main(grid: Grid, context: Context) -> None:
        while True:
            replies = list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()], timeout=10))
            given.append(sum(not reply.has_error() for reply in replies))

    net = slow(world, main_of(main), echoing(), world.members[:2])
    for _ in range(3):
        net.pass_time(11)
    assert failure(net) == [Reason.COHORT_MINIMUM.code]
    assert set(given) <= {0}
    assert len(net.outcomes("round-abandoned")) == 3


def test_a_model_that_heard_fewer_members_than_the_minimum_is_not_released(world: World) -> None:
    """One site may be asked alone, as FedXgbCyclic does; but not for the whole run."""

    def main(grid: Grid, context: Context) -> None:
        node = min(grid.get_node_ids())
        (reply,) = grid.send_and_receive([asked(node)])
        assert not reply.has_error()
        kept(context)

    assert failure(running(world, main_of(main), echoing())) == [Reason.COHORT_MINIMUM.code]


def test_too_few_sites_for_a_whole_turn_end_the_run(software_root, chip) -> None:
    """Flower polls for ever; here the enclave answers once they are there, and gives up after ``turn_s``."""
    world = server_world(software_root, chip, minimum=3)
    net = slow(world, server_of(fed_avg), client_with(), ())
    for connection in (3, 4):
        net.perform(net.aggregator.detach(connection, net.now))
    for _ in range(30):
        net.pass_time(30)
        for connection in (1, 2):
            site = net.sites[connection]
            if site.messages and not site.replies:
                net.respond(connection, site.messages[-1])
        if net.aggregator.state.value == "abandoned":
            break
    assert failure(net)[-1] == Reason.COHORT_MINIMUM.code


def test_a_strategy_that_polls_for_more_nodes_than_there_are_is_ended_by_its_turn(software_root, chip) -> None:
    world = server_world(software_root, chip, terms={"turn_s": 2})
    net = running(world, server_of(lambda: fed_avg(min_available_nodes=5)), client_with())
    assert failure(net) == [Reason.SERVER_APP_TURN.code]


GARBAGE = {
    "zeros": bytes(MIB),
    "random": np.random.default_rng(1).bytes(MIB),
    "a length beyond the end": (MIB).to_bytes(8, "big") + bytes(MIB - 8),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_worker_that_answers_garbage_costs_its_answer_alone(world: World, name: str) -> None:
    errors: list[str] = []

    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        errors.extend(reply.error.reason for reply in replies if reply.has_error())
        kept(context)

    net = slow(world, main_of(main), echoing(), world.members[1:])
    net.respond(1, net.sites[1].messages[-1], content=GARBAGE[name])
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert errors == [Reason.MESSAGE_FORM.code]
    assert net.sites[1].receipts == [Reason.MESSAGE_FORM]


def test_an_answer_counts_once_and_under_its_own_name(world: World) -> None:
    def main(grid: Grid, context: Context) -> None:
        list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        kept(context)

    net = slow(world, main_of(main), echoing(), world.members[2:])
    first = net.sites[1]
    net.respond(1, first.messages[-1])
    net.respond(1, first.messages[-1])
    assert first.receipts == [None, Reason.DUPLICATE]
    net.respond(2, net.sites[2].messages[-1], blob="00" * 16)
    assert net.sites[2].receipts == [Reason.ROUND_STATE]


def test_a_session_that_breaks_gets_its_message_again(world: World) -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        assert not any(reply.has_error() for reply in replies)
        kept(context)

    net = slow(world, main_of(main), echoing(), world.members[:3])
    net.perform(net.aggregator.detach(4, net.now))
    again = AppSite(world, "site-4", echoing())
    net.join(again)
    assert len(again.messages) == 1
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])


# --- a server that does what it may not ------------------------------------------------------------------------------


def test_a_server_that_raises_ends_the_run_and_says_nothing(world: World) -> None:
    def main(grid: Grid, context: Context) -> None:
        raise ValueError("the single answer of a member")

    net = running(world, main_of(main), echoing())
    assert failure(net) == [Reason.SERVER_APP_FAILED.code]
    assert "single answer" not in str(net.events)


def test_a_server_that_hangs_is_ended(software_root, chip) -> None:
    world = server_world(software_root, chip, terms={"turn_s": 1})
    net = running(world, main_of(lambda grid, context: time.sleep(30)), echoing())
    assert failure(net) == [Reason.SERVER_APP_TURN.code]


def test_a_message_over_the_plans_size_ends_the_run(world: World) -> None:
    def main(grid: Grid, context: Context) -> None:
        big = RecordDict({"arrays": ArrayRecord([np.zeros(MIB, np.uint8)])})
        grid.send_and_receive([Message(big, node, "query") for node in grid.get_node_ids()])

    assert failure(running(world, main_of(main), echoing())) == [Reason.MESSAGE_SIZE.code]


def test_an_answer_over_the_plans_size_costs_its_site_that_answer(world: World) -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        size = MIB if context.node_config["partition-id"] == 0 else 8
        return Message(RecordDict({"arrays": ArrayRecord([np.zeros(size, np.uint8)])}), reply_to=message)

    errors: list[str] = []

    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        errors.extend(reply.error.reason for reply in replies if reply.has_error())
        kept(context)

    assert running(world, main_of(main), app).aggregator.state.value == "finished"
    assert errors == [Reason.MESSAGE_SIZE.code]


def test_more_exchanges_than_the_plan_allows_end_the_run(software_root, chip) -> None:
    world = server_world(software_root, chip, terms={"max_exchanges": 2})

    def main(grid: Grid, context: Context) -> None:
        for _ in range(3):
            list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        kept(context)

    net = running(world, main_of(main), echoing())
    assert failure(net) == [Reason.SERVER_APP_LIMIT.code]
    assert len(net.outcomes("round-committed")) == 2


MODELS = {
    "none": None,
    "another name": {"weight": np.zeros((40, 25), "f4"), "other": np.zeros(7, "f4")},
    "another shape": {"weight": np.zeros((25, 40), "f4"), "bias": np.zeros(7, "f4")},
    "not finite": {"weight": np.full((40, 25), np.nan), "bias": np.zeros(7)},
    "beyond float32": {"weight": np.full((40, 25), 1e300), "bias": np.zeros(7)},
    "complex": {"weight": np.zeros((40, 25), "c8"), "bias": np.zeros(7, "f4")},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_final_model_that_is_not_in_the_plans_layout_is_not_released(world: World, name: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        list(grid.send_and_receive([asked(node) for node in grid.get_node_ids()]))
        if MODELS[name] is not None:
            kept(context, MODELS[name])

    assert failure(running(world, main_of(main), echoing())) == [Reason.SERVER_APP_MODEL.code]


class Lying(ThreadedServerApp):
    """A child that asks what our code in it never would."""

    def __init__(self, *asks: Ask) -> None:
        self.script = list(asks)
        self.heard = []

    def turn(self, answer: Any) -> Ask:
        return self.script.pop(0) if self.script else Failed(Reason.SERVER_APP_FAILED)

    def stop(self) -> None:
        pass


LIES: dict[str, tuple[tuple[Ask, ...], Reason]] = {
    "sends what it never offered": ((Send(((5, 0),), None),), Reason.SERVER_APP_FAILED),
    "sends to nobody": ((Offer(bytes(MIB)), Send((), None)), Reason.SERVER_APP_FAILED),
    "sends to a node that is none": ((Offer(bytes(MIB)), Send(((5, 0),), None)), Reason.SERVER_APP_FAILED),
    "offers without end": (tuple(Offer(bytes(MIB)) for _ in range(6)), Reason.SERVER_APP_LIMIT),
    "offers another size": ((Offer(bytes(7)),), Reason.MESSAGE_SIZE),
    "collects what never was": ((Collect(3),), Reason.SERVER_APP_FAILED),
    "pulls what never was": ((Pull(1, 5),), Reason.SERVER_APP_FAILED),
    "is done without asking anybody": ((Finished(INITIAL.copy()),), Reason.COHORT_MINIMUM),
    "is done with half a model": ((Finished(INITIAL[:5].copy()),), Reason.SERVER_APP_MODEL),
    "is done with no numbers": ((Finished(np.full_like(INITIAL, np.nan)),), Reason.SERVER_APP_MODEL),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_asks_what_it_may_not_ends_the_run(world: World, lie: str) -> None:
    asks, reason = LIES[lie]
    net = AppNet(world, Lying(*asks))
    net.start()
    for place, member in enumerate(world.members):
        net.join(AppSite(world, member, echoing(), has_initial=place == 0))
    assert failure(net) == [reason.code]


# --- the host, and the aggregator's death ----------------------------------------------------------------------------


def test_an_answer_that_the_host_loses_after_it_counted_is_an_error_to_the_app(world: World) -> None:
    errors: list[str] = []

    def main(grid: Grid, context: Context) -> None:
        names = list(grid.push_messages([asked(node) for node in grid.get_node_ids()]))
        (first,) = grid.pull_messages(names[:1])
        assert not first.has_error()
        for site in nets[0].sites.values():
            nets[0].store.blobs.pop(site.messages[-1].upload, None)
        errors.extend(reply.error.reason for reply in grid.pull_messages(names[1:]))
        kept(context)

    nets: list[AppNet] = []

    class Noted(AppNet):
        def __init__(self, *given: Any) -> None:
            nets.append(self)
            super().__init__(*given)

    net = Noted(world, ThreadedServerApp(HostedServerApp(main_of(main), LAYOUT, {}), MIB))
    net.start()
    for place, member in enumerate(world.members):
        net.join(AppSite(world, member, echoing(), has_initial=place == 0))
    assert net.aggregator.state.value == "finished", getattr(net.port, "error", net.events[-3:])
    assert len(errors) == 3


def test_a_host_that_stops_the_run_ends_the_child(world: World) -> None:
    net = slow(world, server_of(fed_avg), client_with(), ())
    net.perform(net.aggregator.stop(net.now))
    assert net.aggregator.state.value == "stopped"
    assert net.port.stopped


def test_a_paused_run_opens_no_exchange_and_hurries_nobody(world: World) -> None:
    net = slow(world, server_of(fed_avg, rounds=1), client_with(), ())
    net.perform(net.aggregator.pause(net.now))
    for connection, site in net.sites.items():
        net.respond(connection, site.messages[-1])
    net.pass_time(50)
    assert [len(site.messages) for site in net.sites.values()] == [1] * 4
    net.perform(net.aggregator.unpause(net.now))
    assert [len(site.messages) for site in net.sites.values()] == [2] * 4


def successor(net: AppNet, port: Any) -> None:
    """Another aggregator over the same store; the same workers come back to it."""
    before = list(net.sites.values())
    net.port, net.sites, net.due = port, {}, type(net.due)()
    net.aggregator = net.make_aggregator()
    net.start()
    for site in before:
        again = AppSite(net.world, site.member, echoing())
        again.participant = site.participant
        again.identity = site.identity
        net.join(again)


def test_a_later_aggregator_does_not_pretend_to_remember_what_died(world: World) -> None:
    net = slow(world, server_of(fed_avg), client_with(), world.members[:2])
    assert net.aggregator.state.value == "running"
    successor(net, ThreadedServerApp(HostedServerApp(server_of(fed_avg), LAYOUT, {}), MIB))
    assert failure(net) == [Reason.SERVER_APP_LOST.code]
    assert {site.closed.outcome for site in net.sites.values()} == {"abandoned"}


# --- what people agree to --------------------------------------------------------------------------------------------


def plan_with(world: World, **changes: Any) -> Plan:
    return Plan.from_json(replace(world.plan.document, **changes).to_json())


@pytest.mark.parametrize(
    "more",
    [{"server": {"optimizer": "momentum", "learning_rate": 1, "beta_1": 0.9}}, {"proximal_mu": 0.1}, {"trim": 1}],
)
def test_what_our_own_fold_does_is_refused_beside_the_apps_server(more: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        Aggregation.read(TERMS | more)
    assert caught.value.reason in (Reason.DOCUMENT_RULE, Reason.UNKNOWN_FIELD)


@pytest.mark.parametrize("bound", ["max_exchanges", "max_message_mib", "turn_s"])
def test_a_bound_that_is_missing_or_out_of_range_is_refused(bound: str) -> None:
    for value in (None, 0, 1 << 30):
        document = {key: said for key, said in (TERMS | {bound: value}).items() if said is not None}
        with pytest.raises(ProtocolError):
            Aggregation.read(document)


def test_a_plan_with_a_privacy_mechanism_an_exchange_or_its_own_sampling_is_refused(world: World) -> None:
    from trusted.documents.terms import Privacy

    private = Privacy.read(
        {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 1, "epsilon": 8, "delta": 1e-5}
    )
    terms = replace(world.plan.document.aggregation, max_weight=1)
    for changes in (
        {"privacy": private, "aggregation": terms},
        {"exchange": Exchange(model=Encoding.BFLOAT16)},
        {"cohort": Cohort(world.members, 2, 3)},
    ):
        with pytest.raises(DocumentError) as caught:
            plan_with(world, **changes)
        assert caught.value.reason is Reason.DOCUMENT_RULE


def test_a_site_that_says_nothing_of_an_apps_server_refuses_the_plan(software_root, chip) -> None:
    world = server_world(software_root, chip)
    for allowed in (0, TERMS["max_exchanges"] - 1):
        world.site_changes = {"server_app_exchanges": allowed}
        with pytest.raises(DocumentError) as caught:
            world.participant("site-1")
        assert caught.value.reason is Reason.SITE_REFUSES
        assert "server_app_exchanges" in caught.value.detail
    world.site_changes = {"server_app_exchanges": TERMS["max_exchanges"]}
    world.participant("site-1")


def test_a_worker_answers_no_message_of_a_plan_without_an_apps_server_and_trains_in_none_with(
    world: World, software_root, chip
) -> None:
    message = {"type": "message", "round": 1, "node": 7, "message": {}, "upload": {}}
    with pytest.raises(RoundError) as caught:
        World(software_root, chip).participant("site-1").take(message, NOW)
    assert caught.value.reason is Reason.SITE_REFUSES
    task = {"type": "task", "round": 1, "model": {}, "upload": {}}
    with pytest.raises(RoundError) as caught:
        world.participant("site-1").take(task, NOW)
    assert caught.value.reason is Reason.SITE_REFUSES


def test_an_update_is_no_message_under_this_rule_nor_a_reply_under_another(world: World, software_root, chip) -> None:
    net = slow(world, server_of(fed_avg), client_with(), ())
    net.say(1, {"type": "update", "round": 1})
    assert net.closed[1] is Reason.MALFORMED
    plain = Net(World(software_root, chip))
    plain.start()
    plain.join(SimpleSite(plain.world, "site-1", has_initial=True))
    plain.say(1, {"type": "reply", "round": 1})
    assert plain.closed[1] is Reason.MALFORMED


def test_an_aggregator_runs_no_server_for_a_plan_without_one_and_none_without_for_a_plan_with(
    world: World, software_root, chip
) -> None:
    other = World(software_root, chip)
    for of, port in ((other, Lying()), (world, None)):
        with pytest.raises(ValueError, match="only for one"):
            Aggregator(of.federation, of.identity("aggregator"), Net(other).store, server_app=port)


def test_who_is_asked_to_sign_reads_that_the_trusted_code_base_is_larger(world: World) -> None:
    said = "\n".join(explain_plan(world.plan.document, world.charter.document))
    assert "THE TRUSTED CODE BASE IS LARGER" in said
    assert world.plan.document.app.bundle_sha256.hex() in said
    assert "SEES EVERY SINGLE ANSWER" in said
    policy = site_policies.SitePolicy("site-1", bytes(32), (), (), 1, (), NOW, server_app_exchanges=9)
    assert "at most 9 time(s)" in "\n".join(explain_site_policy(policy))
    silent = replace(policy, server_app_exchanges=0)
    assert "server_app_exchanges" not in silent.to_json()
    assert site_policies.SitePolicy.parse(policy.encode()) == policy


def test_a_later_aggregator_goes_on_from_a_final_model_that_was_stored(software_root, chip) -> None:
    """It died while the sites judged that model: the next one has it judged, and releases it."""
    judged = terms_of_evaluation()
    evaluation = {"evaluation": judged, "dataset": DatasetContract(1, COLUMNS)}
    world = server_world(software_root, chip, **evaluation)
    net = slow(world, server_of(fed_avg, rounds=1), client_with(), ())
    for _ in range(2):
        for connection, site in net.sites.items():
            if len(site.messages) > site.replies:
                net.respond(connection, site.messages[-1])
    assert net.outcomes("server-app-finished")
    assert net.aggregator.state.value == "running"
    assert all(site.evaluations for site in net.sites.values())
    before = net.sites[1].evaluations[-1]
    successor(net, Lying())
    assert net.aggregator.state.value == "finished", net.events[-4:]
    assert net.sites[1].evaluations[-1].round == before.round
    assert not np.allclose(released_model(world, net, "site-1"), INITIAL)
    card = card_of(net, world)
    assert any("trusted code base is larger" in said for said in card.content["not_protected"])


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


def test_our_own_fold_and_a_simulation_make_no_model_under_this_rule(world: World) -> None:
    advance, plan = GlobalModel.first(INITIAL.copy(), 0).advance(None, 1), world.plan.document
    with pytest.raises(ValueError, match="own server"):
        fold([], MemoryStore(), terms=plan.aggregation, advance=advance, jobs=Inline())
    with pytest.raises(ValueError, match="own server"):
        Terms.of_plan(plan)
