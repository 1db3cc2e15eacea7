"""Admission between two real sides in memory, and every neighbour of it that must fail (docs/protocol.md §4)."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from tests.world import AGGREGATOR_MEASUREMENT, NOW, WORKER_MEASUREMENT, World
from trusted.channel.aggregator import HANDSHAKE_LIMIT, AggregatorChannel
from trusted.channel.refusal import PeerRefused, refusal
from trusted.channel.states import AGGREGATOR_TABLE, WORKER_TABLE, Kind, State
from trusted.channel.worker import WorkerChannel
from trusted.errors import ProtocolError, Reason
from trusted.wire import pack


def aggregator_of(world: World, **identity: object) -> AggregatorChannel:
    return AggregatorChannel(world.federation, world.identity("aggregator", **identity), NOW)


def admitted(world: World) -> tuple[WorkerChannel, AggregatorChannel]:
    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    (welcome,) = aggregator.receive(join, NOW).replies
    worker.receive(welcome, NOW)
    aggregator.receive(worker.session.send({"type": "ready"}), NOW)
    return worker, aggregator


def refused(channel: WorkerChannel | AggregatorChannel, frame: bytes, now=NOW) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        channel.receive(frame, now)
    assert channel.state is State.CLOSED
    return caught.value.reason


def test_honest_sides_admit_each_other(world):
    worker, aggregator = admitted(world)
    assert aggregator.peer.member == "site-1"
    assert aggregator.peer.result.measurement == WORKER_MEASUREMENT
    assert worker.aggregator.measurement == AGGREGATOR_MEASUREMENT
    assert worker.session.session_id == aggregator.session.session_id
    assert worker.receive(aggregator.session.send({"type": "x"}), NOW).messages == ({"type": "x"},)


def test_assurance_none_is_visible_on_both_sides(world):
    worker, aggregator = admitted(world)
    assert aggregator.peer.result.assurance.value == "none"
    assert worker.aggregator.assurance.value == "none"


def test_nothing_but_nonce_and_digests_leaves_the_worker_before_the_offer_is_verified(world):
    worker = world.worker_channel("site-1")
    hello = worker.begin()
    assert hello.endswith(world.plan.digest)
    assert len(hello) == len(pack("cloister/hello/v1", bytes(32), bytes(32), bytes(32)))
    bad = aggregator_of(world, measurement=b"\x11" * 48)
    (offer,) = bad.receive(hello, NOW).replies
    assert refused(worker, offer) is Reason.MEASUREMENT


def test_worker_of_another_measurement_is_refused(world):
    worker, aggregator = world.worker_channel("site-1", measurement=b"\x11" * 48), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refused(aggregator, join) is Reason.MEASUREMENT


def test_the_aggregators_measurement_does_not_admit_a_worker(world):
    """A genuine enclave in the wrong role: the measurement lists are apart."""
    worker, aggregator = world.worker_channel("site-1", measurement=AGGREGATOR_MEASUREMENT), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refused(aggregator, join) is Reason.MEASUREMENT


def test_evidence_for_another_plan_is_refused(world):
    other = world.make_plan(name="another plan")
    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world, plan=other)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    assert refused(worker, offer) is Reason.HOST_DATA


def test_offer_relayed_from_another_handshake_is_refused(world):
    first, second, aggregator = world.worker_channel("site-1"), world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(first.begin(), NOW).replies
    second.begin()
    assert refused(second, offer) is Reason.REPORT_DATA


def test_join_relayed_to_another_handshake_is_refused(world):
    worker, aggregator, other = world.worker_channel("site-1"), aggregator_of(world), aggregator_of(world)
    hello = worker.begin()
    (offer,) = aggregator.receive(hello, NOW).replies
    other.receive(hello, NOW)
    (join,) = worker.receive(offer, NOW).replies
    assert refused(other, join) is Reason.OPEN_FAILED


def test_swapped_key_in_an_offer_is_refused(world):
    """A host that puts its own key beside genuine evidence learns nothing."""
    from trusted.hpke import SealingKey
    from trusted.wire import unpack

    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    evidence, _, verify, nonce, boot = unpack(offer, "cloister/offer/v1", 5)
    forged = pack("cloister/offer/v1", evidence, SealingKey.generate().public, verify, nonce, boot)
    assert refused(worker, forged) is Reason.REPORT_DATA


def test_credential_of_a_stranger_is_refused(world):
    aggregator = aggregator_of(world)
    membership = world.membership("site-1", signed_by="site-2")
    worker = WorkerChannel(world.federation, world.identity("worker"), membership)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refused(aggregator, join) is Reason.CREDENTIAL


def test_stolen_credential_without_its_key_is_refused(world):
    from trusted.channel.worker import Membership

    aggregator, stolen = aggregator_of(world), world.membership("site-1")
    membership = Membership(stolen.credential, world.worker_keys["site-2"], stolen.commitment)
    worker = WorkerChannel(world.federation, world.identity("worker"), membership)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refused(aggregator, join) is Reason.PEER_SIGNATURE


def test_member_outside_the_plans_cohort_is_refused(software_root, chip):
    world = World(software_root, chip, plan_changes={"recipients": ("site-1",)})
    smaller = world.make_plan(cohort=type(world.plan.document.cohort)(("site-2", "site-3", "site-4"), 2, 3))
    from trusted.channel.federation import Federation

    world.plan, world.federation = smaller, Federation(world.charter, smaller)
    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refused(aggregator, join) is Reason.UNKNOWN_MEMBER


def test_stale_nonce_is_refused(world):
    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    late = NOW + HANDSHAKE_LIMIT + timedelta(seconds=1)
    assert refused(aggregator, join, late) is Reason.NONCE


def test_silent_handshake_times_out(world):
    aggregator = aggregator_of(world)
    aggregator.require_progress(NOW + HANDSHAKE_LIMIT)
    with pytest.raises(ProtocolError) as caught:
        aggregator.require_progress(NOW + HANDSHAKE_LIMIT + timedelta(seconds=1))
    assert caught.value.reason is Reason.HANDSHAKE_TIMEOUT


def test_hello_for_another_plan_or_charter_is_refused(world):
    nonce, charter, plan = bytes(32), world.charter.digest, world.plan.digest
    assert refused(aggregator_of(world), pack("cloister/hello/v1", nonce, bytes(32), plan)) is Reason.WRONG_CHARTER
    assert refused(aggregator_of(world), pack("cloister/hello/v1", nonce, charter, bytes(32))) is Reason.WRONG_PLAN


def test_forged_welcome_is_refused(world):
    """A host that says `admitted` without having been able to open the join."""
    from trusted import hpke

    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    worker.receive(offer, NOW)
    body = pack("cloister/welcome-body/v1", bytes(32), bytes(16), (120).to_bytes(4, "big"))
    sealed = hpke.seal(hpke.SealingKey.generate().public, body, b"welcome")
    assert refused(worker, pack("cloister/welcome/v1", sealed)) is Reason.OPEN_FAILED


def handshake_with_a_flip(world: World, place: int, position: int) -> tuple[WorkerChannel, AggregatorChannel]:
    """All four frames of a handshake, one bit flipped in one of them; stops where a side refuses."""
    worker, aggregator = world.worker_channel("site-1"), aggregator_of(world)
    frame, receivers = worker.begin(), (aggregator, worker, aggregator, worker)
    with contextlib.suppress(ProtocolError):
        for number, receiver in enumerate(receivers):
            replies = receiver.receive(_flip(frame, position, number == place), NOW).replies
            frame = replies[0] if replies else b""
    return worker, aggregator


def test_every_bit_flip_in_a_handshake_closes_it(world):
    """Sampled over all frames: wherever the host flips a bit, nobody is admitted."""
    assert [side.state for side in handshake_with_a_flip(world, -1, 0)] == [State.OPEN, State.AWAIT_CONFIRM]
    for place in range(4):
        for position in range(0, 4000, 397):
            worker, aggregator = handshake_with_a_flip(world, place, position)
            assert State.CLOSED in (worker.state, aggregator.state)
            assert State.OPEN not in (worker.state, aggregator.state)


def _flip(frame: bytes, position: int, really: bool) -> bytes:
    if not really:
        return frame
    position %= len(frame)
    return frame[:position] + bytes([frame[position] ^ 1]) + frame[position + 1 :]


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.REFUSE], ids=lambda kind: kind.name)
def test_every_pair_absent_from_a_table_closes_the_session(world, state, kind):
    frame = pack(kind.value, b"x")
    sides = ((world.worker_channel("site-1"), WORKER_TABLE), (aggregator_of(world), AGGREGATOR_TABLE))
    for channel, table in sides:
        if (state, kind) in table:
            continue
        channel.state = state
        assert refused(channel, frame) is Reason.UNEXPECTED_MESSAGE


def test_a_refusal_ends_the_session_and_is_only_a_hint(world):
    worker = world.worker_channel("site-1")
    worker.begin()
    with pytest.raises(PeerRefused) as caught:
        worker.receive(refusal(Reason.TCB_FLOOR), NOW)
    assert caught.value.reason is Reason.PEER_REFUSED
    assert caught.value.peer_reason is Reason.TCB_FLOOR
    assert worker.state is State.CLOSED


def test_unknown_frame_label_closes_the_session(world):
    assert refused(aggregator_of(world), pack("cloister/other/v1", b"")) is Reason.UNEXPECTED_MESSAGE
