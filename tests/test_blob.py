"""Sealed blobs: what opens, and every neighbour that must not (docs/protocol.md §6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.blob import PIECE_BYTES, BlobHeader, BlobKind, ContentKey, open_blob, seal
from trusted.blob.header import context_of, signed_bytes
from trusted.errors import BlobError, ProtocolError, Reason
from trusted.floe import Floe
from trusted.wire import length_prefixed

SIGNER = Ed25519PrivateKey.generate()
VERIFY = SIGNER.public_key().public_bytes_raw()
KEY = ContentKey.generate()


def header(elements: int = 10_000) -> BlobHeader:
    return BlobHeader(BlobKind.UPDATE, b"p" * 32, 3, "site-1", b"l" * 32, elements)


def plaintext(elements: int) -> bytes:
    return np.arange(elements, dtype="<f4").tobytes()


def sealed(elements: int = 10_000, key: ContentKey = KEY) -> bytes:
    return b"".join(seal(header(elements), [plaintext(elements)], key=key, signing_key=SIGNER))


def opened(blob: bytes, *, expected: BlobHeader | None = None, key: ContentKey = KEY, cut: int = PIECE_BYTES) -> bytes:
    pieces = [blob[at : at + cut] for at in range(0, len(blob), cut)]
    return b"".join(open_blob(pieces, expected=expected or header(), key=key, verify_key=VERIFY))


def refusal(blob: bytes, **changes: object) -> Reason:
    with pytest.raises(BlobError) as caught:
        opened(blob, **changes)
    return caught.value.reason


@pytest.mark.parametrize("elements", [1, 4095, 4096, 4097, 8192, 300_000])
def test_a_blob_opens_to_what_was_sealed_and_has_the_announced_size(elements):
    blob = sealed(elements)
    assert len(blob) == header(elements).sealed_bytes
    assert opened(blob, expected=header(elements)) == plaintext(elements)


@settings(max_examples=30)
@given(cut=st.integers(1, 20_000))
def test_a_blob_opens_however_it_is_cut_into_pieces(cut):
    assert opened(sealed(), cut=cut) == plaintext(10_000)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("plan", bytes(32), Reason.BLOB_PLAN),
        ("kind", BlobKind.MODEL, Reason.BLOB_KIND),
        ("round", 4, Reason.BLOB_ROUND),
        ("sender", "site-2", Reason.BLOB_SENDER),
        ("layout", bytes(32), Reason.BLOB_LAYOUT),
        ("elements", 9_999, Reason.BLOB_LAYOUT),
    ],
)
def test_a_blob_opens_for_nothing_but_what_its_header_says(field, value, reason):
    assert refusal(sealed(), expected=replace(header(), **{field: value})) is reason


def test_another_key_does_not_open_it():
    assert refusal(sealed(), key=ContentKey.generate()) is Reason.BLOB_OPEN


def test_another_signer_is_refused():
    other = Ed25519PrivateKey.generate()
    blob = b"".join(seal(header(), [plaintext(10_000)], key=KEY, signing_key=other))
    assert refusal(blob) is Reason.BLOB_SIGNATURE


def test_every_flipped_byte_is_refused():
    blob = sealed(100)
    for position in range(len(blob)):
        flipped = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        with pytest.raises(ProtocolError):
            opened(flipped, expected=header(100))


def test_every_truncation_is_refused():
    blob = sealed(100)
    for size in range(len(blob)):
        with pytest.raises(ProtocolError):
            opened(blob[:size], expected=header(100))


def test_pieces_in_another_order_are_refused():
    blob, expected = sealed(600_000), header(600_000)
    one, two, _ = expected.pieces()
    first, second, end = (expected.prefix_bytes + at for at in (one.offset, two.offset, two.offset + two.sealed_bytes))
    assert opened(blob, expected=expected) == plaintext(600_000)
    with pytest.raises(BlobError):
        opened(blob[:first] + blob[second:end] + blob[first:second] + blob[end:], expected=expected)


def test_a_byte_after_the_end_is_refused():
    with pytest.raises(BlobError):
        opened(sealed() + b"\0")


@pytest.mark.parametrize("size", [0, 1025, 1 << 31])
def test_a_header_of_no_size_or_too_large_is_refused_before_it_is_read(size):
    assert refusal(size.to_bytes(4, "big") + bytes(200)) is Reason.BLOB_HEADER


def test_a_longer_plaintext_than_announced_is_refused():
    """A worker that lies in its header: more chunks than the layout has elements."""
    longer = b"".join(_seal_wrong_size(header(), plaintext(20_000)))
    assert refusal(longer) is Reason.BLOB_TOO_LONG


def test_a_shorter_plaintext_than_announced_is_refused():
    shorter = b"".join(_seal_wrong_size(header(), plaintext(5_000)))
    assert refusal(shorter) is Reason.BLOB_TRUNCATED


def _seal_wrong_size(announced: BlobHeader, data: bytes) -> list[bytes]:
    encoded = announced.encode()
    signature = SIGNER.sign(signed_bytes(encoded))
    floe, begin = Floe.start(KEY.secret, context_of(encoded, signature), segment_bytes=announced.segment_bytes)
    out = memoryview(bytearray(announced.segment_bytes))
    return [length_prefixed(encoded, signature) + begin, bytes(out[: floe.seal_into(0, data, out, last=True)])]


@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused_as_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        opened(data)


def test_a_content_key_has_no_repr():
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
