"""A host that gives back another state than the newest, or runs two aggregators: named, and never gone on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.enclave.aggregator import Aggregator
from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import Host, another_plan, counted, finished, flip, joined
from tests.world import MemoryStore, SimpleSite, World
from trusted.errors import Reason
from trusted.ledger.checkpoint import TreeHead
from trusted.ledger.segments import Segment, segment_name
from trusted.ledger.witness import WitnessRecord

SEGMENT, STATE = b"cloister/ledger-segment/v1", b"cloister/run-state/v1"
Blobs = dict[bytes, bytes]


def restarted(host: Host, *, store: MemoryStore | None = None, members: tuple[str, ...] = ()) -> Host:
    """Another aggregator of the same plan, and the living workers of ``members`` (all) at it."""
    second = Host(host.world, store or host.store)
    second.now = host.now
    second.start()
    for site in list(host.sites.values()):
        if not members or site.member in members:
            back = SimpleSite(host.world, site.member)
            back.participant, back.automatic = site.participant, False
            second.join(back)
    return second


def in_second_round(world: World) -> tuple[Host, Blobs]:
    """A run whose second round is open, and what the host held when its first one was."""
    host = joined(Host(world), automatic=False)
    older = dict(host.store.blobs)
    contribute_all(host)
    assert {site.tasks[-1].round for site in host.sites.values()} == {2}
    return host, older


def contribute_all(host: Host) -> None:
    for connection in list(host.sites):
        host.contribute(connection, host.sites[connection].tasks[-1])


def finish(host: Host) -> list[set[str]]:
    for site in host.sites.values():
        site.automatic = True
    contribute_all(host)
    return counted(finished(host))


def blobs_of(host: Host, label: bytes) -> list[bytes]:
    return [name for name, blob in host.store.blobs.items() if label in blob[:64]]


def require_refused(host: Host, *reasons: Reason) -> list[dict[str, Any]]:
    """Nothing was gone on from or begun, for as long as the host gives the wrong thing; the public hears why."""
    for _ in range(30):
        host.pass_time(10)
    told = host.outcomes("state-refused")
    assert {fields["reason"] for fields in told} <= {reason.code for reason in reasons}
    assert told
    assert host.outcomes("recovered") == host.outcomes("round-opened") == host.outcomes("initial-model") == []
    assert all(site.tasks == [] for site in host.sites.values())
    return told


# --- what the host gives back ----------------------------------------------------------------------------------------


def altered(label: bytes, how: Callable[[bytes], bytes]) -> Callable[[Host, Blobs], None]:
    def attack(host: Host, older: Blobs) -> None:
        for name in blobs_of(host, label):
            host.store.blobs[name] = how(host.store.blobs[name])

    return attack


def deleted(label: bytes) -> Callable[[Host, Blobs], None]:
    def attack(host: Host, older: Blobs) -> None:
        for name in blobs_of(host, label):
            del host.store.blobs[name]

    return attack


def rolled_back(host: Host, older: Blobs) -> None:
    """A disk of yesterday: everything on it is genuine."""
    host.store.blobs = dict(older)


def older_under_newer_names(host: Host, older: Blobs) -> None:
    """Yesterday's segment and state lie where today's are looked for."""
    before = {label: blob for label in (SEGMENT, STATE) for blob in older.values() if label in blob[:64]}
    for label, blob in before.items():
        for name in set(blobs_of(host, label)) - set(older):
            host.store.blobs[name] = blob


def segments_exchanged(host: Host, older: Blobs) -> None:
    first, *others = blobs_of(host, SEGMENT)
    blobs = host.store.blobs
    blobs[first], blobs[others[-1]] = blobs[others[-1]], blobs[first]


def models_deleted(host: Host, older: Blobs) -> None:
    for name in [name for name, blob in host.store.blobs.items() if b'"kind":"model"' in blob[:200]]:
        del host.store.blobs[name]


def models_altered(host: Host, older: Blobs) -> None:
    for name in [name for name, blob in host.store.blobs.items() if b'"kind":"model"' in blob[:200]]:
        host.store.blobs[name] = flip(host.store.blobs[name])


ATTACKS = {
    "segments with a bit flipped": (altered(SEGMENT, flip), Reason.STATE_ROLLBACK),
    "segments a byte short": (altered(SEGMENT, lambda blob: blob[:-1]), Reason.STATE_ROLLBACK),
    "segments a byte long": (altered(SEGMENT, lambda blob: blob + b"\0"), Reason.STATE_ROLLBACK),
    "segments of anything": (altered(SEGMENT, lambda blob: bytes(len(blob))), Reason.STATE_ROLLBACK),
    "segments too large": (altered(SEGMENT, lambda blob: blob + bytes(17 << 20)), Reason.TOO_LARGE),
    "no segments": (deleted(SEGMENT), Reason.STATE_MISSING),
    "segments in each other's place": (segments_exchanged, Reason.STATE_ROLLBACK),
    "state with a bit flipped": (altered(STATE, flip), Reason.STATE_ROLLBACK),
    "state a byte short": (altered(STATE, lambda blob: blob[:-1]), Reason.STATE_ROLLBACK),
    "state too large": (altered(STATE, lambda blob: blob + bytes(17 << 20)), Reason.TOO_LARGE),
    "no state": (deleted(STATE), Reason.STATE_MISSING),
    "an older disk": (rolled_back, Reason.STATE_MISSING),
    "older ones under the newer names": (older_under_newer_names, Reason.STATE_ROLLBACK),
    "no model": (models_deleted, Reason.STATE_MISSING),
    "a model with a bit flipped": (models_altered, Reason.STATE_MISSING),
}


@pytest.mark.parametrize(("attack", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_any_other_state_than_the_newest_is_refused_and_the_newest_is_gone_on_from(
    world: World, attack: Callable[[Host, Blobs], None], reason: Reason
) -> None:
    host, older = in_second_round(world)
    honest = dict(host.store.blobs)
    attack(host, older)
    second = restarted(host)
    require_refused(second, reason)
    second.store.blobs.clear()
    second.store.blobs.update(honest)
    second.pass_time(10)
    assert second.outcomes("recovered")[-1]["round"] == 2
    assert finish(second) == [set(world.members)] * 2


def test_the_state_and_log_of_another_plan_are_refused(world: World) -> None:
    host, _ = in_second_round(world)
    foreign, _ = in_second_round(another_plan(world))
    for label in (SEGMENT, STATE):
        for name, other in zip(blobs_of(host, label), blobs_of(foreign, label), strict=False):
            host.store.blobs[name] = foreign.store.blobs[other]
    require_refused(restarted(host), Reason.STATE_ROLLBACK, Reason.STATE_MISSING)  # or it leads to what is not there


def test_the_state_and_log_of_an_earlier_run_of_the_same_plan_are_refused(
    software_root: SoftwareRoot, chip: Chip
) -> None:
    """Genuine in every respect, but for the witnesses: their run is another one."""
    world = World(software_root, chip)
    host, _ = in_second_round(world)
    earlier, _ = in_second_round(world)
    require_refused(restarted(host, store=earlier.store), Reason.STATE_MISSING)


def test_a_rollback_is_told_with_both_logs(world: World) -> None:
    """The newest segment is one that the host made of genuine leaves, leaving out the last."""
    host, _ = in_second_round(world)
    pending = host.sites[1].participant._memory._record.pending
    name = segment_name(world.plan.digest, pending.head)
    segment = Segment.decode(host.store.blobs[name])
    shorter = TreeHead(segment.before.size - 1, segment.before.root)
    host.store.blobs[name] = Segment(segment.before, b"", segment.leaves[:-1] + segment.leaves[-2:-1]).encode()
    (told,) = require_refused(restarted(host), Reason.STATE_ROLLBACK)
    assert told["held"] == f"{pending.head.size}:{pending.head.root.hex()}"
    assert told["offered"].startswith(f"{pending.head.size}:")
    assert told["offered"] != told["held"]
    assert shorter.size < pending.head.size


# --- two aggregators -------------------------------------------------------------------------------------------------


def test_of_two_aggregators_with_half_of_the_members_each_neither_commits(world: World) -> None:
    host, _ = in_second_round(world)
    left = restarted(host, members=("site-1", "site-2"))
    right = restarted(host, members=("site-3", "site-4"))
    for side in (left, right):
        for _ in range(20):
            side.pass_time(10)
        assert side.outcomes("recovered") == side.outcomes("round-opened") == side.outcomes("round-committed") == []


def test_of_two_aggregators_that_both_knew_a_quorum_only_the_later_goes_on(world: World) -> None:
    """The host lets members of the first talk to the second, and back: each of them cosigns for the later one alone."""
    host, _ = in_second_round(world)
    second = restarted(host, members=("site-2", "site-3", "site-4"))
    assert len(second.outcomes("recovered")) == 1
    contribute_all(host)  # the first one still has all its sessions
    for _ in range(5):
        host.pass_time(10)
    assert [fields["round"] for fields in host.outcomes("round-committed")] == [1]
    assert {host.refused_by(connection) for connection in (2, 3, 4)} == {Reason.LEDGER_FORK}
    assert host.aggregator.state.value == "running"
    assert {"site-2", "site-3", "site-4"} <= finish(second)[1]


def test_two_aggregators_that_are_started_at_once_begin_one_run(world: World) -> None:
    """Both are new, on one store; every member greets both. Nobody is in two runs, and one comes to its end."""
    store = MemoryStore()
    first = joined(Host(world, store), automatic=False)
    second = Host(world, store)
    second.start()
    for site in list(first.sites.values()):
        back = SimpleSite(world, site.member)
        back.participant, back.automatic = site.participant, False
        second.join(back)
    assert len(second.outcomes("recovered")) == 1
    assert second.outcomes("initial-model") == []  # it went on with the first one's run, and began none
    assert finish(second) == [set(world.members)] * 2


def test_a_host_that_starts_aggregators_without_end_wins_nothing(world: World) -> None:
    """Each takes the run over; the round that is open stays the same, and no worker trains it twice."""
    host, _ = in_second_round(world)
    uploads = {site.member: site.tasks[-1].upload for site in host.sites.values()}
    for _ in range(6):
        host = restarted(host)
        assert host.outcomes("recovered")[-1]["round"] == 2
        assert {site.tasks[-1].round for site in host.sites.values()} == {2}
    assert len(set(uploads.values())) == 4
    assert finish(host) == [set(world.members)] * 2


# --- frames of the witnesses -----------------------------------------------------------------------------------------


def withheld(host: Host, kind: str) -> None:
    """From now on no message of this type arrives; the records behind it do, until the gap is seen."""
    say = host.say

    def attack(connection: int, message: dict[str, Any]) -> None:
        if message["type"] == kind:
            host.sites[connection].channel.session.send(message)  # on its way, and dropped
        else:
            say(connection, message)

    host.say = attack  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["promised", "cosigned"])
def test_a_withheld_answer_stops_the_run_and_commits_nothing(world: World, kind: str) -> None:
    """Availability is the host's; what it may not have is a result that no quorum knows of."""
    host = Host(world)
    withheld(host, kind)
    joined(host, automatic=True)
    assert host.outcomes("round-committed") == []
    for _ in range(10):
        host.pass_time(10)
    assert host.outcomes("round-committed") == host.outcomes("released") == []
    assert set(host.closed.values()) <= {Reason.RECORD, Reason.LEASE_EXPIRED}


