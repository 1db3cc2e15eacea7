"""A scoring session under a lying host, a lying service and a lying client (docs/protocol.md §16)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.scoring.sides import (
    MODEL_SHA256,
    OTHER,
    RECIPIENT,
    ROWS,
    Service,
    asker,
    opened,
    request,
    scored,
    sent,
    served,
    statement,
)
from tests.world import NOW, World, policy
from trusted.channel.refusal import PeerRefused, refusal
from trusted.errors import ChannelError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.scoring.client import ClientSession
from trusted.scoring.messages import BUCKETS
from trusted.scoring.service import ServiceSession
from trusted.scoring.states import CLIENT_TABLE, SERVICE_TABLE, Kind, State
from trusted.scoring.terms import Declaration
from trusted.wire import pack, unpack


def flipped(frame: bytes, place: int = -1) -> bytes:
    """``frame`` with one bit another."""
    changed = bytearray(frame)
    changed[place] ^= 1
    return bytes(changed)


def refused(call, *arguments) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    return caught.value.reason


def test_a_recipient_gets_the_scores_of_its_rows(world):
    service, pair = Service(world), opened(world)
    for _ in range(2):
        np.testing.assert_array_equal(scored(pair, service), np.column_stack((ROWS[:, 0], 1 - ROWS[:, 0])))
    assert pair[1].member == RECIPIENT
    assert pair[0].service.result.assurance.value == "none"
    assert [line["rows"] for line in service.lines] == [len(ROWS)] * 2


def test_the_tables_are_complete_and_hold_nothing_else():
    assert {state for state, _ in SERVICE_TABLE} == {State.AWAIT_QUESTION, State.AWAIT_OPEN, State.OPEN}
    assert {state for state, _ in CLIENT_TABLE} == {State.AWAIT_PROOF, State.AWAIT_WELCOME, State.AWAIT_ANSWER}
    assert {kind for _, kind in (*SERVICE_TABLE, *CLIENT_TABLE)} == set(Kind) - {Kind.REFUSE}


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(State, Kind)))
def test_every_frame_that_the_table_does_not_name_ends_the_session(world, state, kind):
    service, client = ServiceSession(served(world)), ClientSession(world.federation)
    service.state = client.state = state
    if kind is Kind.REFUSE:
        return
    if (state, kind) not in SERVICE_TABLE:
        assert refused(service.receive, pack(kind.value, b"")) is Reason.UNEXPECTED_MESSAGE
        assert service.state is State.CLOSED
    takes = {Kind.PROOF: lambda frame: client.take_proof(frame, NOW), Kind.WELCOME: client.take_welcome}
    take = takes.get(kind, client.take_answer)
    if (state, kind) not in CLIENT_TABLE:
        assert refused(take, pack(kind.value, b"")) is Reason.UNEXPECTED_MESSAGE
        assert client.state is State.CLOSED


# The service must prove itself.


def proof_of(world: World, client: ClientSession, **provider) -> bytes:
    return sent(ServiceSession(served(world, **provider)), client.begin())


def test_a_service_of_another_measurement_is_refused_before_a_name_is_sent(world):
    client = ClientSession(world.federation)
    assert refused(client.take_proof, proof_of(world, client, measurement=b"\xee" * 48), NOW) is Reason.MEASUREMENT
    assert client.state is State.CLOSED


def test_a_worker_does_not_pass_for_a_service(world):
    """The same code on the same chip, launched in another role."""
    client = ClientSession(world.federation)
    session = ServiceSession(served(world))
    object.__setattr__(session._served, "provider", world.provider("worker", measurement=b"\xdd" * 48))
    assert refused(client.take_proof, sent(session, client.begin()), NOW) is Reason.HOST_DATA


def test_a_charter_that_admits_no_recipient_admits_no_service(software_root, chip):
    plain = World(software_root, chip)
    client = ClientSession(plain.federation)
    assert refused(client.take_proof, proof_of(plain, client), NOW) is Reason.POLICY_UNSET


def test_another_model_than_was_asked_for_is_refused(world):
    for wanted, holds in ((MODEL_SHA256, True), (flipped(MODEL_SHA256), False)):
        client = ClientSession(world.federation, wanted)
        frame = proof_of(world, client)
        if holds:
            assert client.take_proof(frame, NOW).statement.model_sha256 == wanted
        else:
            assert refused(client.take_proof, frame, NOW) is Reason.SCORING_RELEASE


def test_another_app_than_the_plans_is_refused(world):
    client = ClientSession(world.federation)
    frame = proof_of(world, client, said=statement(world, bundle_sha256=b"\x99" * 32))
    assert refused(client.take_proof, frame, NOW) is Reason.SCORING_RELEASE


def test_columns_that_the_plan_does_not_have_are_refused(world):
    client = ClientSession(world.federation)
    frame = proof_of(world, client, said=statement(world, declaration=Declaration(("x", "y"), ("risk",), None)))
    assert refused(client.take_proof, frame, NOW) is Reason.SCORING_DECLARATION


def test_a_proof_for_another_question_is_refused(world):
    """A host answers with what a service said to somebody else, or yesterday."""
    earlier, client = ClientSession(world.federation), ClientSession(world.federation)
    client.begin()
    assert refused(client.take_proof, proof_of(world, earlier), NOW) is Reason.REPORT_DATA


@pytest.mark.parametrize("place", range(1, 5), ids=["kem", "nonce", "boot", "statement"])
def test_a_proof_with_one_bit_flipped_is_refused(world, place):
    client = ClientSession(world.federation)
    fields = list(unpack(proof_of(world, client), Kind.PROOF.value, 5))
    fields[place] = flipped(fields[place], -2)
    assert refused(client.take_proof, pack(Kind.PROOF.value, *fields), NOW) is Reason.REPORT_DATA


def test_a_key_put_beside_genuine_evidence_is_refused(world):
    client = ClientSession(world.federation)
    fields = list(unpack(proof_of(world, client), Kind.PROOF.value, 5))
    fields[1] = SealingKey.generate().public
    assert refused(client.take_proof, pack(Kind.PROOF.value, *fields), NOW) is Reason.REPORT_DATA


@pytest.mark.parametrize("change", [lambda frame: frame[:-1], lambda frame: frame + b"\0"], ids=["short", "long"])
def test_a_frame_a_byte_short_or_long_is_refused(world, change):
    client, session = ClientSession(world.federation), ServiceSession(served(world))
    question = client.begin()
    assert refused(ServiceSession(served(world)).receive, change(question)) is Reason.MALFORMED
    assert refused(client.take_proof, change(sent(session, question)), NOW) is Reason.MALFORMED


# The client must be a recipient of the plan.


def admitted(world: World, by) -> None:
    opened(world, by)


def test_a_member_who_is_no_recipient_is_refused(world):
    assert refused(admitted, world, asker(world, OTHER)) is Reason.SCORING_CLIENT


def test_the_signature_of_another_member_is_refused(world):
    assert refused(admitted, world, asker(world, RECIPIENT, key_of=OTHER)) is Reason.SCORING_CLIENT


def test_a_stranger_is_refused(world):
    assert refused(admitted, world, type(asker(world))("nobody", asker(world).key)) is Reason.SCORING_CLIENT


def test_a_name_signed_for_one_session_opens_no_other(world):
    """A service of one runtime, or its host, takes what a client said there to another."""
    client, session, other = ClientSession(world.federation), ServiceSession(served(world)), None
    question = client.begin()
    client.take_proof(sent(session, question), NOW)
    frame = client.open(asker(world))
    other = ServiceSession(served(world))
    sent(other, question)
    assert refused(other.receive, frame) is Reason.OPEN_FAILED
    sent(session, frame)
    assert refused(session.receive, frame) is Reason.UNEXPECTED_MESSAGE


def test_a_signature_does_not_fit_other_keys_of_the_client(world):
    """Who is handed a client's signature cannot put its own session key beside it."""
    client, session = ClientSession(world.federation), ServiceSession(served(world))
    client.take_proof(sent(session, client.begin()), NOW)
    genuine, forging = asker(world), SealingKey.generate()
    client.open(genuine)
    signing_kem, client._kem = client._kem, forging

    class Replayed:
        def public_key(self):
            return genuine.key.public_key()

        def sign(self, signed):
            return genuine.key.sign(signed.replace(forging.public, signing_kem.public))

    client._frames.pop()
    frame = client.open(type(genuine)(RECIPIENT, Replayed()))
    assert refused(session.receive, frame) is Reason.SCORING_CLIENT


