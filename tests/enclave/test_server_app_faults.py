"""An app's own server that does what it may not, a host that loses or stops, and an aggregator that dies."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from coordinator.enclave.server_app.asks import Ask, Collect, Finished, Offer, Pull, Send
from coordinator.enclave.server_flower import HostedServerApp
from tests.enclave.evaluations import COLUMNS, card_of
from tests.enclave.evaluations import terms as terms_of_evaluation
from tests.enclave.runs import released_model
from tests.enclave.server_apps import (
    MIB,
    AppNet,
    AppSite,
    Lying,
    ThreadedServerApp,
    asked,
    echoing,
    failure,
    fed_avg,
    kept,
    main_of,
    running,
    server_of,
    server_world,
    slow,
    successor,
)
from tests.enclave.test_server_app_strategies import client_with
from tests.world import INITIAL, LAYOUT, World
from trusted.documents.terms import DatasetContract
from trusted.errors import Reason


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


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


def test_a_later_aggregator_does_not_pretend_to_remember_what_died(world: World) -> None:
    net = slow(world, server_of(fed_avg), client_with(), world.members[:2])
    assert net.aggregator.state.value == "running"
    successor(net, ThreadedServerApp(HostedServerApp(server_of(fed_avg), LAYOUT, {}), MIB))
    assert failure(net) == [Reason.SERVER_APP_LOST.code]
    assert {site.closed.outcome for site in net.sites.values()} == {"abandoned"}


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