def test_withheld_proposals_stop_the_run_and_the_model_of_an_uncertified_round_leaves_nowhere(world: World) -> None:
    """All frames down from the end of the first round on are dropped: it is folded, and its model is not sealed."""
    host = joined(Host(world), automatic=False)
    before = set(host.store.blobs)
    host.attack_down = lambda connection, frame: []
    contribute_all(host)
    assert host.outcomes("round-committed") == host.outcomes("released") == []
    stored = [blob[:200] for name, blob in host.store.blobs.items() if name not in before]
    assert len(stored) == 6  # the updates, and the closed state with its segment
    assert all(SEGMENT in begin or STATE in begin or b'"kind":"update"' in begin for begin in stored)


def test_a_cosignature_of_an_earlier_session_is_no_record_of_a_later_one(world: World) -> None:
    host = joined(Host(world), automatic=False)
    old = host.sent_up[4][-1]
    second = Aggregator(world.federation, world.identity("aggregator"), host.store)
    host.due.clear()
    back = restarted(host)
    back.perform(back.aggregator.receive(4, old, back.now))
    assert back.closed == {4: Reason.RECORD}
    assert second.state.value == "waiting"


def test_an_aggregator_that_was_overtaken_is_not_followed_by_the_witnesses_that_come_back(world: World) -> None:
    """The second one had a round closed and certified; its last word on that has not reached its witnesses.

    Then the host brings them back to the first, which still has the round open: nothing of it may be cosigned.
    """
    host, _ = in_second_round(world)
    first_log = host.aggregator._run._course.require_journal()
    certified = first_log.certified
    second = restarted(host)
    contribute_all(second)
    assert len(second.outcomes("round-committed")) == 1
    overtaken = second.aggregator._run._course.require_journal().certified
    assert overtaken.size > certified.size
    for connection, site in list(second.sites.items()):
        site.participant._memory._record = as_untold(site, certified)
        back = SimpleSite(world, site.member)
        back.participant, back.automatic = site.participant, False
        host.sites[10 + connection] = back
        host.perform(host.aggregator.attach(10 + connection, host.now))
        host.up(10 + connection, back.channel.begin())
    for connection in (11, 12, 13, 14):
        if host.sites[connection].tasks:
            host.contribute(connection, host.sites[connection].tasks[-1])
    for _ in range(5):
        host.pass_time(10)
    assert [fields["round"] for fields in host.outcomes("round-committed")] == [1]
    assert first_log.certified == certified
    (told,) = host.outcomes("state-refused")
    assert told["reason"] == Reason.LEDGER_FORK.code
    assert told["offered"].startswith(f"{first_log.log.tree.size}:")


def as_untold(site: SimpleSite, certified: TreeHead) -> WitnessRecord:
    """What the witness would remember, had the word that its last cosignature was certified never come."""
    known = site.participant._memory._record
    return replace(known, certified=certified)