def test_a_client_of_another_plan_is_refused_before_evidence_is_made(world):
    other = World(world.root, world.chip, charter_changes={"recipient": policy(b"\xdd" * 48)})
    session = ServiceSession(served(world))
    assert refused(session.receive, ClientSession(other.federation).begin()) is Reason.WRONG_CHARTER


# Requests and answers.


def test_a_request_replayed_is_refused(world):
    service, (client, session) = Service(world), opened(world)
    frame = client.ask(ROWS)
    session.answer(service.answer(request(session, frame)))
    assert refused(session.receive, frame) is Reason.RECORD
    assert session.state is State.CLOSED


def test_a_request_of_another_session_is_refused(world):
    (client, _), (_, session) = opened(world), opened(world)
    assert refused(session.receive, client.ask(ROWS)) is Reason.RECORD


def test_a_second_request_before_the_answer_is_refused(world):
    client, session = opened(world)
    request(session, client.ask(ROWS))
    client.state = State.OPEN
    assert refused(session.receive, client.ask(ROWS)) is Reason.UNEXPECTED_MESSAGE


def test_swapped_answers_are_refused(world):
    """A host keeps the first answer back and gives it, or that of another session, to another question."""
    service, pair = Service(world), opened(world)
    (client, session), other = pair, opened(world)
    kept = session.answer(service.answer(request(session, client.ask(ROWS))))
    assert client.take_answer(kept).shape == (6, 2)
    session.answer(service.answer(request(session, client.ask(ROWS * 2))))
    assert refused(client.take_answer, kept) is Reason.RECORD
    other[0].ask(ROWS)
    assert refused(other[0].take_answer, kept) is Reason.RECORD


