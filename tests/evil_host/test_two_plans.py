"""Two plans of the same members on one host at one time: neither can read, feed or disturb the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import Host, another_plan, counted, finished, joined, open_release
from tests.world import INITIAL, NOW, MemoryStore, SimpleSite, World
from trusted.blob import open_blob
from trusted.channel.refusal import refusal
from trusted.channel.states import Kind
from trusted.errors import ProtocolError, Reason
from trusted.release import release_name, verify_release
from trusted.wire import label_of

MEMBERS = 4


@pytest.fixture
def plans(world: World) -> tuple[Host, Host]:
    """Both runs, with one store and every member in both, in the middle of their first round."""
    store = MemoryStore()
    return (
        joined(Host(world, store), automatic=False),
        joined(Host(another_plan(world), store), automatic=False),
    )


def finish(host: Host) -> list[set[str]]:
    """Whose contributions each round holds, after all whose session lives have contributed."""
    for connection, site in host.sites.items():
        if site.error is None:
            site.automatic = True
            host.contribute(connection, site.tasks[-1])
    return counted(finished(host))


def frames(host: Host) -> list[bytes]:
    return [frame for sent in (host.sent_up, host.sent_down) for some in sent.values() for frame in some]


def test_both_plans_finish_beside_each_other_in_one_store(world: World, plans: tuple[Host, Host]) -> None:
    for host in plans:
        assert finish(host) == [set(world.members)] * 2
    first, second = (open_release(host, finished(host)) for host in plans)
    np.testing.assert_array_equal(first, second)


def test_every_frame_of_one_plan_is_refused_by_the_other_and_disturbs_nobody(
    world: World, plans: tuple[Host, Host]
) -> None:
    """On connections of its own: a hello is answered to nobody's use, and everything else is refused."""
    for source, target in (plans, plans[::-1]):
        for number, frame in enumerate(frames(source), start=100):
            target.perform(target.aggregator.attach(number, target.now))
            target.perform(target.aggregator.receive(number, frame, target.now))
            hello = label_of(frame) == Kind.HELLO.value
            assert target.closed.pop(number) is (Reason.WRONG_PLAN if hello else Reason.UNEXPECTED_MESSAGE)
    for host in plans:
        assert finish(host) == [set(world.members)] * 2


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_frame_of_one_plan_in_a_live_session_of_the_other_ends_that_session_only(
    world: World, plans: tuple[Host, Host], direction: str
) -> None:
    source, target = plans
    if direction == "up":
        target.perform(target.aggregator.receive(MEMBERS, source.sent_up[MEMBERS][-1], target.now))
        assert target.closed == {MEMBERS: Reason.RECORD}
    else:
        target.down(MEMBERS, source.sent_down[MEMBERS][-1])
        assert target.refused_by(MEMBERS) is Reason.RECORD
    assert finish(target) == [{"site-1", "site-2", "site-3"}] * 2
    assert finish(source) == [set(world.members)] * 2


def test_streams_of_two_plans_that_the_host_crosses_admit_nobody(world: World) -> None:
    """From the first byte on, each member's worker talks to the other plan's aggregator."""
    first, second = Host(world), Host(another_plan(world))
    for at, other in ((first, second), (second, first)):
        for index, member in enumerate(other.world.members):
            at.join(SimpleSite(other.world, member, has_initial=index == 0))
        at.start()
    for host in (first, second):
        assert set(host.closed.values()) == {Reason.WRONG_PLAN}
        assert (host.outcomes("admitted"), host.store.blobs) == ([], {})


def test_the_model_of_one_plan_does_not_open_in_the_other(plans: tuple[Host, Host]) -> None:
    """Not even for the same member, with either plan's key, under either plan's header."""
    (mine, theirs) = (host.sites[1].tasks[-1] for host in plans)
    sealed = plans[1].store.blobs[theirs.model_blob]
    verify_key = plans[1].sites[1].channel.session.peer.verify_key
    cases = {
        Reason.BLOB_PLAN: (mine.model_header, theirs.model_key),
        Reason.BLOB_OPEN: (theirs.model_header, mine.model_key),
    }
    for reason, (header, key) in cases.items():
        with pytest.raises(ProtocolError) as caught:
            list(open_blob([sealed], expected=header, key=key, verify_key=verify_key))
        assert caught.value.reason is reason


