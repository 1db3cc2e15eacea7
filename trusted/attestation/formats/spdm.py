"""NVIDIA's GPU attestation report, bytes to fields: one SPDM request and the signed answer. Trust zone: every TEE.

The report is the 37 bytes of a SPDM 1.1 GET_MEASUREMENTS request, then the whole MEASUREMENTS response: header,
measurement blocks, the responder's nonce, NVIDIA's opaque fields, signature. All before the signature is signed, and
the verifier's own nonce stands in the request. The length follows from the structure. One byte may follow the
signature, and only a zero: a published report of a real GPU carries one (attestation.md 7.2). Source: DMTF DSP0274
1.1, tables GET_MEASUREMENTS and MEASUREMENTS; attestation.md 7.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, unique

from trusted.errors import AttestationError, Reason

REQUEST_BYTES = 37
NONCE_BYTES = 32
DIGEST_BYTES = 48
SIGNATURE_BYTES = 96
_ALLOWED_PADDING = (b"", b"\x00")
# SPDM 1.1 GET_MEASUREMENTS, with a signature asked for, over all measurements; the nonce follows, then slot 0.
_REQUEST_HEADER = bytes([0x11, 0xE0, 0x01, 0xFF])
_SLOT = b"\x00"
_RESPONSE_HEADER = bytes([0x11, 0x60, 0x00, 0x00])
_BLOCK_HEADER_BYTES = 7
_BLOCK_BYTES = _BLOCK_HEADER_BYTES + DIGEST_BYTES
_DMTF = 1
_RAW = 0x80  # DMTFSpecMeasurementValueType, bit 7: a raw bit stream in place of a digest
_MAX_OPAQUE_FIELDS = 64
_TEXT = re.compile(rb"[0-9A-Za-z._-]{0,32}")


@unique
class OpaqueField(IntEnum):
    """The opaque fields that are read. The others are signed like these, and nobody looks at them."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    BOARD_ID = 14
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    FEATURE_FLAG = 36


@dataclass(frozen=True, slots=True)
class BoardIds:
    """What NVIDIA calls the board: these select the VBIOS RIM. ``board`` is a number, the others short texts."""

    project: str
    project_sku: str
    chip_sku: str
    board: int | None


@dataclass(frozen=True, slots=True)
class UnverifiedGpuReport:
    """A well-formed report that anybody may have written.

    Attributes:
        nonce: 32 bytes of the request: the verifier's.
        measurements: SHA-384 digests, 48 bytes each, in the order of their blocks; block i+1 is ``measurements[i]``.
        driver_version: such as ``580.159.03``.
        vbios_raw: 8 bytes as reported; ``vbios_version`` is their usual spelling, such as ``96.00.5E.00.01``.
        fwid: digest of the firmware that holds the signing key, 48 bytes; None in reports of old drivers.
        feature_flag: 0, 1, 2 for SPT, MPT, PPCIE; None in reports of old drivers.
        signed: everything before the signature.
        signature_r, signature_s: ECDSA P-384.
    """

    nonce: bytes
    measurements: tuple[bytes, ...]
    driver_version: str
    vbios_raw: bytes
    board: BoardIds
    fwid: bytes | None
    feature_flag: int | None
    signed: bytes
    signature_r: int
    signature_s: int

    @property
    def vbios_version(self) -> str:
        """Four bytes, most significant first, then the low byte of the second half."""
        head, tail = self.vbios_raw[:4][::-1], self.vbios_raw[4:5]
        return ".".join(f"{byte:02X}" for byte in head + tail)


