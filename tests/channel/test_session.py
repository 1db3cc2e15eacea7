"""Records and re-attestation of an open session (docs/protocol.md §4.2)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.channel.test_handshake import admitted, aggregator_of, refused
from tests.world import NOW
from trusted.channel.states import Kind, State
from trusted.errors import ProtocolError, Reason
from trusted.wire import pack, unpack


def test_replayed_record_is_refused(world):
    worker, aggregator = admitted(world)
    frame = worker.session.send({"type": "x"})
    aggregator.receive(frame, NOW)
    assert refused(aggregator, frame) is Reason.RECORD


def test_reordered_record_is_refused(world):
    worker, aggregator = admitted(world)
    worker.session.send({"type": "first"})
    assert refused(aggregator, worker.session.send({"type": "second"})) is Reason.RECORD


def test_reflected_record_is_refused(world):
    worker, _ = admitted(world)
    assert refused(worker, worker.session.send({"type": "x"})) is Reason.RECORD


def test_record_of_another_session_is_refused(world):
    worker, _ = admitted(world)
    _, other = admitted(world)
    worker.session.send({"type": "x"})
    assert refused(other, worker.session.send({"type": "x"})) is Reason.RECORD


@pytest.mark.parametrize("change", ["flip", "short", "long", "number"])
def test_altered_record_is_refused(world, change):
    worker, aggregator = admitted(world)
    number, sealed = unpack(worker.session.send({"type": "x"}), Kind.RECORD.value, 2)
    altered = {
        "flip": (number, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        "short": (number, sealed[:-1]),
        "long": (number, sealed + b"\0"),
        "number": ((7).to_bytes(8, "big"), sealed),
    }[change]
    assert refused(aggregator, pack(Kind.RECORD.value, *altered)) is Reason.RECORD


def test_reattestation_renews_both_leases(world):
    worker, aggregator = admitted(world)
    later = NOW + timedelta(seconds=100)
    for asks, answers in ((aggregator, worker), (worker, aggregator)):
        (answer,) = answers.receive(asks.session.challenge(), later).replies
        assert asks.receive(answer, later).messages == ()
        asks.session.require_lease(later + timedelta(seconds=119))


def test_a_lease_that_is_not_renewed_ends_the_session(world):
    worker, aggregator = admitted(world)
    for side in (worker, aggregator):
        side.session.require_lease(NOW + timedelta(seconds=120))
        with pytest.raises(ProtocolError) as caught:
            side.session.require_lease(NOW + timedelta(seconds=121))
        assert caught.value.reason is Reason.LEASE_EXPIRED


def test_a_session_does_not_outlive_its_plan(world):
    worker, aggregator = admitted(world)
    later = NOW + timedelta(days=21)
    for side in (worker, aggregator):
        side.session._lease_until = later
        with pytest.raises(ProtocolError) as caught:
            side.session.require_lease(later)
        assert caught.value.reason is Reason.DOCUMENT_EXPIRED


def test_a_session_does_not_outlive_the_proof_it_stands_on(world):
    worker, aggregator = admitted(world)
    for side in (worker, aggregator):
        later = side.session.proof.result.expires + timedelta(seconds=1)
        side.session._lease_until = later
        with pytest.raises(ProtocolError) as caught:
            side.session.require_lease(later)
        assert caught.value.reason is Reason.CERT_EXPIRED


def test_evidence_that_nobody_asked_for_is_refused(world):
    worker, aggregator = admitted(world)
    (answer,) = worker.receive(aggregator.session.challenge(), NOW).replies
    aggregator.receive(answer, NOW)
    twice = worker.session.send({"type": "evidence", "nonce": "00" * 32, "evidence": "00"})
    assert refused(aggregator, twice) is Reason.NONCE


def test_evidence_of_another_machine_does_not_renew_a_lease(world):
    """Relayed: genuine, fresh, for the right challenge, but bound to another key."""
    worker, aggregator = admitted(world)
    challenge = aggregator.session.challenge()
    worker.session._identity = world.identity("worker")
    (answer,) = worker.receive(challenge, NOW).replies
    assert refused(aggregator, answer) is Reason.REPORT_DATA


def test_changed_measurement_does_not_renew_a_lease(world):
    from trusted.channel.session import Identity

    worker, aggregator = admitted(world)
    mine = worker.session._identity
    worker.session._identity = Identity(mine.signing_key, world.provider("worker", measurement=b"\x11" * 48), mine.boot)
    (answer,) = worker.receive(aggregator.session.challenge(), NOW).replies
    assert refused(aggregator, answer) is Reason.MEASUREMENT


def test_only_one_challenge_is_open_at_a_time(world):
    _, aggregator = admitted(world)
    assert aggregator.session.challenge() is not None
    assert aggregator.session.challenge() is None


def test_message_without_a_type_is_refused(world):
    worker, aggregator = admitted(world)
    assert refused(aggregator, worker.session._records.seal(b"[]")) is Reason.MALFORMED


@given(data=st.binary(max_size=300))
def test_any_bytes_before_admission_are_a_protocol_error(world, data):
    for prefix in (b"", *(pack(kind.value) for kind in Kind)):
        channel = aggregator_of(world)
        with pytest.raises(ProtocolError):
            channel.receive(prefix + data, NOW)
        assert channel.state is State.CLOSED
