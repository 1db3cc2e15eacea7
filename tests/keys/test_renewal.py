"""Whether a grant still stands: asked by who holds its key, answered by who knows it (docs/protocol.md §15.3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.keys.holdings import asker, exchanged, requester
from tests.world import NOW
from trusted.blob import ContentKey
from trusted.channel.refusal import PeerRefused, refusal
from trusted.errors import ProtocolError, Reason
from trusted.keys.broker import KeyExchange
from trusted.keys.renewal import KeyRenewer, confirmation, renewal_key
from trusted.keys.requester import GrantedKey
from trusted.keys.states import Kind, State
from trusted.wire import pack


@pytest.fixture
def granted(world, holdings) -> GrantedKey:
    holdings.grant(world, releases=1)
    return exchanged(holdings, requester(world))


def renewer(world, granted: GrantedKey, **asking) -> KeyRenewer:
    secret = renewal_key(granted.key, granted.grant)
    return KeyRenewer(world.federation, asker(world, **asking), grant=granted.grant, secret=secret)


def renewed(holdings, asking: KeyRenewer, now=NOW) -> None:
    broker = KeyExchange(holdings, now)
    asking.receive(broker.receive(asking.receive(broker.receive(asking.begin(), now), now), now), now)


def refused(holdings, asking: KeyRenewer, now=NOW) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        renewed(holdings, asking, now)
    return caught.value.reason


def test_a_grant_that_stands_is_renewed_and_nothing_is_counted(world, holdings, granted):
    """Its one release was made: who has the key may keep it all the same."""
    for _ in range(2):
        asking = renewer(world, granted)
        renewed(holdings, asking)
        assert asking.state is State.DONE
    assert (len(holdings.taken), holdings.confirmed, holdings.grants[0].left) == (1, 2, 0)
    with pytest.raises(RuntimeError):
        _ = asking.granted


def test_a_revoked_grant_is_not_renewed(world, holdings, granted):
    holdings.grants[0] = replace(holdings.grants[0], revoked=True)
    assert refused(holdings, renewer(world, granted)) is Reason.GRANT_REVOKED


def test_a_grant_that_has_ended_is_not_renewed(world, holdings, granted):
    assert refused(holdings, renewer(world, granted), NOW + timedelta(days=2)) is Reason.GRANT_EXPIRED


def test_a_grant_that_is_revoked_meanwhile_is_not_renewed(world, holdings, granted):
    asking, broker = renewer(world, granted), KeyExchange(holdings, NOW)
    request = asking.receive(broker.receive(asking.begin(), NOW), NOW)
    holdings.grants[0] = replace(holdings.grants[0], revoked=True)
    with pytest.raises(ProtocolError) as caught:
        broker.receive(request, NOW)
    assert caught.value.reason is Reason.GRANT_REVOKED


def test_a_retired_key_is_not_renewed(world, holdings, granted):
    holdings.retired = True
    assert refused(holdings, renewer(world, granted)) is Reason.KEY_RETIRED


def test_a_grant_that_the_broker_never_made_is_not_renewed(world, holdings, granted):
    other = holdings.grant(world, nonce=b"\x02" * 16)
    holdings.grants.pop()
    assert refused(holdings, renewer(world, GrantedKey(granted.key, other))) is Reason.NOT_GRANTED


def test_a_runtime_of_another_measurement_renews_nothing(world, holdings, granted):
    assert refused(holdings, renewer(world, granted, measurement=b"\xee" * 48)) is Reason.MEASUREMENT


def test_who_does_not_know_the_key_confirms_nothing(world, holdings, granted):
    """A host that answers in the broker's place; and a proof under another key, or another grant of the same key."""
    other = ContentKey.generate()
    holdings.key, kept = other, holdings.key
    assert refused(holdings, renewer(world, granted)) is Reason.KEY_COMMITMENT
    holdings.key = kept
    assert renewal_key(kept, granted.grant) != renewal_key(kept, replace(granted.grant, digest=b"\x00" * 32))


def test_a_confirmation_is_good_for_one_question(world, holdings, granted):
    first, second, broker = renewer(world, granted), renewer(world, granted), KeyExchange(holdings, NOW)
    kept = broker.receive(first.receive(broker.receive(first.begin(), NOW), NOW), NOW)
    first.receive(kept, NOW)
    broker = KeyExchange(holdings, NOW)
    second.receive(broker.receive(second.begin(), NOW), NOW)
    with pytest.raises(ProtocolError) as caught:
        second.receive(kept, NOW)
    assert caught.value.reason is Reason.KEY_COMMITMENT
    assert second.state is State.CLOSED


def test_a_confirmation_with_one_bit_flipped_confirms_nothing(world, holdings, granted):
    asking, broker = renewer(world, granted), KeyExchange(holdings, NOW)
    frame = broker.receive(asking.receive(broker.receive(asking.begin(), NOW), NOW), NOW)
    with pytest.raises(ProtocolError) as caught:
        asking.receive(frame[:-1] + bytes([frame[-1] ^ 1]), NOW)
    assert caught.value.reason is Reason.KEY_COMMITMENT


def test_an_answer_of_one_kind_does_not_answer_the_other(world, holdings, granted):
    """A confirmation brings no key, and a key no confirmation."""
    holdings.grant(world, nonce=b"\x03" * 16)
    asking, broker = requester(world), KeyExchange(holdings, NOW)
    asking.receive(broker.receive(asking.begin(), NOW), NOW)
    proof = pack(Kind.RENEWED.value, confirmation(renewal_key(granted.key, granted.grant), asking._frames))
    with pytest.raises(ProtocolError) as caught:
        asking.receive(proof, NOW)
    assert caught.value.reason is Reason.MALFORMED
    renewing, broker = renewer(world, granted), KeyExchange(holdings, NOW)
    renewing.receive(broker.receive(renewing.begin(), NOW), NOW)
    with pytest.raises(ProtocolError) as caught:
        renewing.receive(pack(Kind.ANSWER.value, granted.grant.envelope, bytes(1200)), NOW)
    assert caught.value.reason is Reason.MALFORMED


def test_a_refusal_is_heard_as_a_hint(world, granted):
    asking = renewer(world, granted)
    asking.begin()
    with pytest.raises(PeerRefused) as caught:
        asking.receive(refusal(Reason.GRANT_REVOKED), NOW)
    assert caught.value.peer_reason is Reason.GRANT_REVOKED
