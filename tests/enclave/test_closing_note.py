"""Whoever was left behind hears how a run ended, from a note that only its own members' keys open."""

from __future__ import annotations

import pytest

from coordinator.enclave.closing import note_name
from tests.enclave.recoveries import Mortal, begun, ended, in_second_round
from tests.world import SimpleSite, World


def ended_run(world: World) -> Mortal:
    net = begun(world)
    assert ended(net)
    return net


def left_behind(net: Mortal, member: str) -> SimpleSite:
    """Of all workers only this one did not hear of the end; a new aggregator is there, and no order starts it."""
    site = net.by_member[member]
    site.closed = None
    net.kill()
    net.connect(member)
    return site


def test_a_worker_that_was_left_behind_is_sent_home_by_a_new_aggregator_without_a_quorum(world):
    net = ended_run(world)
    site = left_behind(net, "site-4")
    assert site.closed is not None
    assert (site.closed.outcome, site.closed.rounds) == ("finished", world.plan.document.rounds)
    assert len(net.outcomes("round-opened")) == world.plan.document.rounds


@pytest.mark.parametrize("change", ["deleted", "altered", "cut"])
def test_without_the_closing_note_it_is_sent_nowhere(world, change):
    net = ended_run(world)
    name = note_name(world.plan.digest)
    note = net.store.blobs[name]
    if change == "deleted":
        del net.store.blobs[name]
    else:
        net.store.blobs[name] = note[:-1] + (b"" if change == "cut" else bytes([note[-1] ^ 1]))
    assert left_behind(net, "site-4").closed is None
    net.connect()
    assert net.by_member["site-4"].closed is not None  # all together know it from the log


def test_a_worker_that_remembers_nothing_opens_no_note_and_starts_nothing(world):
    net = ended_run(world)
    net.kill()
    net.keepers["site-4"].records.clear()
    net.live("site-4")
    net.connect("site-4")
    assert net.by_member["site-4"].closed is None
    assert net.aggregator.state.value == "waiting"


def test_the_closing_note_of_another_run_is_none(world, software_root, chip):
    net, other = ended_run(world), World(software_root, chip)
    theirs = ended_run(other).store.blobs[note_name(other.plan.digest)]
    net.store.blobs[note_name(world.plan.digest)] = theirs
    assert left_behind(net, "site-4").closed is None


def test_the_aggregator_waits_for_whoever_took_part_and_has_not_heard(world):
    net = ended_run(world)
    assert net.aggregator.is_awaited
    for connection in list(net.sites)[:-1]:
        net.say(connection, {"type": "heard"})
        assert net.aggregator.is_awaited
    net.say(list(net.sites)[-1], {"type": "heard"})
    assert not net.aggregator.is_awaited


def test_a_restarted_aggregator_waits_for_those_too_that_only_the_one_before_it_met(world):
    net = in_second_round(world)
    net.kill()
    net.start()
    net.connect("site-1", "site-2", "site-3")
    for _ in range(5):
        net.pass_time(30)
    for connection in list(net.sites):
        if not ended(net):  # two are enough: nobody showed any progress for a lease
            net.contribute(connection, net.sites[connection].tasks[-1])
    assert ended(net)
    for connection in list(net.sites):
        net.say(connection, {"type": "heard"})
    assert net.aggregator.is_awaited
    net.connect("site-4")
    assert net.by_member["site-4"].closed is not None
    net.say(max(net.sites), {"type": "heard"})
    assert not net.aggregator.is_awaited


def test_a_run_that_is_under_way_awaits_nobody(world):
    assert not in_second_round(world).aggregator.is_awaited
