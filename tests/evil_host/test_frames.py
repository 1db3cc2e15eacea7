"""A host that tampers with frames in the middle of a run: refused by reason, and the run goes on for the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import VICTIM, Host, counted, everybody_but, finished, flip, joined
from tests.world import SimpleSite, World
from trusted.channel.aggregator import HANDSHAKE_LIMIT
from trusted.channel.refusal import refusal
from trusted.errors import Reason
from trusted.wire import MAX_RECORD_BYTES, pack

HELLO, JOIN, READY, PROMISED, UPDATE, COSIGNED = (("up", place) for place in range(6))
OFFER, WELCOME, EPOCH, TASK, WITNESS, RECEIPT = (("down", place) for place in range(6))
RECORDS = (READY, PROMISED, UPDATE, COSIGNED, EPOCH, TASK, WITNESS, RECEIPT)
ALL = (HELLO, JOIN, OFFER, WELCOME, *RECORDS)

Alter = Callable[[bytes], list[bytes]]


def attacked(world: World, place: tuple[str, int], alter: Alter) -> Host:
    """A run in which the host does ``alter`` to one frame of the victim's session, and is honest otherwise."""
    host, (direction, index) = Host(world), place

    def attack(connection: int, frame: bytes) -> list[bytes]:
        sent = (host.sent_up if direction == "up" else host.sent_down)[connection]
        return alter(frame) if (connection, len(sent) - 1) == (VICTIM, index) else [frame]

    if direction == "up":
        host.attack_up = attack
    else:
        host.attack_down = attack
    return joined(host)


def require_only_the_victim_lost(host: Host, reason: Reason) -> None:
    """The run finishes, every round holds everybody else, and the victim's session ended for ``reason``."""
    verified = finished(host)
    assert reason in host.refusals(VICTIM)
    assert all(members >= everybody_but(host, VICTIM) for members in counted(verified))
    assert set(host.closed) <= {VICTIM}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (HELLO, Reason.UNEXPECTED_MESSAGE),
        (JOIN, Reason.UNEXPECTED_MESSAGE),
        (OFFER, Reason.UNEXPECTED_MESSAGE),
        (WELCOME, Reason.UNEXPECTED_MESSAGE),
        *((place, Reason.RECORD) for place in RECORDS),
    ],
)
def test_a_frame_replayed_in_its_own_session_ends_that_session_only(
    world: World, place: tuple[str, int], reason: Reason
) -> None:
    require_only_the_victim_lost(attacked(world, place, lambda frame: [frame, frame]), reason)


@pytest.mark.parametrize("place", [HELLO, JOIN, OFFER, WELCOME, READY])
def test_a_dropped_handshake_frame_times_out_and_holds_nobody_up(world: World, place: tuple[str, int]) -> None:
    host = attacked(world, place, lambda frame: [])
    finished(host)
    for _ in range(5):  # its handshake may last as long as the others wait for it
        host.pass_time(30)
    require_only_the_victim_lost(host, Reason.HANDSHAKE_TIMEOUT)


def test_a_record_after_a_dropped_one_is_refused(world: World) -> None:
    host = attacked(world, TASK, lambda frame: [])
    assert host.sites[VICTIM].tasks == []
    host.pass_time(70)  # the challenge is the next record: its number gives the gap away
    require_only_the_victim_lost(host, Reason.RECORD)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (HELLO, Reason.WRONG_PLAN),
        (JOIN, Reason.OPEN_FAILED),
        (OFFER, Reason.REPORT_DATA),
        (WELCOME, Reason.OPEN_FAILED),
        *((place, Reason.RECORD) for place in RECORDS),
    ],
)
def test_a_flipped_bit_in_a_frame_ends_that_session_only(world: World, place: tuple[str, int], reason: Reason) -> None:
    require_only_the_victim_lost(attacked(world, place, lambda frame: [flip(frame)]), reason)


