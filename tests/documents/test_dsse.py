"""Signatures count organisations, and nothing about an envelope is believed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from tests.documents.consortium import KEYS, MEMBERS, OUTSIDER, public
from trusted.documents.dsse import (
    MAX_SIGNATURES,
    UnverifiedEnvelope,
    keyid_of,
    new_envelope,
    open_envelope,
    require_threshold,
    sign,
    signers,
)
from trusted.errors import DocumentError, ProtocolError, Reason, WireError
from trusted.wire import encode_json

TYPE = "application/vnd.cloister.plan.v1+json"
OWNERS = {member: (bytes.fromhex(public(KEYS[member])),) for member in MEMBERS}


def envelope_by(*keys: Ed25519PrivateKey) -> UnverifiedEnvelope:
    envelope = new_envelope(b'{"a":1}', TYPE)
    for key in keys:
        envelope = sign(envelope, CryptoSigner(key))
    return envelope


def as_json(envelope: UnverifiedEnvelope) -> dict[str, Any]:
    return dict(json.loads(envelope.encode()))


def test_every_signer_is_found_and_not_only_enough_of_them() -> None:
    assert signers(envelope_by(*KEYS.values()), OWNERS) == set(MEMBERS)


def test_an_envelope_survives_encoding() -> None:
    envelope = envelope_by(*KEYS.values())
    opened = open_envelope(envelope.encode(), TYPE)
    assert opened == envelope
    assert opened.digest == envelope.digest


def test_adding_a_signature_does_not_change_the_digest() -> None:
    assert envelope_by().digest == envelope_by(*KEYS.values()).digest


def test_two_keys_of_one_member_count_as_one() -> None:
    second = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
    owners = {"hospital-a": (*OWNERS["hospital-a"], bytes.fromhex(public(second)))}
    found = signers(envelope_by(KEYS["hospital-a"], second), owners)
    assert found == {"hospital-a"}
    with pytest.raises(DocumentError) as refused:
        require_threshold(found, 2, "plan")
    assert refused.value.reason is Reason.THRESHOLD


def test_signing_twice_with_one_key_counts_once() -> None:
    assert len(envelope_by(OUTSIDER, OUTSIDER).signatures) == 1


def test_one_key_under_two_members_is_refused() -> None:
    shared = OWNERS["hospital-a"]
    with pytest.raises(DocumentError) as refused:
        signers(envelope_by(KEYS["hospital-a"]), {"hospital-a": shared, "lab-b": shared})
    assert refused.value.reason is Reason.DUPLICATE_KEY


def test_one_key_twice_under_one_member_is_refused() -> None:
    with pytest.raises(DocumentError) as refused:
        signers(envelope_by(), {"hospital-a": OWNERS["hospital-a"] * 2})
    assert refused.value.reason is Reason.DUPLICATE_KEY


def test_one_signature_under_two_keyids_is_refused_twice() -> None:
    """The trap of ``Envelope.verify``: the second key id is not the digest of a key that anybody has."""
    envelope = as_json(envelope_by(KEYS["hospital-a"]))
    envelope["signatures"].append({**envelope["signatures"][0], "keyid": keyid_of(OWNERS["lab-b"][0])})
    with pytest.raises(DocumentError) as refused:
        signers(open_envelope(encode_json(envelope), TYPE), OWNERS)
    assert refused.value.reason is Reason.DOCUMENT_SIGNATURE
    envelope["signatures"][1]["keyid"] = "00" * 32
    assert signers(open_envelope(encode_json(envelope), TYPE), OWNERS) == {"hospital-a"}


def test_one_keyid_twice_is_refused() -> None:
    envelope = as_json(envelope_by(OUTSIDER))
    envelope["signatures"] *= 2
    with pytest.raises(DocumentError) as refused:
        open_envelope(encode_json(envelope), TYPE)
    assert refused.value.reason is Reason.DUPLICATE_KEY


def test_a_signature_by_a_stranger_counts_for_nobody() -> None:
    assert signers(envelope_by(OUTSIDER), OWNERS) == frozenset()


def test_a_changed_payload_is_refused() -> None:
    signed = envelope_by(KEYS["lab-b"])
    tampered = UnverifiedEnvelope(b'{"a":2}', TYPE, signed.signatures)
    with pytest.raises(DocumentError) as refused:
        signers(tampered, OWNERS)
    assert refused.value.reason is Reason.DOCUMENT_SIGNATURE


@pytest.mark.parametrize("bit", [0, 255, 511])
def test_a_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    (keyid, signature), *_ = envelope_by(KEYS["lab-b"]).signatures
    flipped = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
    with pytest.raises(DocumentError) as refused:
        signers(UnverifiedEnvelope(b'{"a":1}', TYPE, ((keyid, flipped),)), OWNERS)
    assert refused.value.reason is Reason.DOCUMENT_SIGNATURE


def test_another_payload_type_is_refused_when_opened() -> None:
    with pytest.raises(DocumentError) as refused:
        open_envelope(envelope_by().encode(), TYPE + "x")
    assert refused.value.reason is Reason.PAYLOAD_TYPE


def test_a_signature_does_not_pass_for_another_payload_type() -> None:
    signed = envelope_by(KEYS["lab-b"])
    relabelled = UnverifiedEnvelope(signed.payload, "application/vnd.cloister.charter.v1+json", signed.signatures)
    with pytest.raises(DocumentError) as refused:
        signers(relabelled, OWNERS)
    assert refused.value.reason is Reason.DOCUMENT_SIGNATURE


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    envelope = as_json(envelope_by(OUTSIDER))
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(size)).decode()
    with pytest.raises(WireError):
        open_envelope(encode_json(envelope), TYPE)


@pytest.mark.parametrize("spelling", ["eyJhIjoxfR==", "eyJhIjoxfQ", "eyJhIjoxfQ==\n", "eyJh-joxfQ==", "é"])
def test_another_spelling_of_base64_is_refused(spelling: str) -> None:
    with pytest.raises(WireError):
        open_envelope(encode_json({**as_json(envelope_by()), "payload": spelling}), TYPE)


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
def test_a_missing_field_of_an_envelope_is_refused(field: str) -> None:
    envelope = as_json(envelope_by())
    del envelope[field]
    with pytest.raises(WireError) as refused:
        open_envelope(encode_json(envelope), TYPE)
    assert refused.value.reason is Reason.MISSING_FIELD


def test_an_unknown_field_of_an_envelope_is_refused() -> None:
    with pytest.raises(WireError) as refused:
        open_envelope(encode_json({**as_json(envelope_by()), "more": 1}), TYPE)
    assert refused.value.reason is Reason.UNKNOWN_FIELD


def test_too_many_signatures_are_refused() -> None:
    entry = as_json(envelope_by(OUTSIDER))["signatures"][0]
    many = [{**entry, "keyid": f"{place:064x}"} for place in range(MAX_SIGNATURES + 1)]
    with pytest.raises(WireError) as refused:
        open_envelope(encode_json({**as_json(envelope_by()), "signatures": many}), TYPE)
    assert refused.value.reason is Reason.TOO_LARGE


def test_an_envelope_over_its_limit_is_refused() -> None:
    data = envelope_by().encode()
    assert open_envelope(data, TYPE, max_bytes=len(data))
    with pytest.raises(WireError) as refused:
        open_envelope(data, TYPE, max_bytes=len(data) - 1)
    assert refused.value.reason is Reason.TOO_LARGE


def test_only_ed25519_signers_sign() -> None:
    with pytest.raises(DocumentError) as refused:
        sign(new_envelope(b"{}", TYPE), CryptoSigner(ec.generate_private_key(ec.SECP256R1())))
    assert refused.value.reason is Reason.DOCUMENT_SIGNATURE


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_open_or_are_refused(data: bytes) -> None:
    try:
        open_envelope(data, TYPE)
    except ProtocolError:
        return
    pytest.fail("random bytes are no envelope")


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_of_an_envelope_never_counts_as_more(place: int, bit: int) -> None:
    data = bytearray(envelope_by(KEYS["lab-b"]).encode())
    data[place % len(data)] ^= 1 << bit
    try:
        found = signers(open_envelope(bytes(data), TYPE), OWNERS)
    except ProtocolError:
        return
    assert found == frozenset()
