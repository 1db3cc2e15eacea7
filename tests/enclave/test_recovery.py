"""A restarted aggregator goes on from the newest that was witnessed, to the same bits, and from nothing else.

Everything is in memory: real admission, real sealing, real witnesses; an aggregator dies by being forgotten.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from coordinator.enclave.release import History, publish, seal_release
from tests.enclave.recoveries import Mortal, Waiting, begun, crash_at, ended, go_on, in_second_round, steps_of
from tests.enclave.runs import released_model
from tests.world import INITIAL, MemoryStore, World
from trusted.errors import Reason
from trusted.release import release_name, verify_release


def undisturbed(world: World) -> bytes:
    return released_model(world, begun(world), "site-1").tobytes()


@pytest.fixture(scope="module")
def expected(world: World) -> bytes:
    return undisturbed(world)


def test_an_aggregator_that_dies_at_any_step_is_replaced_and_the_model_is_the_same(world, expected):
    total = steps_of(world)
    assert total > 50
    for step in range(0, total, 4):
        net = Mortal(world)
        died = crash_at(net, step, lambda net=net: begun(world, net))
        if died and len(net.by_member) == len(world.members):
            go_on(net)
        if not ended(net):  # the run's state says that it is over once the first aggregator said so
            assert net.outcomes("run-ended"), step
        assert released_model(world, net, "site-1").tobytes() == expected, step
        errors = {site.error and site.error.reason for site in net.by_member.values()}
        assert errors <= {None, Reason.PEER_REFUSED}, step


def test_no_worker_uploads_twice_when_the_aggregator_dies(world):
    total = steps_of(world)
    for step in range(1, total, 9):
        net = Mortal(world)
        if crash_at(net, step, lambda net=net: begun(world, net)):
            go_on(net)
        assert len(net.uploads) == len(set(net.uploads)), step


def test_everybody_dies_at_once_and_comes_back(world, expected):
    total = steps_of(world)
    for step in range(2, total, 7):
        net = Mortal(world)
        if crash_at(net, step, lambda net=net: begun(world, net)):
            for member in world.members:
                net.live(member)
            go_on(net)
        assert net.outcomes("run-ended"), step
        assert released_model(world, net, "site-1").tobytes() == expected, step


def test_an_aggregator_that_dies_again_and_again_comes_to_the_end(world, expected):
    net = Mortal(world)
    crash_at(net, 20, lambda: begun(world, net))
    for step in range(25, 400, 12):
        net.kill()

        def again() -> None:
            net.start()
            net.connect()

        if not crash_at(net, step, again):
            break
    assert ended(net)
    assert released_model(world, net, "site-1").tobytes() == expected


def finish(net: Mortal) -> None:
    while not ended(net) and net.sites:
        before = len(net.outcomes("round-committed"))
        for connection in list(net.sites):
            net.contribute(connection, net.sites[connection].tasks[-1])
        for _ in range(14):  # a member that another aggregator has is waited for one lease
            if len(net.outcomes("round-committed")) > before or ended(net):
                break
            net.pass_time(10)
        assert len(net.outcomes("round-committed")) > before or ended(net)


def test_an_older_disk_is_refused_and_both_logs_are_named(world, expected):
    net = Waiting(world)
    begun(world, net)
    older = dict(net.store.blobs)
    for connection in list(net.sites):
        net.contribute(connection, net.sites[connection].tasks[-1])
    newer, net.store.blobs = net.store.blobs, older
    go_on(net)
    (refused,) = net.outcomes("state-refused")
    assert refused["reason"] == Reason.STATE_MISSING.code
    assert len(net.outcomes("round-opened")) == 2
    net.store.blobs = newer  # the host finds the right disk
    net.pass_time(6)
    assert len(net.outcomes("recovered")) == 1
    finish(net)
    assert released_model(world, net, "site-1").tobytes() == expected


def test_deleted_state_is_refused_and_no_second_run_begins(world):
    net = in_second_round(world)
    net.store.blobs.clear()
    go_on(net)
    net.pass_time(6)
    (refused,) = net.outcomes("state-refused")
    assert refused["reason"] == Reason.STATE_MISSING.code
    assert len(net.outcomes("round-opened")) == 2
    assert len(net.outcomes("initial-model")) == 1


def test_a_jump_of_the_clock_is_no_lease_in_which_the_host_could_have_found_the_right_disk(world):
    net = in_second_round(world)
    for member in world.members[1:]:
        net.keepers[member].records.clear()
    net.store.blobs.clear()
    net.kill()
    for member in world.members:
        net.live(member)
    net.start()
    net.connect()
    course, by = net.aggregator._run._course, timedelta(hours=1)
    net.now += by
    net.perform(net.aggregator.clock_jumped(by, net.now))
    net.connect()
    for _ in range(11):
        net.pass_time(10)
        assert course.journal is None
    net.pass_time(10)
    assert course.journal is not None  # one lease has passed, and a quorum knows of no run
    assert [told["reason"] for told in net.outcomes("state-refused")] == [Reason.STATE_MISSING.code]


@pytest.mark.parametrize("place", ["segment", "state"])
def test_altered_state_is_refused(world, place):
    net = in_second_round(world)
    label = {"segment": b"cloister/ledger-segment/v1", "state": b"cloister/run-state/v1"}[place]
    for name, blob in net.store.blobs.items():
        if label in blob[:64]:
            net.store.blobs[name] = blob[:-5] + bytes([blob[-5] ^ 1]) + blob[-4:]
    go_on(net)
    (refused,) = net.outcomes("state-refused")
    assert refused["reason"] == Reason.STATE_ROLLBACK.code
    assert len(net.outcomes("round-opened")) == 2


def test_the_state_of_another_run_is_refused(world, software_root, chip):
    net, other = in_second_round(world), in_second_round(World(software_root, chip))
    theirs = [blob for blob in other.store.blobs.values() if b"cloister/run-state/v1" in blob[:64]]
    for name, blob in net.store.blobs.items():
        if b"cloister/run-state/v1" in blob[:64]:
            net.store.blobs[name] = theirs[0]
    go_on(net)
    (refused,) = net.outcomes("state-refused")
    assert refused["reason"] == Reason.STATE_ROLLBACK.code


def test_nothing_goes_on_before_a_quorum_of_witnesses_is_back(world):
    net = in_second_round(world)
    net.kill()
    net.start()
    net.connect("site-1", "site-2")
    assert net.outcomes("recovered") == []
    assert net.outcomes("run-waits")[-1] == {"outcome": "witnesses", "waiting_for": ["site-3", "site-4"]}
    net.connect("site-4")
    assert len(net.outcomes("recovered")) == 1


def test_a_second_aggregator_cannot_fork_the_run(world):
    """The host starts another one and gives it a part of the members: whoever has no quorum commits nothing."""
    net = in_second_round(world)
    other = Waiting(world, net.store)
    other.by_member = {member: net.by_member[member] for member in ("site-3", "site-4")}
    other.start()
    other.connect()
    assert other.outcomes("recovered") == other.outcomes("round-opened") == []
    for connection in (1, 2):
        net.contribute(connection, net.sites[connection].tasks[-1])
    net.pass_time(1)
    assert len(net.outcomes("round-committed")) == 1  # the first one needs a third witness, and waits


def test_the_first_aggregator_loses_its_witnesses_to_the_second_and_is_told(world):
    net = in_second_round(world)
    other = Waiting(world, net.store)
    other.by_member = {member: net.by_member[member] for member in ("site-2", "site-3", "site-4")}
    for connection in (2, 3, 4):
        del net.sites[connection]
        net.perform(net.aggregator.detach(connection, net.now))
    other.start()
    other.connect()
    assert len(other.outcomes("recovered")) == 1
    net.contribute(1, net.sites[1].tasks[-1])
    net.pass_time(601)
    assert len(net.outcomes("round-committed")) == 1
    finish(other)
    assert ended(other)
    assert not ended(net)


def test_a_worker_that_forgot_takes_part_again(world, expected):
    net = in_second_round(world)
    net.keepers["site-4"].records.clear()
    net.kill()
    net.live("site-4")
    net.start()
    net.connect()
    assert len(net.outcomes("recovered")) == 1
    finish(net)
    assert released_model(world, net, "site-1").tobytes() == expected


def test_a_worker_that_restarts_gets_another_name_for_its_update(world):
    net = in_second_round(world)
    before = net.by_member["site-4"].tasks[-1].upload
    net.live("site-4")
    net.connect("site-4")
    again = net.by_member["site-4"].tasks[-1]
    assert again.round == 2
    assert again.upload != before


def test_a_member_that_is_gone_for_a_lease_still_counts_when_it_comes_back_in_time(world):
    net = in_second_round(world)
    gone = net.by_member["site-4"]
    connection = next(number for number, site in net.sites.items() if site is gone)
    del net.sites[connection]
    net.perform(net.aggregator.detach(connection, net.now))
    for _ in range(5):
        net.pass_time(30)
    told = {"round": 2, "member": "site-4", "outcome": "gone", "reason": Reason.LEASE_EXPIRED.code}
    assert told in net.outcomes("contribution")
    net.connect("site-4")
    assert gone.tasks[-1].round == 2
    for number in list(net.sites):
        net.contribute(number, net.sites[number].tasks[-1])
    assert net.outcomes("round-committed")[-1]["round"] == 2
    counted = [told["member"] for told in net.outcomes("contribution") if told["outcome"] == "counted"]
    assert counted[4:] == ["site-1", "site-2", "site-3", "site-4"]


def test_models_and_updates_are_nowhere_in_clear_at_the_host(world):
    net = in_second_round(world)
    model = np.asarray(
        net.sites[1].models[-1] if net.sites[1].models else net.train(net.sites[1], net.sites[1].tasks[-1])
    )
    for blob in net.store.blobs.values():
        assert model[:8].tobytes() not in blob


def test_every_contributor_is_shown_its_contribution_in_the_log_that_it_cosigned(world):
    net = begun(world)
    for site in net.by_member.values():
        assert [shown.round for shown in site.included] == [1, 2]
        sent = [uploaded for member, uploaded in net.uploads if member == site.member]
        assert len(sent) == 2
        assert site.included[-1].prefix_sha256.hex() == site.kept["prefix_sha256"]


def test_what_a_checkpoint_makes_superfluous_is_discarded(world):
    net = begun(world)
    states = [blob for blob in net.store.blobs.values() if b"cloister/run-state/v1" in blob[:64]]
    others = [blob for blob in net.store.blobs.values() if b"cloister/" not in blob[:64]]
    others = [blob for blob in others if b'"kind":"initial"' not in blob[:200]]  # of those who were not the first
    assert len(states) == 1
    assert len(others) == 1  # the released model


def test_a_site_that_promised_itself_to_a_fork_comes_back_and_everybody_goes_on(world, expected):
    """The others keep their sessions, and let go of what they cosigned in the epoch before."""
    net = in_second_round(world)
    gone = net.by_member["site-4"]
    (connection,) = [number for number, site in net.sites.items() if site is gone]
    del net.sites[connection]
    net.perform(net.aggregator.detach(connection, net.now))
    fork = Waiting(world, net.store)
    fork.by_member = {"site-4": gone}
    fork.connect()
    net.connect("site-4")
    assert {site.error for site in net.by_member.values()} == {None}
    finish(net)
    assert released_model(world, net, "site-1").tobytes() == expected


class Slow(MemoryStore):
    """A host that discards in its own time."""

    def __init__(self) -> None:
        super().__init__()
        self.discarded: list[bytes] = []

    def discard(self, blob: bytes) -> None:
        self.discarded.append(blob)


def test_a_release_takes_the_place_of_an_earlier_one_only_when_that_is_gone(world):
    store, identity, name = Slow(), world.identity("aggregator"), release_name(world.plan.digest)
    vector, history = np.zeros(INITIAL.size, dtype="<f4"), History([(1, world.members)])
    release = seal_release(world.federation, identity, store, model=vector, history=history)
    store.blobs[name] = b"an earlier one"
    with pytest.raises(ConnectionError):
        publish(release, identity, store)
    assert store.blobs[name] == b"an earlier one"
    assert store.discarded == [name]
    del store.blobs[name]
    publish(release, identity, store)
    assert store.discarded == [name]  # nothing was there: what is asked of the host now could come behind the write
    assert verify_release(store.blobs[name], world.federation, world.now).release == release