@pytest.mark.parametrize("place", ALL)
@pytest.mark.parametrize(
    "alter",
    [lambda frame: [frame[:-1]], lambda frame: [frame[: len(frame) // 2]], lambda frame: [b""]],
    ids=["a byte short", "half", "empty"],
)
def test_a_truncated_frame_ends_that_session_only(world: World, place: tuple[str, int], alter: Alter) -> None:
    require_only_the_victim_lost(attacked(world, place, alter), Reason.MALFORMED)


@pytest.mark.parametrize("place", ALL)
def test_a_byte_after_a_frame_ends_that_session_only(world: World, place: tuple[str, int]) -> None:
    require_only_the_victim_lost(attacked(world, place, lambda frame: [frame + b"\0"]), Reason.MALFORMED)


@pytest.mark.parametrize("place", ALL)
def test_an_oversized_frame_is_refused_before_it_is_parsed(world: World, place: tuple[str, int]) -> None:
    host = attacked(world, place, lambda frame: [frame + bytes(MAX_RECORD_BYTES)])
    require_only_the_victim_lost(host, Reason.TOO_LARGE)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (HELLO, Reason.REPORT_DATA),
        (JOIN, Reason.OPEN_FAILED),
        (OFFER, Reason.REPORT_DATA),
        (WELCOME, Reason.OPEN_FAILED),
        *((place, Reason.RECORD) for place in RECORDS if place not in (UPDATE, COSIGNED, RECEIPT)),
    ],
)
def test_a_frame_of_another_members_session_is_refused(world: World, place: tuple[str, int], reason: Reason) -> None:
    """The host delivers, in the victim's session, the frame that stands at the same place in another's."""
    host, (direction, index) = Host(world), place

    def attack(connection: int, frame: bytes) -> list[bytes]:
        sent = host.sent_up if direction == "up" else host.sent_down
        if (connection, len(sent[connection]) - 1) != (VICTIM, index):
            return [frame]
        return [sent[3][index]]

    if direction == "up":
        host.attack_up = attack
    else:
        host.attack_down = attack
    require_only_the_victim_lost(joined(host), reason)


def test_a_task_of_another_members_session_is_refused(world: World) -> None:
    host = Host(world)
    place = TASK[1]
    host.attack_down = lambda connection, frame: [
        host.sent_down[3][place] if (connection, len(host.sent_down[connection]) - 1) == (VICTIM, place) else frame
    ]
    joined(host, automatic=False)
    assert (host.sites[VICTIM].tasks, host.closed) == ([], {VICTIM: Reason.PEER_REFUSED})
    require_the_others_finish(host)


def require_the_others_finish(host: Host) -> None:
    """The members that still have a session contribute to both rounds, and nobody else does."""
    left = [connection for connection in host.sites if connection not in host.closed]
    for connection in left:
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert counted(finished(host)) == [{host.sites[connection].member for connection in left}] * 2


def test_sessions_crossed_for_good_are_both_closed_and_the_others_finish(
    software_root: SoftwareRoot, chip: Chip
) -> None:
    """From the middle of a round on, the host crosses connections 3 and 4 of five in both directions."""
    world = World(software_root, chip, members=("site-1", "site-2", "site-3", "site-4", "site-5"))
    host = joined(Host(world), automatic=False)
    said = {"type": "progress", "round": 1, "stage": "train", "percent": 1}
    frames = {connection: host.sites[connection].channel.session.send(said) for connection in (3, 4)}
    host.attack_down = lambda connection, frame: [frame] if connection in (1, 2, 5) else []
    host.perform(host.aggregator.receive(3, frames[4], host.now))
    host.perform(host.aggregator.receive(4, frames[3], host.now))
    assert host.closed == {3: Reason.RECORD, 4: Reason.RECORD}
    require_the_others_finish(host)


def test_records_in_another_order_are_refused(world: World) -> None:
    host = joined(Host(world), automatic=False)
    session = host.sites[VICTIM].channel.session
    said = [{"type": "progress", "round": 1, "stage": "train", "percent": percent} for percent in (10, 20)]
    frames = [session.send(message) for message in said]
    host.perform(host.aggregator.receive(VICTIM, frames[1], host.now))
    assert host.closed == {VICTIM: Reason.RECORD}
    assert host.outcomes("progress") == []


def test_an_update_record_delivered_twice_counts_once(world: World) -> None:
    host = joined(Host(world), automatic=False)
    host.contribute(VICTIM, host.sites[VICTIM].tasks[-1])
    host.perform(host.aggregator.receive(VICTIM, host.sent_up[VICTIM][-1], host.now))
    assert host.closed == {VICTIM: Reason.RECORD}
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert counted(finished(host))[0] == set(world.members)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 1 << 63])
def test_a_forged_record_from_the_host_says_nothing_to_a_worker(world: World, number: int) -> None:
    """Task, receipt and closed are records: a host that holds no key can spell none of them."""
    host = joined(Host(world), automatic=False)
    host.down(VICTIM, pack("cloister/record/v1", number.to_bytes(8, "big"), bytes(200)))
    assert host.refusals(VICTIM) >= {Reason.RECORD}
    assert (host.sites[VICTIM].receipts, host.sites[VICTIM].closed) == ([], None)


