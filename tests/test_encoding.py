"""Encodings of a vector: exact sizes, the errors that are stated, and what a lying sender may have spelled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trusted.encoding import BLOCK, Encoding

ODD = [1, 2, 3, 1023, 1024, 1025, 2047, 2049, 100_003]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = np.finfo(np.float32).max
SMALLEST_NORMAL = np.finfo(np.float32).tiny
INT8_BLOCK_BYTES = 4 + BLOCK


def encoded(encoding: Encoding, vector: np.ndarray) -> np.ndarray:
    out = np.full(encoding.size_bytes(len(vector)), 0xA5, dtype=np.uint8)
    encoding.encode_into(np.asarray(vector, dtype=np.float32), out)
    return out


def decoded(encoding: Encoding, data: np.ndarray, elements: int) -> tuple[np.ndarray, bool]:
    out = np.full(elements, np.nan, dtype=np.float32)
    return out, encoding.decode_into(data, out)


def there_and_back(encoding: Encoding, vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float32)
    out, finite = decoded(encoding, encoded(encoding, vector), len(vector))
    assert finite
    return out


def bfloat16(*patterns: int) -> np.ndarray:
    """Elements by their bit patterns, as a sender may spell them."""
    return np.array(patterns, dtype="<u2").view(np.uint8)


def int8_blocks(scales: list[float], values: int = 1) -> np.ndarray:
    blocks = np.zeros(len(scales), dtype=[("scale", "<f4"), ("values", "i1", BLOCK)])
    blocks["scale"], blocks["values"] = scales, values
    return blocks.view(np.uint8)


@pytest.mark.parametrize("elements", ODD)
def test_the_size_follows_from_the_number_of_elements_alone(elements):
    blocks = (elements + BLOCK - 1) // BLOCK
    assert Encoding.FLOAT32.size_bytes(elements) == 4 * elements
    assert Encoding.BFLOAT16.size_bytes(elements) == 2 * elements
    assert Encoding.INT8.size_bytes(elements) == INT8_BLOCK_BYTES * blocks
    for encoding in Encoding:
        assert np.array_equal(there_and_back(encoding, np.zeros(elements)), np.zeros(elements))


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("change", [-1, 1])
def test_data_of_another_size_is_a_bug_of_the_caller(encoding, change):
    data, vector = np.zeros(encoding.size_bytes(5) + change, dtype=np.uint8), np.zeros(5, dtype=np.float32)
    with pytest.raises(ValueError):
        encoding.encode_into(vector, data)
    with pytest.raises(ValueError):
        encoding.decode_into(data, vector)


@pytest.mark.parametrize("encoding", Encoding)
def test_a_whole_piece_is_at_most_a_mebibyte_and_as_many_bytes_as_its_parts(encoding):
    piece = encoding.piece_elements
    assert encoding.size_bytes(piece) <= (1 << 20)
    assert encoding.size_bytes(2 * piece + 1) == 2 * encoding.size_bytes(piece) + encoding.size_bytes(1)


@given(arrays(np.float32, st.integers(1, 50), elements=FINITE))
def test_float32_keeps_every_bit(vector):
    assert there_and_back(Encoding.FLOAT32, vector).tobytes() == vector.tobytes()


@settings(max_examples=200)
@given(arrays(np.float32, st.integers(1, 50), elements=FINITE))
def test_bfloat16_errs_by_at_most_a_256th_of_each_element(vector):
    error = np.abs(there_and_back(Encoding.BFLOAT16, vector).astype(np.float64) - vector)
    below_normal = SMALLEST_NORMAL / 256  # there the spacing no longer shrinks with the element
    assert (error <= np.maximum(np.abs(vector.astype(np.float64)) / 256, below_normal)).all()


def test_bfloat16_rounds_halves_to_even_and_all_else_to_the_nearest():
    below, even, odd, above = 0x3F7F8000 - 1, 0x3F808000, 0x3F818000, 0x3F808001
    vector = np.array([below, even, odd, above], dtype="<u4").view("<f4")
    patterns = encoded(Encoding.BFLOAT16, vector).view("<u2")
    assert [hex(pattern) for pattern in patterns] == ["0x3f7f", "0x3f80", "0x3f82", "0x3f81"]
    negative = encoded(Encoding.BFLOAT16, -vector).view("<u2")
    assert np.array_equal(negative, patterns | 0x8000)


def test_bfloat16_has_a_largest_number_and_never_makes_an_infinity():
    back = there_and_back(Encoding.BFLOAT16, [LARGEST, -LARGEST])
    assert np.array_equal(back.view("<u4"), [0x7F7F0000, 0xFF7F0000])


def test_zeros_keep_their_sign_and_the_smallest_numbers_vanish_without_a_fault():
    denormal = np.float32(1e-45)
    assert np.signbit(there_and_back(Encoding.BFLOAT16, [0.0, -0.0])).tolist() == [False, True]
    assert there_and_back(Encoding.BFLOAT16, [denormal, -denormal]).tolist() == [0.0, 0.0]
    assert there_and_back(Encoding.INT8, [denormal, -denormal, SMALLEST_NORMAL]).tolist() == [0.0, 0.0, 0.0]
    assert there_and_back(Encoding.FLOAT32, [denormal])[0] == denormal


@settings(max_examples=200)
@given(arrays(np.float32, st.integers(1, 2 * BLOCK + 1), elements=FINITE, fill=FINITE))
def test_int8_errs_by_at_most_a_254th_of_the_largest_element_of_a_block(vector):
    back = there_and_back(Encoding.INT8, vector).astype(np.float64)
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK].astype(np.float64)
        largest = np.abs(block).max()
        allowed = max(largest / 254 * (1 + 1e-5), 127 * float(SMALLEST_NORMAL))  # below it a block is zeros
        assert np.abs(back[start : start + BLOCK] - block).max() <= allowed


def test_one_huge_block_costs_its_neighbours_nothing():
    vector = np.full(2 * BLOCK, 1e-3, dtype=np.float32)
    vector[0] = 1e30
    back = there_and_back(Encoding.INT8, vector)
    assert np.all(back[1:BLOCK] == 0)
    np.testing.assert_allclose(back[BLOCK:], 1e-3, rtol=1e-6)


@pytest.mark.parametrize("encoding", Encoding)
def test_the_largest_numbers_stay_finite(encoding):
    back = there_and_back(encoding, [LARGEST, -LARGEST, 1.0])
    np.testing.assert_allclose(back[:2], [LARGEST, -LARGEST], rtol=1 / 256)


def test_the_errors_of_a_vector_are_as_small_as_stated():
    rng = np.random.default_rng(3)
    vector = (1e-3 * rng.standard_normal(300_000)).astype(np.float32)
    norm = np.linalg.norm(vector)
    assert np.linalg.norm(there_and_back(Encoding.BFLOAT16, vector) - vector) / norm <= 0.0018
    assert np.linalg.norm(there_and_back(Encoding.INT8, vector) - vector) / norm <= 0.008


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float32_that_is_not_finite_is_reported(bad):
    assert decoded(Encoding.FLOAT32, np.array([1, 2], "<f4").view(np.uint8), 2)[1]
    assert not decoded(Encoding.FLOAT32, np.array([1, bad], "<f4").view(np.uint8), 2)[1]


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFFF])
def test_a_bfloat16_that_is_not_finite_is_reported(pattern):
    assert decoded(Encoding.BFLOAT16, bfloat16(0x7F7F, 0xFF7F), 2)[1]
    assert not decoded(Encoding.BFLOAT16, bfloat16(0x3F80, pattern), 2)[1]


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("value", [0, 1, -1])
def test_a_scale_that_is_not_finite_is_reported_also_over_zeros(scale, value):
    assert decoded(Encoding.INT8, int8_blocks([1, 1], value), BLOCK + 1)[1]
    assert not decoded(Encoding.INT8, int8_blocks([1, scale], value), BLOCK + 1)[1]


def test_a_scale_whose_products_overflow_is_reported():
    assert decoded(Encoding.INT8, int8_blocks([LARGEST / 128], -128), BLOCK)[1]
    assert not decoded(Encoding.INT8, int8_blocks([LARGEST / 2], 127), BLOCK)[1]


def test_what_a_sender_hides_in_the_padding_of_the_last_block_changes_nothing():
    vector = np.linspace(-1, 1, BLOCK + 3, dtype=np.float32)
    honest = encoded(Encoding.INT8, vector)
    hidden = honest.copy()
    hidden[INT8_BLOCK_BYTES + 4 + 3 :] = 0x7F
    assert not honest[INT8_BLOCK_BYTES + 4 + 3 :].any()
    assert np.array_equal(decoded(Encoding.INT8, honest, BLOCK + 3)[0], decoded(Encoding.INT8, hidden, BLOCK + 3)[0])


@given(data=st.binary(min_size=INT8_BLOCK_BYTES, max_size=INT8_BLOCK_BYTES))
def test_any_bytes_decode_to_a_vector_or_are_reported(data):
    octets = np.frombuffer(data, dtype=np.uint8)
    for encoding, elements in ((Encoding.INT8, BLOCK), (Encoding.BFLOAT16, len(data) // 2), (Encoding.FLOAT32, 257)):
        vector, finite = decoded(encoding, octets[: encoding.size_bytes(elements)], elements)
        assert finite is bool(np.isfinite(vector).all())
