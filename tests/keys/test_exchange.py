"""The frames of a key release under a lying host: reordered, replayed, relayed, altered (docs/protocol.md §15.2)."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from tests.keys.holdings import KEY_ID, asker, exchanged, grant_of, requester, signed_grant
from tests.world import NOW
from trusted import hpke
from trusted.blob import ContentKey
from trusted.channel.refusal import PeerRefused, refusal
from trusted.errors import ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.keys.binding import purpose
from trusted.keys.broker import EXCHANGE_LIMIT, KeyExchange
from trusted.keys.states import BROKER_TABLE, REQUESTER_TABLE, Kind, State
from trusted.wire import pack, unpack


def reason_of(side, frame, now=NOW) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        side.receive(frame, now)
    assert side.state is State.CLOSED
    return caught.value.reason


@pytest.fixture
def asked(world, holdings):
    """Both sides, and the request that stands between them."""
    holdings.grant(world)
    asking, broker = requester(world), KeyExchange(holdings, NOW)
    return asking, broker, asking.receive(broker.receive(asking.begin(), NOW), NOW)


def test_the_tables_are_complete_and_hold_nothing_else():
    answers = {(State.AWAIT_ANSWER, Kind.ANSWER), (State.AWAIT_ANSWER, Kind.RENEWED)}
    assert set(REQUESTER_TABLE) == {(State.AWAIT_CHALLENGE, Kind.CHALLENGE)} | answers
    begins = {(State.AWAIT_HELLO, Kind.HELLO), (State.AWAIT_HELLO, Kind.RENEW)}
    assert set(BROKER_TABLE) == {(State.AWAIT_REQUEST, Kind.REQUEST)} | begins


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(State, Kind)))
def test_every_frame_that_the_table_does_not_name_ends_the_exchange(world, holdings, state, kind):
    """Both sides, every state, every kind."""
    for side, table in ((requester(world), REQUESTER_TABLE), (KeyExchange(holdings, NOW), BROKER_TABLE)):
        side.state = state
        if (state, kind) in table or (kind is Kind.REFUSE and table is REQUESTER_TABLE):
            continue
        assert reason_of(side, pack(kind.value, b"")) is Reason.UNEXPECTED_MESSAGE


def test_an_exchange_gives_one_key(world, holdings, asked):
    asking, broker, request = asked
    asking.receive(broker.receive(request, NOW), NOW)
    assert reason_of(broker, request) is Reason.UNEXPECTED_MESSAGE
    assert len(holdings.taken) == 1


def test_a_request_replayed_in_another_exchange_is_refused(world, holdings, asked):
    """The same hello; only the broker's nonce is another."""
    asking, _, request = asked
    again = KeyExchange(holdings, NOW)
    again.receive(asking._frames[0], NOW)
    assert reason_of(again, request) is Reason.REPORT_DATA
    assert not holdings.taken


def test_a_nonce_that_was_left_lying_is_refused(holdings, asked):
    _, broker, request = asked
    assert reason_of(broker, request, NOW + EXCHANGE_LIMIT + timedelta(seconds=1)) is Reason.NONCE
    assert not holdings.taken


def test_a_nonce_is_good_for_as_long_as_it_may_take(holdings, asked):
    _, broker, request = asked
    broker.receive(request, NOW + EXCHANGE_LIMIT)
    assert len(holdings.taken) == 1


def test_evidence_beside_another_key_is_refused(holdings, asked):
    """A host puts its own HPKE key beside genuine evidence."""
    _, broker, request = asked
    evidence, _, credential, signature = unpack(request, Kind.REQUEST.value, 4)
    forged = pack(Kind.REQUEST.value, evidence, SealingKey.generate().public, credential, signature)
    assert reason_of(broker, forged) is Reason.REPORT_DATA
    assert not holdings.taken


def test_evidence_for_another_key_id_is_refused(world, holdings, asked):
    """A worker that asked for one key does not help a host to another one."""
    asking, _, request = asked
    other = KeyExchange(_Renamed(holdings), NOW)
    hello = unpack(asking._frames[0], Kind.HELLO.value, 5)
    other.receive(pack(Kind.HELLO.value, *hello[:4], b"\x77" * 32), NOW)
    assert reason_of(other, request) is Reason.REPORT_DATA


class _Renamed:
    """The same holdings under any key id."""

    def __init__(self, holdings):
        self._holdings = holdings

    def standings(self, key_id, now):
        return self._holdings.standings(KEY_ID, now)

    def __getattr__(self, name):
        return getattr(self._holdings, name)


