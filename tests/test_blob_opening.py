"""Pieces of blobs, opened in any order and by several threads; and whatever else a store may give instead."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.blob import BlobHeader, BlobKind, BlobOpener, BlobSealer, ContentKey, Piece, open_vector, seal_vector
from trusted.encoding import Encoding
from trusted.errors import BlobError, Reason

SIGNER = Ed25519PrivateKey.generate()
VERIFY = SIGNER.public_key().public_bytes_raw()
KEY = ContentKey.generate()


def header_of(elements: int, encoding: Encoding = Encoding.FLOAT32) -> BlobHeader:
    return BlobHeader(BlobKind.UPDATE, b"p" * 32, 3, "site-1", b"l" * 32, elements, encoding)


def sealed(header: BlobHeader, vector: np.ndarray) -> bytes:
    return b"".join(bytes(part) for part in seal_vector(header, vector, key=KEY, signing_key=SIGNER))


def vector_of(elements: int) -> np.ndarray:
    return np.random.default_rng(elements).standard_normal(elements, dtype=np.float32)


def begin(header: BlobHeader, blob: bytes) -> BlobOpener:
    return BlobOpener.begin(blob[: header.prefix_bytes], expected=header, key=KEY, verify_key=VERIFY)


def stored(header: BlobHeader, blob: bytes, piece: Piece) -> bytes:
    start = header.prefix_bytes + piece.offset
    return blob[start : start + piece.sealed_bytes]


def opened(header: BlobHeader, *parts: bytes, key: ContentKey = KEY) -> np.ndarray:
    vector = np.full(header.elements, np.nan, dtype=np.float32)
    open_vector(parts, vector, expected=header, key=key, verify_key=VERIFY)
    return vector


SMALL = header_of(100)
SMALL_BLOB = sealed(SMALL, vector_of(100))
BIG = header_of(5 * Encoding.FLOAT32.piece_elements + 77)
BIG_BLOB = sealed(BIG, vector_of(BIG.elements))


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("more", [0, 1, 1023, 1025])
def test_a_vector_of_any_length_opens_in_every_encoding(encoding, more):
    header = header_of(2 * encoding.piece_elements + more, encoding)
    blob, vector = sealed(header, vector_of(header.elements)), vector_of(header.elements)
    assert len(blob) == header.sealed_bytes
    tolerance = {Encoding.FLOAT32: 0, Encoding.BFLOAT16: 1 / 256, Encoding.INT8: 1 / 20}[encoding]
    np.testing.assert_allclose(opened(header, blob), vector, rtol=0, atol=tolerance * np.abs(vector).max())


def test_two_threads_open_one_blob_into_one_vector():
    opener, vector = begin(BIG, BIG_BLOB), np.full(BIG.elements, np.nan, dtype=np.float32)
    pieces = list(BIG.pieces())

    def open_lane(lane: int) -> None:
        for piece in reversed(pieces[lane::2]):
            target = vector[piece.start : piece.start + piece.elements]
            opener.open_into(piece, stored(BIG, BIG_BLOB, piece), target)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(open_lane, range(2)))
    assert vector.tobytes() == vector_of(BIG.elements).tobytes()


@pytest.mark.parametrize("encoding", Encoding)
def test_a_piece_opens_at_no_other_place(encoding):
    header = header_of(3 * encoding.piece_elements, encoding)
    blob = sealed(header, vector_of(header.elements))
    opener, out = begin(header, blob), np.empty(encoding.piece_elements, dtype=np.float32)
    pieces = list(header.pieces())
    for piece in pieces:
        opener.open_into(piece, stored(header, blob, piece), out)
        for other in pieces:
            if other is not piece:
                with pytest.raises(BlobError) as caught:
                    opener.open_into(piece, stored(header, blob, other), out)
                assert caught.value.reason is Reason.BLOB_OPEN


def test_a_piece_a_byte_short_or_long_is_refused():
    opener, out, (piece,) = begin(SMALL, SMALL_BLOB), np.empty(100, dtype=np.float32), SMALL.pieces()
    whole = stored(SMALL, SMALL_BLOB, piece)
    opener.open_into(piece, whole, out)
    for other in (whole[:-1], whole + b"\0", b""):
        with pytest.raises(BlobError) as caught:
            opener.open_into(piece, other, out)
        assert caught.value.reason is Reason.BLOB_TRUNCATED


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.BFLOAT16])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_in_any_piece(encoding, place, value):
    header = header_of(encoding.piece_elements + 1, encoding)
    vector = vector_of(header.elements)
    opened(header, sealed(header, vector))
    vector[place] = value
    blob = sealed(header, vector) if encoding is Encoding.FLOAT32 else spelled_by_a_liar(header, vector)
    with pytest.raises(BlobError) as caught:
        opened(header, blob)
    assert caught.value.reason is Reason.NON_FINITE


def spelled_by_a_liar(header: BlobHeader, vector: np.ndarray) -> bytes:
    """bfloat16 by truncation: an honest sender spells no infinity."""
    sealer, parts = BlobSealer(header, KEY, SIGNER), []
    patterns = (np.ascontiguousarray(vector).view("<u4") >> 16).astype("<u2")
    for piece in header.pieces():
        out = memoryview(bytearray(piece.sealed_bytes))
        plaintext = patterns[piece.start : piece.start + piece.elements].tobytes()
        sealer._floe.seal_into(piece.position, plaintext, out, last=piece.last)
        parts.append(bytes(out))
    return b"".join((sealer.prefix, *parts))


@settings(max_examples=300)
@given(data=st.binary(max_size=500), at=st.integers(0, len(SMALL_BLOB)), keep=st.booleans())
def test_any_bytes_in_place_of_a_blob_are_refused_as_a_blob_error(data, at, keep):
    altered = SMALL_BLOB[:at] + data + (SMALL_BLOB[at + len(data) :] if keep else b"")
    if altered == SMALL_BLOB:
        assert opened(SMALL, altered).tobytes() == vector_of(100).tobytes()
        return
    with pytest.raises(BlobError):
        opened(SMALL, altered)
    if not altered.startswith(SMALL_BLOB):  # what stands behind the last piece is not read piece by piece
        with pytest.raises(BlobError):
            opened_by_piece(altered)


def opened_by_piece(blob: bytes) -> np.ndarray:
    opener, (piece,), vector = begin(SMALL, blob), SMALL.pieces(), np.empty(100, dtype=np.float32)
    opener.open_into(piece, stored(SMALL, blob, piece), vector)
    return vector


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(1, len(SMALL_BLOB) - 1), max_size=6))
def test_a_vector_opens_however_its_blob_is_cut(cuts):
    places = [0, *sorted(cuts), len(SMALL_BLOB)]
    parts = [SMALL_BLOB[start:end] for start, end in pairwise(places)]
    assert opened(SMALL, *parts).tobytes() == vector_of(100).tobytes()
    with pytest.raises(BlobError):
        opened(SMALL, *parts[:-1])
    with pytest.raises(BlobError):
        opened(SMALL, *parts, b"\0")


@given(encoded=st.binary(max_size=300))
def test_a_signed_prefix_with_any_header_is_refused_as_a_blob_error(encoded):
    prefix = len(encoded).to_bytes(4, "big") + encoded + (64).to_bytes(4, "big") + bytes(64 + 74)
    with pytest.raises(BlobError):
        BlobOpener.begin(prefix, expected=SMALL, key=KEY, verify_key=VERIFY)


@pytest.mark.parametrize("verify_key", [b"", bytes(31), bytes(33)])
def test_a_key_that_is_none_verifies_nothing(verify_key):
    with pytest.raises(BlobError) as caught:
        BlobOpener.begin(SMALL_BLOB, expected=SMALL, key=KEY, verify_key=verify_key)
    assert caught.value.reason is Reason.BLOB_SIGNATURE
