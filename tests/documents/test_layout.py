"""A layout fixes names, order and size of the flat vector."""

from __future__ import annotations

import hashlib
import struct

import pytest

from trusted.documents.layout import MAX_TENSORS, Layout, initial_digest
from trusted.errors import ProtocolError, Reason

TENSORS = [
    {"name": "w", "dtype": "float32", "shape": [2, 2]},
    {"name": "count", "dtype": "int64", "shape": []},
]
LAYOUT = Layout.parse(TENSORS)
VECTOR = struct.pack("<5f", 1, 2, 3, 4, 5)


def test_a_scalar_counts_as_one_element() -> None:
    assert [tensor.elements for tensor in LAYOUT.tensors] == [4, 1]
    assert LAYOUT.elements == 5
    assert LAYOUT.size_bytes == len(VECTOR)


def test_the_initial_digest_covers_layout_then_vector() -> None:
    canonical = b'[{"dtype":"float32","name":"w","shape":[2,2]},{"dtype":"int64","name":"count","shape":[]}]'
    assert LAYOUT.encode() == canonical
    assert LAYOUT.digest == hashlib.sha256(canonical).digest()
    assert initial_digest(LAYOUT, VECTOR) == hashlib.sha256(canonical + VECTOR).digest()
    assert initial_digest(LAYOUT, memoryview(VECTOR)) == initial_digest(LAYOUT, VECTOR)


@pytest.mark.parametrize("vector", [b"", VECTOR[:-1], VECTOR + b"\0", VECTOR + bytes(4)])
def test_a_vector_of_another_size_is_refused(vector: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        initial_digest(LAYOUT, vector)
    assert refused.value.reason is Reason.INITIAL_MODEL


def test_order_matters() -> None:
    assert Layout.parse(TENSORS[::-1]).digest != LAYOUT.digest


def test_too_many_tensors_are_refused() -> None:
    many = [{"name": f"t{place}", "dtype": "float32", "shape": []} for place in range(MAX_TENSORS + 1)]
    assert Layout.parse(many[:-1]).elements == MAX_TENSORS
    with pytest.raises(ProtocolError):
        Layout.parse(many)


@pytest.mark.parametrize("value", [None, {}, "w", [None], [1]])
def test_something_else_is_no_layout(value: object) -> None:
    with pytest.raises(ProtocolError):
        Layout.parse(value)
