"""Canonical encodings: one spelling for each value, and bounds before anything is read (docs/protocol.md §1)."""

from __future__ import annotations

import contextlib
import json
from enum import IntEnum

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from trusted.errors import ProtocolError, Reason, WireError
from trusted.wire import Fields, decode_json, encode_json, exactly, label_of, pack, unpack


def reason_of(call, *args, **kwargs) -> Reason:
    with pytest.raises(WireError) as caught:
        call(*args, **kwargs)
    return caught.value.reason


@given(fields=st.lists(st.binary(max_size=50), max_size=8))
def test_records_round_trip(fields):
    assert unpack(pack("l", *fields), "l", len(fields)) == tuple(fields)


@given(one=st.lists(st.binary(max_size=9), max_size=5), two=st.lists(st.binary(max_size=9), max_size=5))
def test_different_fields_never_encode_alike(one, two):
    assert (pack("l", *one) == pack("l", *two)) == (one == two)


@pytest.mark.parametrize("change", [lambda r: r[:-1], lambda r: r + b"\0", lambda r: b"", lambda r: r + b"\0" * 4])
def test_record_with_missing_or_extra_bytes_is_refused(change):
    assert reason_of(unpack, change(pack("l", b"a", b"bc")), "l", 2) is Reason.MALFORMED


def test_record_of_another_label_is_refused():
    assert reason_of(unpack, pack("l", b""), "m", 1) is Reason.MALFORMED


def test_record_over_the_limit_is_refused_before_it_is_split():
    assert reason_of(unpack, bytes(101), "l", 1, max_bytes=100) is Reason.TOO_LARGE


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_protocol_error(data):
    for read in (lambda: unpack(data, "l", 1), lambda: label_of(data), lambda: decode_json(data)):
        with contextlib.suppress(ProtocolError):
            read()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"b":1,"a":2}', Reason.NOT_CANONICAL),
        (b'{"a": 1}', Reason.NOT_CANONICAL),
        (b'{"a":1,"a":1}', Reason.NOT_CANONICAL),
        (b'{"a":1.0}', Reason.NOT_CANONICAL),
        (b'{"a":"\\u0041"}', Reason.NOT_CANONICAL),
        (b'{"a":1}\n', Reason.NOT_CANONICAL),
        (b'{"a":NaN}', Reason.MALFORMED),
        (b'{"a":1e999}', Reason.MALFORMED),
        (b"{", Reason.MALFORMED),
        (b"\xff", Reason.MALFORMED),
        (b'{"a":' + b"9" * 400 + b"}", Reason.MALFORMED),
        (b"[" * 17 + b"]" * 17, Reason.MALFORMED),
        (b" " * ((1 << 20) + 1), Reason.TOO_LARGE),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else str(value[:12]),
)
def test_json_in_any_other_form_is_refused(text, reason):
    assert reason_of(decode_json, text) is reason


@given(value=st.recursive(st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(), st.lists, max_leaves=10))
def test_canonical_json_round_trips(value):
    assert decode_json(encode_json(value)) == value


# Letters beyond the first plane, halves of their pairs, controls, fractions, integers around what JSON holds exactly.
_TEXT = st.text(st.characters() | st.sampled_from('\x00\x1f\x7f"\\/\u2028\ud800\udfff\uffff\U00010000'), max_size=6)
_EDGES = st.sampled_from([0, -0.0, 2**53 - 1, -(2**53) + 1, 2**53, 1e21, 1e-7, float("nan"), float("inf")])
_FRACTIONS = st.floats(9e-5, 2e-4) | st.floats(1e14, 1e17) | st.decimals(0, 1000, places=6).map(float)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _FRACTIONS | _EDGES | _TEXT
_ANYTHING = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4), max_leaves=12
)


@given(value=_ANYTHING)
def test_canonical_json_is_what_the_library_writes(value):
    """Whichever of the two encoders wrote it."""
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):  # the latter of a key
        with pytest.raises(rfc8785.CanonicalizationError):
            encode_json(value)
        return
    assert encode_json(value) == expected


@given(value=_ANYTHING, indent=st.none() | st.just(1), ascii=st.booleans(), sort=st.booleans())
def test_json_that_the_library_spells_otherwise_is_refused(value, indent, ascii, sort):
    """Python's own spellings of anything: taken exactly when they are RFC 8785's."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii, sort_keys=sort, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass")
    try:
        canonical = rfc8785.dumps(json.loads(data)) == data
    except (ValueError, rfc8785.CanonicalizationError):
        canonical = False
    try:
        decode_json(data)
    except WireError:
        assert not canonical
    else:
        assert canonical


class Loud(str):
    """Text that would encode itself in a way of its own."""


class Place(IntEnum):
    FIRST = 1


@pytest.mark.parametrize("value", [Loud("a"), Place.FIRST, {Loud("b"): 1}, {"b": Place.FIRST}, (1, Loud("a"))])
def test_subclasses_of_plain_values_read_as_the_library_reads_them(value):
    assert encode_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": object()}, {"a": b"b"}, {None: 1}, {"\ud800": 1}, "\ud800"])
def test_what_json_cannot_hold_has_no_encoding(value):
    with pytest.raises(rfc8785.CanonicalizationError):
        encode_json(value)


def read_all(value: object) -> None:
    with Fields(value, "thing") as fields:
        fields.integer("n", low=1, high=3)
        fields.octets("hex", 2)
        fields.boolean("flag")
        fields.choice("kind", ("a", "b"))


GOOD = {"n": 2, "hex": "00ff", "flag": True, "kind": "a"}


def test_strict_object_is_read():
    read_all(GOOD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 4}, Reason.MALFORMED),
        ({"n": 0}, Reason.MALFORMED),
        ({"n": True}, Reason.WRONG_TYPE),
        ({"n": 2.0}, Reason.WRONG_TYPE),
        ({"n": "2"}, Reason.WRONG_TYPE),
        ({"hex": "00FF"}, Reason.MALFORMED),
        ({"hex": "00"}, Reason.MALFORMED),
        ({"hex": "0 0f"}, Reason.MALFORMED),
        ({"flag": 1}, Reason.WRONG_TYPE),
        ({"kind": "c"}, Reason.MALFORMED),
        ({"kind": ""}, Reason.MALFORMED),
        ({"more": 1}, Reason.UNKNOWN_FIELD),
    ],
)
def test_field_out_of_bounds_is_refused(change, reason):
    assert reason_of(read_all, GOOD | change) is reason


@pytest.mark.parametrize("key", list(GOOD))
def test_missing_field_is_refused(key):
    assert reason_of(read_all, {k: v for k, v in GOOD.items() if k != key}) is Reason.MISSING_FIELD


def test_a_value_that_is_no_object_is_refused():
    assert reason_of(read_all, []) is Reason.WRONG_TYPE


def test_fields_of_another_length_are_neither_padded_nor_cut():
    for size in (31, 33):
        assert reason_of(exactly, bytes(size), 32, "f") is Reason.MALFORMED


def test_errors_name_the_field_and_never_the_value():
    with pytest.raises(WireError) as caught:
        read_all(GOOD | {"kind": "SECRET-VALUE"})
    assert "thing.kind" in str(caught.value)
    assert "SECRET-VALUE" not in str(caught.value)