class _Reader:
    """The bytes of a report, front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, size: int, name: str) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise _malformed(name, "cut short")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def number(self, size: int, name: str) -> int:
        return int.from_bytes(self.take(size, name), "little")

    def rest(self) -> bytes:
        return self._data[self.position :]


def parse(report: bytes) -> UnverifiedGpuReport:
    """The fields of ``report``, whose sender may be lying about all of them.

    Raises:
        AttestationError: EVIDENCE_FORMAT, RESERVED_NOT_ZERO; the detail names the field.
    """
    reader = _Reader(report)
    _expect(reader.take(len(_REQUEST_HEADER), "request"), _REQUEST_HEADER, "request")
    nonce = reader.take(NONCE_BYTES, "request.nonce")
    _expect(reader.take(1, "request.slot"), _SLOT, "request.slot")
    _expect(reader.take(len(_RESPONSE_HEADER), "response"), _RESPONSE_HEADER, "response")
    count = reader.number(1, "response.number_of_blocks")
    record = reader.take(reader.number(3, "response.record_length"), "response.record")
    measurements = _measurements(record, count)
    reader.take(NONCE_BYTES, "response.nonce")  # the GPU's own; the signature covers it
    fields = _opaque(reader.take(reader.number(2, "response.opaque_length"), "response.opaque"))
    signed = report[: reader.position]
    signature = reader.take(SIGNATURE_BYTES, "signature")
    if reader.rest() not in _ALLOWED_PADDING:
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "report: nothing expected after the signature")
    return UnverifiedGpuReport(
        nonce=nonce,
        measurements=measurements,
        driver_version=_required_text(fields, OpaqueField.DRIVER_VERSION),
        vbios_raw=_vbios(fields),
        board=_board(fields),
        fwid=_sized(fields, OpaqueField.FWID, DIGEST_BYTES),
        feature_flag=_number(fields, OpaqueField.FEATURE_FLAG, 2),
        signed=signed,
        signature_r=int.from_bytes(signature[:48], "big"),
        signature_s=int.from_bytes(signature[48:], "big"),
    )


def _malformed(name: str, rule: str) -> AttestationError:
    return AttestationError(Reason.EVIDENCE_FORMAT, f"report.{name}: {rule}")


def _expect(found: bytes, wanted: bytes, name: str) -> None:
    if found != wanted:
        raise _malformed(name, "SPDM 1.1 measurements, all of them, signed, slot 0, expected")


def _measurements(record: bytes, count: int) -> tuple[bytes, ...]:
    """Blocks 1 to ``count``, each a DMTF digest of 48 bytes."""
    if not count or len(record) != count * _BLOCK_BYTES:
        raise _malformed("measurements", "blocks of one SHA-384 digest each expected")
    return tuple(_block(record[place * _BLOCK_BYTES :][:_BLOCK_BYTES], place + 1) for place in range(count))


def _block(block: bytes, index: int) -> bytes:
    """Index, specification, size, value type, value size, value."""
    size, value_size = int.from_bytes(block[2:4], "little"), int.from_bytes(block[5:7], "little")
    if block[0] != index or block[1] != _DMTF:
        raise _malformed(f"measurements[{index - 1}]", "DMTF blocks, numbered from 1, expected")
    if block[4] & _RAW or size != DIGEST_BYTES + 3 or value_size != DIGEST_BYTES:
        raise _malformed(f"measurements[{index - 1}]", "a digest of 48 bytes expected")
    return block[_BLOCK_HEADER_BYTES:]


def _opaque(data: bytes) -> dict[int, bytes]:
    """Type (2 bytes), length (2 bytes), value; no type twice, so that no two readers disagree."""
    reader = _Reader(data)
    fields: dict[int, bytes] = {}
    while reader.position < len(data):
        kind = reader.number(2, "opaque.type")
        if kind in fields or len(fields) == _MAX_OPAQUE_FIELDS:
            raise _malformed("opaque", f"each type once, at most {_MAX_OPAQUE_FIELDS} of them, expected")
        fields[kind] = reader.take(reader.number(2, "opaque.length"), "opaque.value")
    return fields


def _sized(fields: dict[int, bytes], kind: OpaqueField, size: int) -> bytes | None:
    value = fields.get(kind)
    if value is not None and len(value) != size:
        raise _malformed(f"opaque.{kind.name.lower()}", f"{size} bytes expected")
    return value


def _number(fields: dict[int, bytes], kind: OpaqueField, size: int) -> int | None:
    value = _sized(fields, kind, size)
    return None if value is None else int.from_bytes(value, "little")


def _text(fields: dict[int, bytes], kind: OpaqueField) -> str:
    """ASCII, ended and filled up by zeros; empty when absent."""
    value = fields.get(kind, b"").rstrip(b"\x00")
    if not _TEXT.fullmatch(value):
        raise _malformed(f"opaque.{kind.name.lower()}", "at most 32 letters, digits, dots and dashes expected")
    return value.decode("ascii")


def _required_text(fields: dict[int, bytes], kind: OpaqueField) -> str:
    text = _text(fields, kind)
    if not text:
        raise _malformed(f"opaque.{kind.name.lower()}", "missing")
    return text


def _vbios(fields: dict[int, bytes]) -> bytes:
    value = _sized(fields, OpaqueField.VBIOS_VERSION, 8)
    if value is None:
        raise _malformed("opaque.vbios_version", "missing")
    if any(value[5:]):
        raise AttestationError(
            Reason.RESERVED_NOT_ZERO, "report.opaque.vbios_version: zeros after the fifth byte expected"
        )
    return value


def _board(fields: dict[int, bytes]) -> BoardIds:
    return BoardIds(
        project=_text(fields, OpaqueField.PROJECT),
        project_sku=_text(fields, OpaqueField.PROJECT_SKU),
        chip_sku=_text(fields, OpaqueField.CHIP_SKU),
        board=_number(fields, OpaqueField.BOARD_ID, 4),
    )
