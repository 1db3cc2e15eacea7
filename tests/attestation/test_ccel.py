"""The event log of a TD: parsed or refused, and replayed as the registers were extended."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.formats.ccel import (
    EV_EVENT_TAG,
    MAX_LOG_BYTES,
    encode_event,
    parse,
    replay,
    used_bytes,
)
from trusted.attestation.formats.tcg_event_log import MAX_EVENTS
from trusted.errors import AttestationError, Reason

EV_NO_ACTION, EV_SEPARATOR = 3, 4
DIGESTS = [hashlib.sha384(bytes([number])).digest() for number in range(8)]


def first(
    algorithms: tuple[tuple[int, int], ...] = ((0xC, 48),),
    *,
    signature: bytes = b"Spec ID Event03\0",
    vendor: bytes = b"\0",
) -> bytes:
    """The entry that names the log's form."""
    body = signature + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + vendor
    return struct.pack("<II20sI", 1, EV_NO_ACTION, bytes(20), len(body)) + body


LOG = first() + b"".join(
    encode_event(register, kind, DIGESTS[place], data)
    for place, (register, kind, data) in enumerate(
        [
            (0, EV_EVENT_TAG, b"firmware"),
            (0, EV_SEPARATOR, bytes(4)),
            (1, EV_EVENT_TAG, b"kernel"),
            (3, EV_EVENT_TAG, b"\xff"),
        ]
    )
)


def refused(log: bytes) -> None:
    with pytest.raises(AttestationError) as error:
        parse(log)
    assert error.value.reason is Reason.RUNTIME_MEASUREMENT


def test_events_are_read_in_order_with_their_registers() -> None:
    events = parse(LOG)
    assert [(event.register, event.digest) for event in events] == list(zip((0, 0, 1, 3), DIGESTS[:4], strict=True))
    assert events[2].data == b"kernel"


def test_a_register_is_what_its_events_extend_it_to() -> None:
    replayed = replay(parse(LOG))
    once = hashlib.sha384(bytes(48) + DIGESTS[0]).digest()
    assert replayed.rtmrs[0] == hashlib.sha384(once + DIGESTS[1]).digest()
    assert replayed.rtmrs[1] == hashlib.sha384(bytes(48) + DIGESTS[2]).digest()
    assert replayed.rtmrs[2] == bytes(48)
    assert replayed.digests == ((DIGESTS[0], DIGESTS[1]), (DIGESTS[2],), (), (DIGESTS[3],))


def test_events_that_say_something_extend_nothing() -> None:
    remark = encode_event(1, EV_NO_ACTION, DIGESTS[5], b"remark")
    launch = encode_event(-1, EV_EVENT_TAG, DIGESTS[5], b"MRTD is fixed at launch")
    assert replay(parse(LOG + remark + launch)) == replay(parse(LOG))


def test_a_remark_may_name_no_register_but_an_event_may_not() -> None:
    """An index of all ones stands for none (TCG PC Client Platform Firmware Profile, table 14)."""
    nowhere = _indexed(0xFFFFFFFF, EV_NO_ACTION)
    assert parse(LOG + nowhere)[-1].register is None
    assert replay(parse(LOG + nowhere)) == replay(parse(LOG))
    refused(LOG + _indexed(0xFFFFFFFF, EV_EVENT_TAG))
    refused(LOG + _indexed(5, EV_EVENT_TAG))


def _indexed(index: int, kind: int) -> bytes:
    return struct.pack("<I", index) + encode_event(0, kind, DIGESTS[5], b"remark")[4:]


def test_the_order_of_events_matters() -> None:
    one, other = encode_event(2, 6, DIGESTS[0], b""), encode_event(2, 6, DIGESTS[1], b"")
    assert replay(parse(first() + one + other)).rtmrs != replay(parse(first() + other + one)).rtmrs


@pytest.mark.parametrize("filler", [b"\xff", b"\0"])
@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 4096])
def test_the_unused_rest_of_the_table_is_no_event(filler: bytes, size: int) -> None:
    """The last event's own data may look like the filler: a separator is zeros."""
    for log in (LOG, LOG + encode_event(2, EV_SEPARATOR, DIGESTS[4], bytes(4))):
        assert parse(log + filler * size) == parse(log)
        assert used_bytes(log + filler * size) == log


def test_what_follows_the_rest_of_the_table_is_refused() -> None:
    refused(LOG + b"\xff" * 64 + encode_event(0, 6, DIGESTS[0], b""))
    refused(LOG + b"\0" * 64 + encode_event(0, 6, DIGESTS[0], b""))
    refused(LOG + b"\0" * 16 + b"\xff" * 16)


def test_a_log_cut_short_inside_an_event_is_refused() -> None:
    whole = {len(first())}
    position = len(first())
    for event in parse(LOG):
        position += 12 + 2 + 48 + 4 + len(event.data)
        whole.add(position)
    for size in range(len(LOG)):
        if size not in whole and LOG[:size].strip(b"\0") and size - 1 not in whole:
            cut = LOG[:size]
            if cut[-1:] in (b"\0", b"\xff") and len(cut.rstrip(cut[-1:])) in whole:
                continue
            try:
                assert len(parse(cut)) < 4
            except AttestationError:
                continue


@pytest.mark.parametrize(
    "log",
    [
        b"",
        first()[:31],
        first()[:-1],
        first(signature=b"Spec ID Event02\0"),
        first(()),
        first(((0x4, 20),)),
        first(((0xC, 32),)),
        first(((0xC, 48), (0xC, 48))),
        first(tuple((number, 48) for number in range(0xC, 0xC + 9))),
        first(vendor=b"\x05abc"),
        first(vendor=b"\0more"),
        b"\xff" * 4096,
        bytes(4096),
    ],
    ids=lambda log: str(len(log)),
)
def test_a_log_in_another_form_is_refused(log: bytes) -> None:
    refused(log)


def test_an_event_names_a_register_and_all_digests() -> None:
    refused(LOG + encode_event(4, 6, DIGESTS[0], b""))
    refused(LOG + struct.pack("<III", 1, 6, 0) + struct.pack("<I", 0))
    refused(LOG + struct.pack("<III", 1, 6, 2) + (b"\x0c\0" + DIGESTS[0]) * 2 + struct.pack("<I", 0))
    refused(LOG + struct.pack("<III", 1, 6, 1) + b"\x0b\0" + DIGESTS[0] + struct.pack("<I", 0))
    refused(LOG + struct.pack("<III", 1, 6, 1) + b"\x0c\0" + DIGESTS[0] + struct.pack("<I", 1 << 31))


def test_another_algorithm_beside_sha_384_is_passed_over() -> None:
    both = first(((0xB, 32), (0xC, 48)))
    event = struct.pack("<III", 2, 6, 2) + b"\x0b\0" + bytes(32) + b"\x0c\0" + DIGESTS[0] + struct.pack("<I", 0)
    assert replay(parse(both + event)).digests[1] == (DIGESTS[0],)


def test_a_log_is_bounded_in_bytes_and_in_events() -> None:
    refused(LOG + b"\xff" * MAX_LOG_BYTES)
    one = encode_event(0, 6, DIGESTS[0], b"")
    most = (MAX_LOG_BYTES - len(first())) // len(one)
    assert most < MAX_EVENTS
    assert len(parse(first() + one * most)) == most


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_parsed_or_refused(data: bytes, after_first: bool) -> None:
    try:
        events = parse(first() + data if after_first else data)
    except AttestationError:
        return
    replay(events)