class Holding(Host):
    """A host that holds back what members say about their updates, until it has done with the blobs."""

    def __init__(self, world: World, store: MemoryStore) -> None:
        super().__init__(world, store)
        self.held: list[tuple[int, dict[str, Any]]] = []

    def say(self, connection: int, message: dict[str, Any]) -> None:
        if message["type"] == "update":
            self.held.append((connection, message))
        else:
            super().say(connection, message)

    def let_go(self) -> None:
        for connection, message in self.held:
            super().say(connection, message)


def test_all_blobs_exchanged_between_two_plans_count_nowhere(world: World) -> None:
    """Every update of plan A lies under the name of the same member's update of plan B, and the other way round."""
    store = MemoryStore()
    plans = [joined(Holding(each, store), automatic=False) for each in (world, another_plan(world))]
    for connection in plans[0].sites:
        mine, theirs = (host.sites[connection].tasks[-1] for host in plans)
        for host, task in zip(plans, (mine, theirs), strict=True):
            host.contribute(connection, task)
        blobs = store.blobs
        blobs[mine.upload], blobs[theirs.upload] = blobs[theirs.upload], blobs[mine.upload]
    for host in plans:
        host.let_go()
        assert {site.receipts[0] for site in host.sites.values()} == {Reason.BLOB_PLAN}
        assert host.outcomes("round-committed") == []
        assert len(host.outcomes("round-abandoned")) == 1


def test_a_name_of_one_plan_is_no_upload_of_the_other(world: World, plans: tuple[Host, Host]) -> None:
    source, target = plans
    task = target.sites[MEMBERS].tasks[-1]
    foreign = source.sites[MEMBERS].tasks[-1].upload
    target.contribute(MEMBERS, task, blob=foreign.hex())
    assert target.sites[MEMBERS].receipts == [Reason.ROUND_STATE]


def test_stopping_one_plan_does_not_stop_the_other(world: World, plans: tuple[Host, Host]) -> None:
    plans[0].perform(plans[0].aggregator.stop(plans[0].now))
    assert {site.closed and site.closed.outcome for site in plans[0].sites.values()} == {"stopped"}
    assert finish(plans[1]) == [set(world.members)] * 2


def test_evicting_a_member_from_one_plan_leaves_it_in_the_other(world: World, plans: tuple[Host, Host]) -> None:
    plans[0].down(MEMBERS, refusal(Reason.LEASE_EXPIRED))
    plans[0].perform(plans[0].aggregator.detach(MEMBERS, plans[0].now))
    assert finish(plans[1]) == [set(world.members)] * 2


def test_the_release_of_one_plan_under_the_name_of_the_other_is_refused(world: World, plans: tuple[Host, Host]) -> None:
    for host in plans:
        finish(host)
    store, (mine, theirs) = plans[0].store.blobs, (release_name(host.world.plan.digest) for host in plans)
    assert mine != theirs
    for federation, served in ((plans[0].world.federation, store[theirs]), (plans[1].world.federation, store[mine])):
        with pytest.raises(ProtocolError) as caught:
            verify_release(served, federation, NOW)
        assert caught.value.reason is Reason.WRONG_PLAN


def test_recipients_of_one_plan_are_none_of_the_other(software_root: SoftwareRoot, chip: Chip) -> None:
    """A member that may open plan A's model may not open plan B's, on the same host, with the same key."""
    world = World(software_root, chip)
    other = another_plan(world)
    other.plan = world.make_plan(name="for site-2", recipients=("site-2",))
    other.federation = type(world.federation)(world.charter, other.plan)
    store = MemoryStore()
    verified = [finished(joined(Host(each, store))) for each in (world, other)]
    for release, member in zip(verified, ("site-2", "site-1"), strict=True):
        with pytest.raises(ProtocolError) as caught:
            release.open_key(member, world.sealing[member])
        assert caught.value.reason is Reason.UNKNOWN_MEMBER
    assert len(INITIAL) == world.plan.document.layout.elements
