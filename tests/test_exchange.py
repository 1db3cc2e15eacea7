"""What a plan's blobs carry: which part of the model, under which header; and names of blobs in tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.blob import BlobHeader, BlobKind
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.errors import ProtocolError
from trusted.exchange import AGGREGATOR, Announcement, Exchanged
from trusted.wire import sha256

SIZES = {"a": 3, "b": 1, "c": 4, "d": 2}
WHOLE = Layout(tuple(TensorSpec(name, Dtype.FLOAT32, (size,)) for name, size in SIZES.items()))
TERMS = Exchange(Encoding.BFLOAT16, Encoding.INT8, ("b", "d"))


def exchanged(*names: str, terms: Exchange = TERMS) -> Exchanged:
    part = Layout(tuple(tensor for tensor in WHOLE.tensors if tensor.name in names)) if names else WHOLE
    return Exchanged(bytes(32), WHOLE, part, terms)


def vector(elements: int = WHOLE.elements) -> np.ndarray:
    return np.arange(1, 1 + elements, dtype=np.float32)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a",), [1, 2, 3]),
        (("d",), [9, 10]),
        (("b", "d"), [4, 9, 10]),
        (("a", "c"), [1, 2, 3, 5, 6, 7, 8]),
    ],
)
def test_a_part_is_its_tensors_in_the_layouts_order(names, expected):
    assert exchanged(*names).taken_from(vector()).tolist() == expected


def test_the_whole_is_taken_without_a_copy_and_a_part_with_one():
    whole = vector()
    assert exchanged().taken_from(whole) is whole
    assert not np.shares_memory(exchanged("a").taken_from(whole), whole)
    assert not exchanged().is_partial
    assert exchanged("a").is_partial


@given(names=st.sets(st.sampled_from(sorted(SIZES)), min_size=1))
def test_what_is_put_back_is_what_was_taken_and_nothing_else_changes(names):
    some, whole, other = exchanged(*names), vector(), -vector()
    part = some.taken_from(whole)
    some.put_into(other, part)
    at = 0
    for name, size in SIZES.items():
        source = whole if name in names else -whole
        assert np.array_equal(other[at : at + size], source[at : at + size])
        at += size
    assert np.array_equal(whole, vector())


def test_a_part_of_another_size_is_a_bug_of_the_caller():
    with pytest.raises(ValueError):
        exchanged("a").put_into(vector(), vector(2))
    with pytest.raises(ValueError):
        exchanged("a").taken_from(vector(2))


def test_headers_say_what_travels_whole_what_in_part_and_how_it_is_spelled():
    some = exchanged("b", "d")
    spelled = {kind: some.header(kind, 3, AGGREGATOR) for kind in BlobKind}
    part, whole = (some.part.digest, 3), (WHOLE.digest, 10)
    assert {kind: (header.layout, header.elements) for kind, header in spelled.items()} == {
        BlobKind.MODEL: part,
        BlobKind.UPDATE: part,
        BlobKind.INITIAL: whole,
        BlobKind.BASE: whole,
        BlobKind.RELEASE: whole,
        BlobKind.STATE: part,
        BlobKind.FINAL: part,
        BlobKind.MESSAGE: (WHOLE.digest, 0),  # without an app's own server there are none
        BlobKind.REPLY: (WHOLE.digest, 0),
    }
    assert {kind: header.encoding for kind, header in spelled.items()} == {
        BlobKind.MODEL: Encoding.BFLOAT16,
        BlobKind.UPDATE: Encoding.INT8,
        BlobKind.INITIAL: Encoding.FLOAT32,
        BlobKind.BASE: Encoding.FLOAT32,
        BlobKind.RELEASE: Encoding.FLOAT32,
        BlobKind.STATE: Encoding.FLOAT32,
        BlobKind.FINAL: Encoding.FLOAT32,
        BlobKind.MESSAGE: Encoding.FLOAT32,
        BlobKind.REPLY: Encoding.FLOAT32,
    }


@pytest.mark.parametrize("kind", BlobKind)
@pytest.mark.parametrize("encoding", Encoding)
def test_every_header_is_read_as_it_was_written_and_states_its_size(kind, encoding):
    header = BlobHeader(kind, bytes(32), 3, "site-1", bytes(32), 5_000_001, encoding)
    assert BlobHeader.decode(header.encode()) == header
    pieces = list(header.pieces())
    assert sum(piece.elements for piece in pieces) == header.elements
    assert header.prefix_bytes + sum(piece.sealed_bytes for piece in pieces) == header.sealed_bytes
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    ends = [piece.offset + piece.sealed_bytes for piece in pieces]
    assert [piece.offset for piece in pieces] == [0, *ends[:-1]]
    assert {piece.sealed_bytes for piece in pieces[:-1]} == {header.segment_bytes}


HEADER = exchanged().header(BlobKind.MODEL, 1, AGGREGATOR)
NAMED = Announcement(b"n" * 16, b"k" * 32, sha256(HEADER.encode()), b"s" * 32)


def test_a_name_of_a_blob_is_read_as_it_was_written():
    assert Announcement.read(NAMED.to_json(), "task.model") == NAMED
    assert b"k" * 32 not in repr(NAMED).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "00" * 15},
        {"key": "00" * 33},
        {"header_sha256": None},
        {"key": "K" * 64},
        {"signer": "00" * 31},
        {"more": 1},
    ],
)
def test_a_name_of_another_form_is_refused(change: dict[str, Any]):
    with pytest.raises(ProtocolError):
        Announcement.read(NAMED.to_json() | change, "task.model")


@pytest.mark.parametrize("missing", sorted(NAMED.to_json()))
def test_a_name_without_one_of_its_fields_is_refused(missing):
    named = {name: value for name, value in NAMED.to_json().items() if name != missing}
    with pytest.raises(ProtocolError):
        Announcement.read(named, "task.model")