@pytest.mark.parametrize("place", range(4))
def test_a_request_with_one_bit_flipped_is_refused(holdings, asked, place):
    _, broker, request = asked
    fields = list(unpack(request, Kind.REQUEST.value, 4))
    fields[place] = fields[place][:-1] + bytes([fields[place][-1] ^ 1])
    with pytest.raises(ProtocolError):
        broker.receive(pack(Kind.REQUEST.value, *fields), NOW)
    assert not holdings.taken


@pytest.mark.parametrize("change", [lambda frame: frame[:-1], lambda frame: frame + b"\0"], ids=["short", "long"])
def test_a_frame_a_byte_short_or_long_is_refused(world, holdings, asked, change):
    asking, broker, request = asked
    assert reason_of(KeyExchange(holdings, NOW), change(asking._frames[0])) is Reason.MALFORMED
    assert reason_of(broker, change(request)) is Reason.MALFORMED


@pytest.mark.parametrize("role", [b"", b"aggregator", b"Worker"])
def test_no_other_role_asks_for_keys(world, holdings, role):
    holdings.grant(world)
    hello = pack(Kind.HELLO.value, bytes(32), role, world.charter.digest, world.plan.digest, KEY_ID)
    assert reason_of(KeyExchange(holdings, NOW), hello) is Reason.MALFORMED


def answered(asking, holdings, grant: bytes, key: ContentKey) -> bytes:
    """What a host that wants another key to be used answers; it needs no secret for it."""
    evidence_request = asking._frames[2]
    _, kem, _, _ = unpack(evidence_request, Kind.REQUEST.value, 4)
    return pack(Kind.ANSWER.value, grant, hpke.seal(kem, key.secret, *purpose(asking._frames, grant)))


def test_a_key_that_the_grant_does_not_name_is_refused(world, holdings, asked):
    asking, _, _ = asked
    forged = answered(asking, holdings, holdings.grants[0].grant.envelope, ContentKey.generate())
    assert reason_of(asking, forged) is Reason.KEY_COMMITMENT


def test_a_grant_of_another_member_brings_no_key(world, holdings, asked):
    """Another member, just as much of this plan, cannot choose what this site trains on."""
    asking, _, _ = asked
    key = ContentKey.generate()
    grant = signed_grant(world, grant_of(world, key, member="site-2", holder="site-2"))
    assert reason_of(asking, answered(asking, holdings, grant, key)) is Reason.NOT_GRANTED


def test_a_grant_that_its_member_did_not_sign_brings_no_key(world, holdings, asked):
    asking, _, _ = asked
    key = ContentKey.generate()
    grant = signed_grant(world, grant_of(world, key), by="site-2")
    assert reason_of(asking, answered(asking, holdings, grant, key)) is Reason.THRESHOLD


@pytest.mark.parametrize("change", [{"plan": b"\x00" * 32}, {"key": b"\x00" * 32}], ids=["plan", "key"])
def test_a_grant_for_something_else_brings_no_key(world, holdings, asked, change):
    asking, _, _ = asked
    key = ContentKey.generate()
    grant = signed_grant(world, grant_of(world, key, **change))
    assert reason_of(asking, answered(asking, holdings, grant, key)) is Reason.NOT_GRANTED


def test_a_grant_that_has_ended_brings_no_key(world, holdings, asked):
    asking, broker, request = asked
    answer = broker.receive(request, NOW)
    late = NOW + timedelta(days=2)
    assert reason_of(asking, answer, late) is Reason.GRANT_EXPIRED


def test_an_answer_to_another_request_opens_nothing(world, holdings, asked):
    asking, _, _ = asked
    other, broker = requester(world), KeyExchange(holdings, NOW)
    answer = broker.receive(other.receive(broker.receive(other.begin(), NOW), NOW), NOW)
    assert reason_of(asking, answer) is Reason.OPEN_FAILED


def test_a_refusal_is_heard_as_a_hint(world, holdings):
    asking = requester(world)
    asking.begin()
    with pytest.raises(PeerRefused) as caught:
        asking.receive(refusal(Reason.GRANT_REVOKED), NOW)
    assert caught.value.peer_reason is Reason.GRANT_REVOKED
    assert asking.state is State.CLOSED


def test_no_secret_has_a_repr(world, holdings):
    holdings.grant(world)
    got = exchanged(holdings, requester(world))
    assert got.key.secret.hex() not in repr(got)
    assert "worker_key" not in repr(asker(world))
