"""A sealed data set opens whole, for its key and header, or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted import floe
from trusted.errors import BlobError, ProtocolError, Reason
from trusted.sealed_data import MAGIC, MAX_HEADER_BYTES, SEGMENT_BYTES, DataHeader, is_sealed, open_data, seal_data

KEY = bytes(range(32))
HEADER = DataHeader("hospital-a", bytes(32), datetime(2026, 3, 1, tzinfo=UTC))
PIECE = SEGMENT_BYTES - floe.OVERHEAD_BYTES


def sealed(plaintext: bytes, header: DataHeader = HEADER) -> bytes:
    return b"".join(seal_data(header, KEY, [plaintext]))


def opened(data: bytes, key: bytes = KEY) -> bytes:
    file = io.BytesIO(data)
    return b"".join(open_data(DataHeader.read(file), key, file))


def refused(data: bytes, key: bytes = KEY) -> Reason:
    with pytest.raises(ProtocolError) as error:
        opened(data, key)
    return error.value.reason


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7])
def test_what_was_sealed_opens(size: int) -> None:
    plaintext = bytes(size)
    data = sealed(plaintext)
    assert is_sealed(data)
    assert opened(data) == plaintext
    assert len(data) < size + 1024 + (size // PIECE + 1) * floe.OVERHEAD_BYTES


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_the_pieces_in_which_it_came_do_not_matter(pieces: list[bytes]) -> None:
    assert opened(b"".join(seal_data(HEADER, KEY, pieces))) == b"".join(pieces)


def test_every_bit_counts_but_those_that_name_the_file() -> None:
    data = sealed(b"age,sbp\n36,120\n")
    for place in range(len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[place] ^= bit
            assert refused(bytes(changed)) in {
                Reason.DATA_FILE, Reason.DATA_SEALED, Reason.NOT_CANONICAL, Reason.MALFORMED, Reason.UNKNOWN_FIELD,
                Reason.MISSING_FIELD, Reason.DOCUMENT_RULE,
            }  # fmt: skip


def test_a_header_that_names_another_member_or_key_does_not_open() -> None:
    data = sealed(b"x")
    for forged in (
        DataHeader("hospital-b", HEADER.key_id, HEADER.sealed),
        DataHeader(HEADER.member, bytes([1]) * 32, HEADER.sealed),
        DataHeader(HEADER.member, HEADER.key_id, datetime(2026, 3, 2, tzinfo=UTC)),
    ):
        assert refused(data.replace(HEADER.encode(), forged.encode())) is Reason.DATA_SEALED


def test_another_key_does_not_open() -> None:
    assert refused(sealed(b"x"), bytes(32)) is Reason.DATA_SEALED


def segments() -> tuple[bytes, list[bytes]]:
    plaintext = b"".join(bytes([number]) * PIECE for number in range(3)) + b"end"
    data = sealed(plaintext)
    start = len(MAGIC) + 4 + len(HEADER.encode()) + floe.HEADER_BYTES
    return data[:start], [data[at : at + SEGMENT_BYTES] for at in range(start, len(data), SEGMENT_BYTES)]


def test_cut_prolonged_reordered_repeated_and_swapped_files_are_refused() -> None:
    begin, parts = segments()
    assert opened(begin + b"".join(parts))[-3:] == b"end"
    wrong = {
        "without its last": parts[:-1],
        "without its first": parts[1:],
        "without one in the middle": [parts[0], *parts[2:]],
        "reordered": [parts[1], parts[0], *parts[2:]],
        "one twice": [parts[0], parts[0], *parts[1:]],
        "a byte more": [*parts, b"\0"],
        "its last twice": [*parts, parts[-1]],
        "a byte short": [*parts[:-1], parts[-1][:-1]],
        "nothing": [],
    }
    for name, found in wrong.items():
        assert refused(begin + b"".join(found)) is Reason.DATA_SEALED, name
    other, _ = segments()
    assert refused(other + b"".join(parts)) is Reason.DATA_SEALED  # the same key and header, another message


def test_every_truncation_is_refused() -> None:
    data = sealed(b"age,sbp\n36,120\n")
    for size in range(len(data)):
        assert refused(data[:size]) in {Reason.DATA_FILE, Reason.DATA_SEALED}


def test_a_file_that_is_read_in_dribbles_opens() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 4099))

    plaintext = bytes(PIECE + 5)
    file = Slow(sealed(plaintext))
    assert b"".join(open_data(DataHeader.read(file), KEY, file)) == plaintext


def test_the_sealer_holds_two_pieces_whatever_the_size() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(64):
            taken += 1 << 18
            yield bytes(1 << 18)

    given_out = 0
    for part in seal_data(HEADER, KEY, endless()):
        given_out += len(part)
        assert taken - given_out <= 2 * PIECE


def test_a_file_of_another_member_is_not_taken() -> None:
    HEADER.require_member("hospital-a")
    with pytest.raises(BlobError) as error:
        HEADER.require_member("hospital-b")
    assert error.value.reason is Reason.DATA_FILE


def test_a_header_says_nothing_of_the_table() -> None:
    data = sealed(b"pressure,age\n120.0625,36\n")
    assert b"pressure" not in data
    assert b"120.0625" not in data
    assert set(HEADER.encode().decode().split('"')[1::4]) == {"format", "key_id", "member", "sealed"}


@pytest.mark.parametrize("size", [0, MAX_HEADER_BYTES + 1, 1 << 31])
def test_a_header_of_another_size_is_refused_before_it_is_read(size: int) -> None:
    assert refused(MAGIC + size.to_bytes(4, "big") + bytes(8)) is Reason.DATA_FILE


def test_a_later_format_is_refused() -> None:
    later = HEADER.encode().replace(b"/v1", b"/v2")
    assert refused(sealed(b"x").replace(HEADER.encode(), later)) is Reason.DATA_FILE


@given(st.binary(max_size=300), st.booleans())
def test_whatever_the_bytes_they_are_refused(data: bytes, named: bool) -> None:
    with pytest.raises(ProtocolError):
        opened(MAGIC + data if named else data)
