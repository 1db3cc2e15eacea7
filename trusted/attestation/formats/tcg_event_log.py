"""The TCG 2.0 event log of a measured boot, and what its events add up to. Trust zone: every TEE.

The same structure stands in ``binary_bios_measurements`` (TPM: an index is a PCR) and in the CCEL table of confidential
guests (an index is a measurement register). A log is a claim of the host and proves nothing by itself: it explains
registers that are signed elsewhere, and only where its replay gives exactly their values.
Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (crypto-agile log).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.attestation.formats.cursor import Cursor
from trusted.errors import AttestationError, Reason

MAX_EVENT_LOG_BYTES = 4 << 20
MAX_EVENTS = 4096
_MAX_EVENT_BYTES = 1 << 20
_MAX_ALGORITHMS = 8
_MAX_DIGEST_BYTES = 64
_EV_NO_ACTION = 3
_SHA1_BYTES = 20
_SPEC_ID = b"Spec ID Event03\x00"
_STARTUP_LOCALITY = b"StartupLocality\x00"
_LOCALITIES = (0, 3, 4)
_UNTOUCHED_BY_NO_ACTION = 0xFFFFFFFF


@unique
class Bank(Enum):
    """The digests that are trusted: TCG algorithm numbers. SHA-1 is read over and never replayed."""

    SHA256 = 0x000B
    SHA384 = 0x000C

    @property
    def label(self) -> str:
        """``sha256`` or ``sha384``: the wire's spelling."""
        return self.name.lower()

    @property
    def size_bytes(self) -> int:
        """Length of one digest."""
        return 32 if self is Bank.SHA256 else 48

    def digest(self, data: bytes) -> bytes:
        """The bank's digest of ``data``."""
        return hashlib.new(self.label, data).digest()


@dataclass(frozen=True, slots=True)
class UnverifiedEvent:
    """One entry: a register's index, a type, one digest for each bank of the log, and data that explains them."""

    index: int
    type: int
    digests: Mapping[int, bytes]
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether the event went into its register; the others only inform."""
        return self.type != _EV_NO_ACTION


@dataclass(frozen=True, slots=True)
class UnverifiedEventLog:
    """A well-formed log that anybody may have written. ``used_bytes``: where its last event ends."""

    algorithms: Mapping[int, int]
    events: tuple[UnverifiedEvent, ...]
    used_bytes: int

    def replay(self, bank: Bank, *, startup_locality: bool = True) -> Mapping[int, bytes]:
        """The value of each register that the log touches, by index, if it began as zeros.

        ``startup_locality``: register 0 begins with the locality that the log names, as a TPM's PCR 0 does.

        Raises:
            AttestationError: RUNTIME_MEASUREMENT, the log has no digests of ``bank``.
        """
        if self.algorithms.get(bank.value) != bank.size_bytes:
            raise AttestationError(Reason.RUNTIME_MEASUREMENT, f"event log: digests of the bank {bank.label} expected")
        values: dict[int, bytes] = {}
        zeros = bytes(bank.size_bytes)
        if startup_locality:
            for locality in self._localities():
                values[0] = zeros[:-1] + bytes([locality])
        for event in self.events:
            if event.extends:
                values[event.index] = bank.digest(values.get(event.index, zeros) + event.digests[bank.value])
        return MappingProxyType(values)

    def _localities(self) -> Iterator[int]:
        """At most one, before anything is measured into register 0."""
        seen = False
        for event in self.events:
            if event.index == 0 and event.extends:
                seen = True
            elif event.index == 0 and event.data.startswith(_STARTUP_LOCALITY):
                content = event.data[len(_STARTUP_LOCALITY) :]
                if seen or len(content) != 1 or content[0] not in _LOCALITIES:
                    raise AttestationError(Reason.EVIDENCE_FORMAT, "event log.startup locality: one, 0, 3 or 4, first")
                seen = True
                yield content[0]


def parse(log: bytes, *, table: bool = False) -> UnverifiedEventLog:
    """The events in ``log``, which ends with its last event; in a ``table`` an unused rest may follow.

    Firmware fills its table with one byte, all ones or all zeros, before it logs. The data of the last event may end in
    that byte too, but no event begins so: no register has such a number, and none has the type 0 and no digest.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"event log: at most {MAX_EVENT_LOG_BYTES} bytes expected")
    cursor = Cursor(log, "event log", "little")
    # A TPM log names no register first; the tables of confidential guests name the first that is extended.
    algorithms = _header(cursor, indices=(0, 1) if table else (0,))
    events: list[UnverifiedEvent] = []
    filler = log[-1:] if table and log[-1:] in (b"\xff", b"\0") else b""
    last = len(log.rstrip(filler)) if filler else len(log)
    while cursor.position < last:
        if len(events) == MAX_EVENTS:
            raise cursor.error(f"events: at most {MAX_EVENTS} expected")
        events.append(_event(cursor, algorithms))
    return UnverifiedEventLog(MappingProxyType(algorithms), tuple(events), cursor.position)


def _header(cursor: Cursor, *, indices: tuple[int, ...]) -> dict[int, int]:
    """The first event, in the older form: which algorithms the others carry, and how long their digests are."""
    if cursor.number(4, "header index") not in indices:
        raise cursor.error("header index: 0 expected, or 1 in a table")
    cursor.expect(4, _EV_NO_ACTION, "header type")
    if any(cursor.octets(_SHA1_BYTES, "header digest")):
        raise cursor.error("header digest: zeros expected")
    header = Cursor(cursor.sized(4, "header", most=1024), "event log.header", "little")
    if header.octets(16, "signature") != _SPEC_ID:
        raise header.error("signature: Spec ID Event03 expected")
    header.octets(4, "platform class")
    if header.octets(3, "version")[:2] != bytes([0, 2]):
        raise header.error("version: 2.0 expected")
    header.octets(1, "uintn size")
    count = header.number(4, "algorithms")
    if not 0 < count <= _MAX_ALGORITHMS:
        raise header.error(f"algorithms: 1 to {_MAX_ALGORITHMS} expected")
    algorithms: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = header.number(2, "algorithm"), header.number(2, "digest size")
        if algorithm in algorithms or not 0 < size <= _MAX_DIGEST_BYTES:
            raise header.error("algorithms: distinct, with digests of 1 to 64 bytes, expected")
        algorithms[algorithm] = size
    header.sized(1, "vendor", most=255)
    header.end()
    return algorithms


def _event(cursor: Cursor, algorithms: Mapping[int, int]) -> UnverifiedEvent:
    index, type_ = cursor.number(4, "index"), cursor.number(4, "type")
    if index > 23 and (index != _UNTOUCHED_BY_NO_ACTION or type_ != _EV_NO_ACTION):
        raise cursor.error("index: 0 to 23 expected")
    cursor.expect(4, len(algorithms), "digests")
    digests: dict[int, bytes] = {}
    for _ in algorithms:
        algorithm = cursor.number(2, "digest algorithm")
        if algorithm not in algorithms or algorithm in digests:
            raise cursor.error("digests: one for each algorithm of the header expected")
        digests[algorithm] = cursor.octets(algorithms[algorithm], "digest")
    return UnverifiedEvent(index, type_, MappingProxyType(digests), cursor.sized(4, "data", most=_MAX_EVENT_BYTES))
