"""A blob that is sealed while it is sent: the same bytes whenever and from wherever it is read, and one plaintext."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob import BlobHeader, BlobKind, ContentKey, SealedVector, open_vector
from trusted.encoding import Encoding
from trusted.errors import BlobError, Reason

SIGNER = Ed25519PrivateKey.generate()
ELEMENTS = (5 << 18) + 17  # six pieces in float32: more than one stretch


def header_of(encoding: Encoding = Encoding.FLOAT32, elements: int = ELEMENTS) -> BlobHeader:
    return BlobHeader(BlobKind.UPDATE, bytes(32), 1, "site-1", bytes(32), elements, encoding)


def vector_of(elements: int = ELEMENTS) -> np.ndarray:
    return np.linspace(-1, 1, elements, dtype=np.float32)


def sealed_of(header: BlobHeader, vector: np.ndarray, key: ContentKey) -> SealedVector:
    return SealedVector(header, vector, key=key, signing_key=SIGNER)


@pytest.mark.parametrize("elements", [1, 1 << 18, (1 << 18) + 1, ELEMENTS])
@pytest.mark.parametrize("encoding", Encoding)
def test_it_opens_and_is_as_long_as_its_header_says(encoding, elements):
    header, key, vector = header_of(encoding, elements), ContentKey.generate(), vector_of(elements)
    sealed = sealed_of(header, vector, key)
    out, whole = np.empty_like(vector), bytes(sealed)
    assert len(whole) == len(sealed) == header.sealed_bytes
    open_vector([whole], out, expected=header, key=key, verify_key=SIGNER.public_key().public_bytes_raw())
    np.testing.assert_allclose(out, vector, atol=0.01)


def test_from_any_offset_it_gives_the_bytes_that_it_gave_at_first():
    header = header_of()
    sealed = sealed_of(header, vector_of(), ContentKey.generate())
    whole, prefix, step = bytes(sealed), header.prefix_bytes, header.segment_bytes
    assert bytes(sealed) == whole
    places = [0, 1, prefix - 1, prefix, prefix + 1, prefix + step - 1, prefix + step, prefix + 4 * step]
    for offset in [*places, prefix + 4 * step + 9, len(whole) - 1, len(whole)]:
        assert b"".join(map(bytes, sealed.stretches(offset))) == whole[offset:]


def test_threads_that_read_it_at_the_same_time_get_the_same_bytes():
    sealed = sealed_of(header_of(Encoding.INT8), vector_of(), ContentKey.generate())
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: bytes(sealed), range(8)))
    assert len(found) == 1


def test_no_two_pieces_share_an_iv_nor_do_two_blobs_of_one_vector():
    header, vector = header_of(), vector_of()
    ivs = set()
    for whole in (bytes(sealed_of(header, vector, ContentKey.generate())) for _ in range(2)):
        ivs |= {whole[header.prefix_bytes + piece.offset + 4 :][:12] for piece in header.pieces()}
    assert len(ivs) == 2 * 6


@pytest.mark.parametrize("place", [0, ELEMENTS - 1])
def test_a_vector_that_was_changed_meanwhile_is_not_sealed_under_the_same_iv(place):
    vector = vector_of()
    sealed = sealed_of(header_of(), vector, ContentKey.generate())
    whole = bytes(sealed)
    vector[place] += 1
    with pytest.raises(RuntimeError):
        bytes(sealed)
    vector[place] -= 1
    assert bytes(sealed) == whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_piece_that_is_not_finite_is_not_given(value):
    header, vector = header_of(), vector_of()
    vector[-1] = value
    stretches = sealed_of(header, vector, ContentKey.generate()).stretches()
    assert len(next(stretches)) == header.prefix_bytes + 4 * header.segment_bytes
    with pytest.raises(BlobError) as caught:
        next(stretches)
    assert caught.value.reason is Reason.NON_FINITE


@pytest.mark.parametrize("elements", [ELEMENTS - 1, ELEMENTS + 1])
def test_a_vector_of_another_size_is_refused(elements):
    with pytest.raises(BlobError) as caught:
        sealed_of(header_of(), vector_of(elements), ContentKey.generate())
    assert caught.value.reason is Reason.BLOB_LAYOUT
