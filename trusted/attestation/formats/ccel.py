"""The confidential computing event log (ACPI table CCEL), bytes to events and to digests. Trust zone: every TEE.

A log proves nothing by itself: it counts only where its replay gives a register that the hardware signed. The host
supplies it and may lie. It is a TCG crypto-agile log in which register 0 is MRTD and 1 to 4 are RTMR0 to RTMR3.
Sources: ACPI 6.5, CCEL; UEFI 2.10, 38.4 (virtual platform measurement); TCG PC Client Platform Firmware Profile, 10.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from trusted.attestation.formats import tcg_event_log
from trusted.attestation.formats.tcg_event_log import UnverifiedEventLog
from trusted.errors import AttestationError, Reason

MAX_LOG_BYTES = 256 << 10
RTMR_COUNT = 4
RTMR_BYTES = 48
EV_EVENT_TAG = 0x6
_EV_NO_ACTION = 0x3
_SHA384 = 0x000C
_EVENT = struct.Struct("<III")  # register, type, number of digests
_SIZE = struct.Struct("<I")
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
    parsed = _read(log)
    if parsed.algorithms.get(_SHA384) != RTMR_BYTES:
        raise _refused("digests by SHA-384 expected")
    return tuple(_event(event) for event in parsed.events)


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
    return log[: _read(log).used_bytes]


def _read(log: bytes) -> UnverifiedEventLog:
    if len(log) > MAX_LOG_BYTES:
        raise _refused(f"at most {MAX_LOG_BYTES} bytes expected")
    try:
        return tcg_event_log.parse(log, table=True)
    except AttestationError as error:
        raise _refused(error.detail) from None


def _event(event: tcg_event_log.UnverifiedEvent) -> UnverifiedEvent:
    if event.index >= _MR_COUNT and event.extends:
        raise _refused("MRTD or one of the four RTMRs expected")
    register = event.index - 1 if 0 < event.index < _MR_COUNT else None
    return UnverifiedEvent(register, event.type, event.digests[_SHA384], event.data)


def _refused(rule: str) -> AttestationError:
    return AttestationError(Reason.RUNTIME_MEASUREMENT, f"event log: {rule}")
