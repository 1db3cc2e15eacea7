"""The confidential computing event log (ACPI table CCEL), bytes to events and to digests. Trust zone: every TEE.

A log proves nothing by itself: it counts only where its replay gives a register that the hardware signed. The host
supplies it and may lie. It is a TCG crypto-agile log in which register 0 is MRTD and 1 to 4 are RTMR0 to RTMR3.
Sources: ACPI 6.5, CCEL; UEFI 2.10, 38.4 (virtual platform measurement); TCG PC Client Platform Firmware Profile, 10.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from trusted.errors import AttestationError, Reason

MAX_LOG_BYTES = 256 << 10
RTMR_COUNT = 4
RTMR_BYTES = 48
MAX_EVENTS = 4096
EV_EVENT_TAG = 0x6
_EV_NO_ACTION = 0x3
_SHA384 = 0x000C
_SIGNATURE = b"Spec ID Event03\0"
_FIRST = struct.Struct("<II20sI")  # register, type, SHA-1 digest, size: the one event in the old form
_SPEC_ID = struct.Struct("<16sIBBBBI")  # signature, platform class, versions and sizes, number of algorithms
_ALGORITHM = struct.Struct("<HH")
_EVENT = struct.Struct("<III")  # register, type, number of digests
_SIZE = struct.Struct("<I")
_MAX_ALGORITHMS = 8
_MR_COUNT = RTMR_COUNT + 1


@dataclass(frozen=True, slots=True)
class UnverifiedEvent:
    """One measurement, as the log tells it.

    Attributes:
        register: 0 to 3 for RTMR0 to RTMR3; None for MRTD, which no event extends.
        type: TCG event type.
        digest: SHA-384 that was extended, 48 bytes.
        data: what the log says was measured. Only for some types is ``digest`` the digest of it.
    """

    register: int | None
    type: int
    digest: bytes
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether the event changed a register."""
        return self.type != _EV_NO_ACTION and self.register is not None


@dataclass(frozen=True, slots=True)
class Replay:
    """What four registers would hold had the log's events, and no others, been measured."""

    rtmrs: tuple[bytes, ...]
    digests: tuple[tuple[bytes, ...], ...]


def parse(log: bytes) -> tuple[UnverifiedEvent, ...]:
    """The events of ``log``. What follows the last one is the unused rest of the table: all ones, or all zeros.

    Raises:
        AttestationError: RUNTIME_MEASUREMENT: no such log, or one over a bound.
    """
    return _read(log)[0]


def replay(events: tuple[UnverifiedEvent, ...]) -> Replay:
    """Each register starts as zeros; an event makes it SHA-384(register ‖ digest)."""
    rtmrs = [bytes(RTMR_BYTES)] * RTMR_COUNT
    digests: list[list[bytes]] = [[] for _ in range(RTMR_COUNT)]
    for event in events:
        if event.extends and event.register is not None:
            rtmrs[event.register] = extend(rtmrs[event.register], event.digest)
            digests[event.register].append(event.digest)
    return Replay(tuple(rtmrs), tuple(tuple(items) for items in digests))


def extend(register: bytes, digest: bytes) -> bytes:
    """What ``register`` holds after ``digest`` was measured into it; 48 bytes each."""
    return hashlib.sha384(register + digest).digest()


def encode_event(register: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    """The log's bytes for one measurement into RTMR ``register``, 0 to 3: for what a guest measures after boot."""
    head = _EVENT.pack(register + 1, event_type, 1)
    return head + struct.pack("<H", _SHA384) + digest + _SIZE.pack(len(data)) + data


def used_bytes(log: bytes) -> bytes:
    """``log`` without the unused rest of its table.

    Raises:
        AttestationError: as :func:`parse`.
    """
    return log[: _read(log)[1]]


def _read(log: bytes) -> tuple[tuple[UnverifiedEvent, ...], int]:
    """The events, and where the last one ends."""
    if len(log) > MAX_LOG_BYTES:
        raise _refused(f"at most {MAX_LOG_BYTES} bytes expected")
    position, sizes = _first(log)
    # Firmware fills its table with one byte before it logs. The data of the last event may end in that byte too, but
    # no event begins so: no register has such a number, and none has the type 0 and no digest.
    filler = log[-1:] if log[-1:] in (b"\xff", b"\0") else b""
    last = len(log.rstrip(filler)) if filler else len(log)
    events: list[UnverifiedEvent] = []
    while position < last:
        if len(events) == MAX_EVENTS:
            raise _refused(f"at most {MAX_EVENTS} events expected")
        event, position = _event(log, position, sizes)
        events.append(event)
    return tuple(events), position


def _first(log: bytes) -> tuple[int, dict[int, int]]:
    """Where the events begin, and the size of each algorithm's digest: from the log's own first entry."""
    if len(log) < _FIRST.size:
        raise _refused("a first event expected")
    _, kind, digest, size = _FIRST.unpack_from(log)
    body = log[_FIRST.size : _FIRST.size + size]
    if kind != _EV_NO_ACTION or any(digest) or len(body) != size or size < _SPEC_ID.size + 1:
        raise _refused("the event that names the log's form expected first")
    signature, *_, count = _SPEC_ID.unpack_from(body)
    if signature != _SIGNATURE or not 0 < count <= _MAX_ALGORITHMS:
        raise _refused("the crypto-agile form (Spec ID Event03) expected")
    vendor_at = _SPEC_ID.size + count * _ALGORITHM.size
    if len(body) < vendor_at + 1 or len(body) != vendor_at + 1 + body[vendor_at]:
        raise _refused("algorithms and vendor information of exactly their length expected")
    pairs = [_ALGORITHM.unpack_from(body, _SPEC_ID.size + place * _ALGORITHM.size) for place in range(count)]
    sizes = dict(pairs)
    if len(sizes) != count or sizes.get(_SHA384) != RTMR_BYTES:
        raise _refused("digests by SHA-384 expected")
    return _FIRST.size + size, sizes


def _event(log: bytes, position: int, sizes: dict[int, int]) -> tuple[UnverifiedEvent, int]:
    register, kind, count = _EVENT.unpack(_take(log, position, _EVENT.size))
    position += _EVENT.size
    if register >= _MR_COUNT:
        raise _refused("MRTD or one of the four RTMRs expected")
    if count != len(sizes):
        raise _refused("one digest by each of the log's algorithms expected")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        (algorithm,) = struct.unpack("<H", _take(log, position, 2))
        if algorithm not in sizes or algorithm in digests:
            raise _refused("one digest by each of the log's algorithms expected")
        digests[algorithm] = _take(log, position + 2, sizes[algorithm])
        position += 2 + sizes[algorithm]
    (size,) = _SIZE.unpack(_take(log, position, _SIZE.size))
    position += _SIZE.size
    data = _take(log, position, size)
    event = UnverifiedEvent(register - 1 if register else None, kind, digests[_SHA384], data)
    return event, position + size


def _take(log: bytes, position: int, size: int) -> bytes:
    if position + size > len(log):
        raise _refused("an event is cut short")
    return log[position : position + size]


def _refused(rule: str) -> AttestationError:
    return AttestationError(Reason.RUNTIME_MEASUREMENT, f"event log: {rule}")
