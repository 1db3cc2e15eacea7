"""The strict CBOR reader: one spelling of each value, and nothing but values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.formats.cbor import Tagged, decode, encode
from trusted.errors import AttestationError, Reason

# RFC 8949, appendix A, as far as this reader goes.
EXAMPLES: tuple[tuple[str, Any], ...] = (
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1_000_000),
    ("1b000000e8d4a51000", 1_000_000_000_000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("20", -1),
    ("3903e7", -1000),
    ("3bffffffffffffffff", -18446744073709551616),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\x01\x02\x03\x04"),
    ("60", ""),
    ("62c3bc", "ü"),
    ("80", ()),
    ("8301820203820405", (1, (2, 3), (4, 5))),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": (2, 3)}),
    ("d818456449455446", Tagged(24, b"dIETF")),
)

ANOTHER_SPELLING = {
    "integer in two bytes": "1800",
    "integer in three bytes": "190017",
    "integer in five bytes": "1a0000ffff",
    "integer in nine bytes": "1b00000000ffffffff",
    "length in two bytes": "580101",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f01ff",
    "indefinite map": "bf0102ff",
    "key twice": "a201020103",
    "byte left over": "0000",
}
NOT_A_VALUE = {
    "nothing": "",
    "cut head": "19",
    "cut bytes": "4201",
    "cut array": "8201",
    "cut map": "a101",
    "half float": "f93c00",
    "double": "fb3ff0000000000000",
    "undefined": "f7",
    "simple value": "e0",
    "long simple value": "f8ff",
    "reserved length": "1c",
    "break alone": "ff",
    "not UTF-8": "61ff",
    "key of bytes": "a1410100",
    "key of an array": "a18000",
    "true as a key": "a1f500",
    "nested too deep": "81" * 8 + "00",
    "tags nested too deep": "c1" * 8 + "00",
    "length beyond everything": "5bffffffffffffffff",
    "array beyond everything": "9bffffffffffffffff",
}


def refused(data: bytes, *, streamed: bool = False) -> None:
    with pytest.raises(AttestationError) as error:
        decode(data, "value", streamed=streamed)
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(("spelling", "value"), EXAMPLES)
def test_examples_of_the_rfc_read_and_write(spelling: str, value: Any) -> None:
    assert decode(bytes.fromhex(spelling), "value") == value
    assert encode(value).hex() == spelling


@pytest.mark.parametrize("name", [*ANOTHER_SPELLING, *NOT_A_VALUE])
def test_all_else_is_refused(name: str) -> None:
    refused(bytes.fromhex({**ANOTHER_SPELLING, **NOT_A_VALUE}[name]))


@pytest.mark.parametrize("name", [name for name in NOT_A_VALUE if "deep" not in name and name != "break alone"])
def test_streamed_reading_allows_no_more_than_open_ends(name: str) -> None:
    refused(bytes.fromhex(NOT_A_VALUE[name]), streamed=True)
    refused(bytes.fromhex("9f" + NOT_A_VALUE[name]), streamed=True)


def test_open_ends_are_read_where_a_signature_fixes_the_spelling() -> None:
    assert decode(bytes.fromhex("bf616101 61629f0203ffff".replace(" ", "")), "value", streamed=True) == {
        "a": 1,
        "b": (2, 3),
    }
    for cut in ("bf", "bf6161", "9f01", "9f"):
        refused(bytes.fromhex(cut), streamed=True)
    for strings in ("5f4101ff", "7f6161ff"):
        refused(bytes.fromhex(strings), streamed=True)


def test_seven_levels_are_enough_for_everything_and_eight_are_the_end() -> None:
    assert decode(bytes.fromhex("81" * 7 + "00"), "value") is not None
    refused(bytes.fromhex("81" * 8 + "00"))


def test_what_is_too_large_is_not_even_looked_at() -> None:
    data = encode(bytes(100))
    assert decode(data, "value", max_bytes=len(data)) == bytes(100)
    with pytest.raises(AttestationError, match="at most"):
        decode(data, "value", max_bytes=len(data) - 1)


def test_an_integer_of_more_than_64_bits_is_not_written() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(1 << 64)


_KEYS = st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=5)
_INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
_LEAVES = st.none() | st.booleans() | _INTEGERS | st.binary(max_size=30) | st.text(max_size=9)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=9,
)


@given(_VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    spelling = encode(value)
    try:
        assert decode(spelling, "value") == value
    except AttestationError as error:
        assert "deep" in error.detail  # noqa: PT017 - the one thing that may be wrong with it


@given(st.binary(max_size=60))
def test_whatever_reads_has_this_one_spelling(data: bytes) -> None:
    try:
        value = decode(data, "value")
    except AttestationError as error:
        assert error.reason is Reason.EVIDENCE_FORMAT  # noqa: PT017
        return
    assert encode(value) == data


@given(st.binary(max_size=60))
def test_another_reader_agrees(data: bytes) -> None:
    """What this reader accepts, cbor2 reads too, and as the same value."""
    cbor2 = pytest.importorskip("cbor2")
    try:
        value = decode(data, "value")
    except AttestationError:
        return
    if b"\xc0" <= data[:1] < b"\xe0" or any(isinstance(item, Tagged) for item in _all(value)):
        return  # cbor2 gives tags a meaning, which this reader leaves alone
    assert _plain(cbor2.loads(data)) == value


def _all(value: Any) -> list[Any]:
    inner = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else ()
    return [value, *(leaf for item in inner for leaf in _all(item))]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
