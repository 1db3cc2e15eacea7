"""Who is there and who is waited for: lost and late members, minimum and quorum (docs/protocol.md §7.1)."""

from __future__ import annotations

from tests.enclave.runs import Manual, keep_alive, manual, running, task
from tests.world import NOW, SimpleSite
from trusted.errors import Reason


def test_a_lost_member_costs_its_own_contribution_only(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    net.perform(net.aggregator.detach(4, net.now))
    assert net.outcomes("round-committed") == []
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-committed")) == 1
    assert {"round": 1, "member": "site-4", "outcome": "gone", "reason": "CHN-407"} in net.outcomes("contribution")


def test_a_member_that_comes_back_in_time_counts(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    net.perform(net.aggregator.detach(4, net.now))
    net.pass_time(30)
    back = net.join(SimpleSite(world, "site-4"))
    net.contribute(back, task(net, back))
    assert {fields["outcome"] for fields in net.outcomes("contribution")} == {"counted"}


def test_round_under_the_minimum_is_abandoned_and_never_folded(world):
    net = manual(world)
    net.contribute(1, task(net, 1))
    for connection in (2, 3, 4):
        net.say(connection, {"type": "failed", "round": 1, "reason": int(Reason.APP_FAILED)})
    assert len(net.outcomes("round-abandoned")) == 1
    assert net.outcomes("round-committed") == []
    assert task(net, 1).round == 2


def test_three_abandoned_rounds_end_the_run(world):
    net = manual(world)
    for number in (1, 2, 3):
        for connection in (1, 2, 3, 4):
            net.say(connection, {"type": "failed", "round": number, "reason": int(Reason.APP_FAILED)})
    assert net.aggregator.state.value == "abandoned"
    assert net.sites[1].closed.outcome == "abandoned"


def test_no_round_opens_under_the_minimum(world):
    net = running(world, ("site-1",), net=Manual(world))
    keep_alive(net, (1,), 600)
    assert net.outcomes("round-opened") == []


def test_a_round_opens_without_everybody_after_one_lease(world):
    net = running(world, ("site-1", "site-2", "site-3"), net=Manual(world))
    assert net.outcomes("round-opened") == []
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-opened")) == 1


def test_no_round_opens_without_a_quorum_of_witnesses(world):
    """The plan's minimum of contributions is two; who may go on without the others' word is another matter."""
    net = running(world, ("site-1", "site-2"), net=Manual(world))
    keep_alive(net, (1, 2), 600)
    assert net.outcomes("round-opened") == []
    waits = net.outcomes("run-waits")[-1]
    assert waits == {"outcome": "witnesses", "waiting_for": ["site-3", "site-4"]}


def test_eviction_of_one_worker_does_not_disturb_the_rest(world):
    net = manual(world)
    net.to_worker = lambda connection, frame: [] if connection == 4 and net.now > NOW else [frame]
    keep_alive(net, (1, 2, 3), 200)
    assert net.closed == {4: Reason.LEASE_EXPIRED}
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-committed")) == 1


def test_a_newer_session_of_a_member_supersedes_the_older(world):
    net = manual(world)
    net.to_worker = lambda connection, frame: [] if connection == 4 else [frame]
    back = net.join(SimpleSite(world, "site-4"))
    assert net.closed == {4: Reason.SUPERSEDED}
    net.contribute(back, task(net, back))
    assert net.sites[back].receipts == [None]
