"""Who answers an app's own server, and who does not: what a fault costs, and when the run ends for it."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Context
from flwr.serverapp import Grid

from tests.enclave.server_apps import (
    MIB,
    AppSite,
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
)
from tests.enclave.test_server_app_strategies import client_with
from tests.world import World
from trusted.errors import Reason


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


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