def test_a_workers_own_words_come_back_as_nothing(world: World) -> None:
    """Reflection: the key of one direction opens nothing of the other."""
    host = joined(Host(world), automatic=False)
    host.down(VICTIM, host.sent_up[VICTIM][-1])
    assert Reason.RECORD in host.refusals(VICTIM)


def test_a_receipt_of_an_earlier_round_cannot_stand_for_a_later_one(world: World) -> None:
    host = joined(Host(world), automatic=False)
    for connection in host.sites:
        host.contribute(connection, host.sites[connection].tasks[-1])
    receipt = host.sent_down[VICTIM][RECEIPT[1]]
    assert host.sites[VICTIM].receipts == [None]
    host.down(VICTIM, receipt)
    assert host.sites[VICTIM].receipts == [None]
    assert Reason.RECORD in host.refusals(VICTIM)


@pytest.mark.parametrize("reason", [Reason.LEASE_EXPIRED, Reason.MEASUREMENT, Reason.COHORT_MINIMUM])
def test_a_forged_refusal_costs_one_session_and_the_site_comes_back(world: World, reason: Reason) -> None:
    """A refusal is unauthenticated: it is a hint, it ends this session, and it never says that a run is over."""
    host = joined(Host(world), automatic=False)
    host.down(VICTIM, refusal(reason))
    assert host.refusals(VICTIM) == {Reason.PEER_REFUSED}
    assert host.sites[VICTIM].closed is None
    host.perform(host.aggregator.detach(VICTIM, host.now))
    host.join(SimpleSite(world, "site-4"))
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert counted(finished(host)) == [set(world.members)] * 2


def test_a_join_that_the_host_held_back_is_stale(world: World) -> None:
    """The nonce it answers is too old, also when the host never lets the aggregator's clock tick in between."""
    host, held = Host(world), []

    def hold_the_join(connection: int, frame: bytes) -> list[bytes]:
        if (connection, len(host.sent_up[connection])) != (VICTIM, 2):
            return [frame]
        held.append(frame)
        return []

    host.attack_up = hold_the_join
    joined(host)
    host.now += HANDSHAKE_LIMIT + timedelta(seconds=1)
    host.perform(host.aggregator.receive(VICTIM, held[0], host.now))
    assert host.closed[VICTIM] in {Reason.NONCE, Reason.HANDSHAKE_TIMEOUT}
    assert [fields["member"] for fields in host.outcomes("admitted")] == ["site-1", "site-2", "site-3"]


def test_a_join_recorded_in_one_run_admits_nobody_in_the_next(world: World) -> None:
    first = joined(Host(world), automatic=False)
    second = joined(Host(world), ("site-1", "site-2", "site-3"), automatic=False)
    second.perform(second.aggregator.attach(9, second.now))
    for frame in first.sent_up[VICTIM]:
        second.perform(second.aggregator.receive(9, frame, second.now))
    assert second.closed == {9: Reason.OPEN_FAILED}
    assert "site-4" not in {fields["member"] for fields in second.outcomes("admitted")}
