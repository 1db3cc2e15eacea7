"""The door's codec: one form for each message, bounded, and nothing but ``WireError`` for anything else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.door import (
    HEADER_BYTES,
    MAX_CONTROL_BODY,
    MAX_DATA_CHUNK,
    Address,
    Announcement,
    BlobRange,
    BlobWrite,
    Decline,
    DoorKind,
    DoorMessage,
    DoorReader,
    DoorRole,
    Registration,
    decode_blob,
    decode_header,
    decode_reason,
    encode_header,
    encode_message,
    encode_reason,
    max_body,
)
from trusted.errors import Reason, WireError

BLOB = b"b" * 16
messages = st.builds(DoorMessage, st.sampled_from(DoorKind), st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(messages, max_size=8), st.data())
def test_messages_survive_any_cutting_of_the_stream(sent: list[DoorMessage], data: st.DataObject) -> None:
    stream = b"".join(encode_message(item.kind, item.channel, item.body) for item in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, got = DoorReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    with suppress(WireError):
        DoorReader().feed(data)


@given(st.binary(max_size=80))
def test_any_body_is_decoded_or_refused(body: bytes) -> None:
    decoders = (Registration, Announcement, Decline, BlobRange, BlobWrite)
    for decode in (*(kind.decode for kind in decoders), decode_blob, decode_reason):
        with suppress(WireError):
            decode(body)


@pytest.mark.parametrize(
    "body",
    [
        Registration(b"p" * 32, DoorRole.DATA, b"t" * 16),
        Announcement(BLOB, 1 << 40),
        Decline(BLOB, 705),
        BlobRange(BLOB, 7, MAX_DATA_CHUNK),
    ],
)
def test_bodies_come_back_and_refuse_a_byte_more_or_less(
    body: Registration | Announcement | Decline | BlobRange,
) -> None:
    encoded = body.encode()
    assert type(body).decode(encoded) == body
    for wrong in (encoded[:-1], encoded + b"\0", b""):
        with pytest.raises(WireError):
            type(body).decode(wrong)


def test_a_write_carries_its_data_behind_its_header() -> None:
    write, data = BlobWrite.decode(BlobWrite(BLOB, 5, True).encode() + b"data")
    assert (write, bytes(data)) == (BlobWrite(BLOB, 5, True), b"data")


def test_a_role_a_flag_and_a_size_that_do_not_exist_are_refused() -> None:
    registration = bytearray(Registration(b"p" * 32, DoorRole.DATA, b"t" * 16).encode())
    registration[32] = 9
    write = bytearray(BlobWrite(BLOB, 0, True).encode())
    write[-1] = 2
    for decode, body in (
        (Registration.decode, registration),
        (BlobWrite.decode, write),
        (BlobRange.decode, BlobRange(BLOB, 0, 1).encode()[:-4] + bytes(4)),
        (BlobRange.decode, BlobRange(BLOB, 0, MAX_DATA_CHUNK + 1).encode()),
    ):
        with pytest.raises(WireError):
            decode(bytes(body))


@pytest.mark.parametrize("kind", DoorKind)
def test_the_length_of_each_kind_is_bounded_before_a_body_is_read(kind: DoorKind) -> None:
    limit = max_body(kind)
    assert decode_header(encode_header(kind, 3, limit)) == (kind, 3, limit)
    assert limit <= (MAX_DATA_CHUNK + 64 if kind in (DoorKind.DATA, DoorKind.WRITE) else MAX_CONTROL_BODY)
    with pytest.raises(WireError):
        encode_header(kind, 3, limit + 1)
    longer = (9 + limit + 1).to_bytes(4, "big") + encode_header(kind, 3, 0)[4:]
    for wrong in (longer, (8).to_bytes(4, "big") + longer[4:], longer[: HEADER_BYTES - 1]):
        with pytest.raises(WireError):
            decode_header(wrong)


def test_an_unknown_kind_is_refused() -> None:
    header = bytearray(encode_header(DoorKind.FRAME, 0, 0))
    header[4] = 255
    with pytest.raises(WireError):
        decode_header(bytes(header))


def test_reasons_come_back() -> None:
    assert decode_reason(encode_reason(Reason.SUPERSEDED)) == Reason.SUPERSEDED


@pytest.mark.parametrize(
    "text", ["unix:/run/cloister/door.sock", "tcp:127.0.0.1:7000", "tcp:[::1]:7000", "tcp:localhost:1", "vsock:2:7000"]
)
def test_addresses_come_back(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "tcp:0.0.0.0:7000",
        "tcp:10.0.0.1:7000",
        "tcp:example.org:7000",
        "tcp:127.0.0.1.example.org:7000",
        "tcp::7000",
        "tcp:127.0.0.1:70000",
        "tcp:127.0.0.1:-1",
        "unix:relative",
        "unix:",
        "vsock:host:1",
        "vsock:2",
        "",
        "/path",
        "http://localhost",
    ],
)
def test_a_door_beyond_this_machine_or_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        Address.parse(text)


def test_a_registration_token_has_no_repr() -> None:
    assert "tttt" not in repr(Registration(b"p" * 32, DoorRole.CONTROL, b"t" * 16))