def test_an_answer_to_other_rows_is_refused(world):
    """Even a service that mixes up its own clients' questions is noticed: an answer names its question by digest."""
    service, (client, session) = Service(world), opened(world)
    asked = request(session, client.ask(ROWS))
    client._sent = (Requested.of(ROWS + 1), len(ROWS))
    assert refused(client.take_answer, session.answer(service.answer(asked))) is Reason.SCORING_ANSWER


class Requested:
    @staticmethod
    def of(values):
        from trusted.scoring.messages import Request

        return Request(values).encode()


@pytest.mark.parametrize("direction", ["request", "answer"])
def test_a_record_with_one_bit_flipped_is_refused(world, direction):
    service, (client, session) = Service(world), opened(world)
    frame = client.ask(ROWS)
    if direction == "request":
        assert refused(session.receive, flipped(frame)) is Reason.RECORD
    else:
        answer = session.answer(service.answer(request(session, frame)))
        assert refused(client.take_answer, flipped(answer)) is Reason.RECORD


def test_an_answer_reflected_as_a_request_is_refused(world):
    service, (client, session) = Service(world), opened(world)
    answer = session.answer(service.answer(request(session, client.ask(ROWS))))
    assert refused(session.receive, answer) is Reason.RECORD


def test_a_refusal_outside_the_session_is_a_hint(world):
    client = ClientSession(world.federation)
    client.begin()
    with pytest.raises(PeerRefused) as caught:
        client.take_proof(refusal(Reason.GRANT_REVOKED), NOW)
    assert caught.value.peer_reason is Reason.GRANT_REVOKED


def test_what_crosses_the_line_has_one_of_a_few_sizes_and_the_answer_that_of_its_request(world):
    service, (client, session) = Service(world), opened(world)
    sizes = set()
    for rows in (1, 2, 40):
        frame = client.ask(np.ones((rows, 1)))
        answer = session.answer(service.answer(request(session, frame)))
        client.take_answer(answer)
        sizes |= {len(frame), len(answer)}
    frame = client.ask(np.ones((51, 1)))  # more rows than the service takes: the host does not see that
    answer = session.answer(service.answer(request(session, frame)))
    assert refused(client.take_answer, answer) is Reason.SCORING_ROWS
    sizes |= {len(frame), len(answer)}
    assert len(sizes) == 1
    assert BUCKETS[0] < sizes.pop() < BUCKETS[0] + 100


def test_no_secret_has_a_repr(world):
    client, session = opened(world)
    asked = request(session, client.ask(ROWS))
    assert asker(world).key.private_bytes_raw().hex() not in repr(asker(world))
    assert "array" not in repr(asked.request)


def test_a_caller_that_asks_twice_at_once_or_in_another_shape_is_told(world):
    client, _ = opened(world)
    with pytest.raises(ValueError, match="rows, inputs"):
        client.ask(np.ones((3, 2)))
    client.ask(ROWS)
    with pytest.raises(RuntimeError):
        client.ask(ROWS)


def test_errors_in_a_request_do_not_end_the_session(world):
    service, pair = Service(world), opened(world)
    with pytest.raises(ChannelError) as caught:
        scored(pair, service, np.full((2, 1), np.nan))
    assert caught.value.reason is Reason.SCORING_REQUEST
    assert scored(pair, service).shape == (6, 2)
