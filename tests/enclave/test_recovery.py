"""A restarted aggregator goes on from the newest that was witnessed, to the same bits, and from nothing else.

Everything is in memory: real admission, real sealing, real witnesses; an aggregator dies by being forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.closing import note_name
from coordinator.enclave.release import History, publish, seal_release
from tests.enclave.test_run import released_model
from tests.world import INITIAL, MemoryStore, Net, SimpleSite, World
from trusted.channel.worker import WorkerChannel
from trusted.errors import Reason
from trusted.release import release_name, verify_release


class MemoryKeeper:
    """A worker's vault: what was written outlives its process."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.records.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.records[name] = content


class Crash(Exception):
    """The power goes out."""


class Mortal(Net):
    """A run whose aggregator and workers may die and come back at any moment."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        super().__init__(world, store)
        self.keepers = {member: MemoryKeeper() for member in world.members}
        self.by_member: dict[str, SimpleSite] = {}
        self.steps_left: int | None = None  # effects until the aggregator dies
        self.uploads: list[tuple[str, bytes]] = []

    def live(self, member: str) -> SimpleSite:
        """A start of this member's worker, with what an earlier one remembered."""
        site = SimpleSite(self.world, member, has_initial=True)
        site.participant = self.world.participant(member, self.keepers[member])
        self.by_member[member] = site
        return site

    def connect(self, *members: str) -> None:
        """New sessions of workers that live already."""
        for member in members or tuple(self.by_member):
            site = self.by_member[member]
            site.channel = WorkerChannel(self.world.federation, site.identity, self.world.membership(member))
            self.join(site)

    def perform_one(self, effect: Any) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                self.steps_left = None
                raise Crash
            self.steps_left -= 1
        super().perform_one(effect)

    def kill(self) -> None:
        """The aggregator dies, with its sessions; another one of the same plan is started."""
        self.due.clear()
        self.sites.clear()
        self.aggregator = Aggregator(self.world.federation, self.world.identity("aggregator"), self.store)

    def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
        """A worker that has sealed its update sends the key again, and no byte."""
        site = self.sites[connection]
        kept = getattr(site, "kept", None)
        if kept is not None and kept["blob"] == task.upload.hex():
            self.say(connection, kept)
            return kept
        self.uploads.append((site.member, task.upload))
        kept = super().contribute(connection, task, **changes)
        site.kept = kept  # type: ignore[attr-defined]
        return kept

    def join(self, site: SimpleSite) -> int:
        connection = self.next_connection = getattr(self, "next_connection", 0) + 1
        self.sites[connection] = site
        self.perform(self.aggregator.attach(connection, self.now))
        self.up(connection, site.channel.begin())
        return connection


def begun(world: World, net: Mortal | None = None, members: Iterable[str] | None = None) -> Mortal:
    net = net or Mortal(world)
    for member in members or world.members:
        net.live(member)
    net.start()
    net.connect()
    return net


def undisturbed(world: World) -> bytes:
    return released_model(world, begun(world), "site-1").tobytes()


def ended(net: Mortal) -> bool:
    return net.aggregator.state.value == "finished"


@pytest.fixture(scope="module")
def expected(world: World) -> bytes:
    return undisturbed(world)


def steps_of(world: World, net: Mortal | None = None) -> int:
    """How many effects a whole run has."""
    net = net or Mortal(world)
    count = 0
    perform_one = net.perform_one

    def counting(effect: Any) -> None:
        nonlocal count
        count += 1
        perform_one(effect)

    net.perform_one = counting  # type: ignore[method-assign]
    begun(world, net)
    return count


def go_on(net: Mortal) -> None:
    net.kill()
    net.start()
    net.connect()


def crash_at(net: Mortal, step: int, act: Callable[[], None]) -> bool:
    """Whether the aggregator died before ``act`` was through."""
    net.steps_left = step
    try:
        act()
    except Crash:
        return True
    finally:
        net.steps_left = None
    return False


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


class Waiting(Mortal):
    """Sites get their tasks and wait for the test."""

    def live(self, member: str) -> SimpleSite:
        site = super().live(member)
        site.automatic = False
        return site


def in_second_round(world: World) -> Waiting:
    net = Waiting(world)
    begun(world, net)
    for connection in list(net.sites):
        net.contribute(connection, net.sites[connection].tasks[-1])
    assert net.outcomes("round-opened")[-1]["round"] == 2
    return net


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
