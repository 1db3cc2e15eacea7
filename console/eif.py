"""Registers of a Nitro Enclave image, computed from its file. Trust zone: operator.

An EIF is a header of 548 bytes and sections of 12 + n bytes, big-endian. Each register is one extension of zero:
SHA-384(48 zeros, SHA-384(sections)). Source: aws-nitro-enclaves-image-format, ``defs`` and ``eif_reader``.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from console.output import UserError
from console.reference_values import ReferenceValues
from trusted.attestation.formats import cbor
from trusted.errors import ProtocolError
from trusted.wire import Json

_HEADER = struct.Struct(">4sHHQQHH32Q32QII")
_SECTION = struct.Struct(">HHQ")
_MAGIC = b".eif"
_CRC_BYTES = 4
_MAX_SECTIONS = 32
_KERNEL, _CMDLINE, _RAMDISK, _SIGNATURE, _METADATA = range(1, 6)
_MAX_SIGNATURE_BYTES = 1 << 20
_HINT = "Name the file that `nitro-cli build-enclave --output-file` wrote."
_VERIFIED = "by the published format; never compared with nitro-cli or a running enclave"


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    content: bytes


def measure_eif(image: bytes) -> ReferenceValues:
    """PCR 0, 1 and 2 of ``image``, and PCR 8 where it is signed.

    Raises:
        UserError: it is no EIF, or is damaged.
    """
    sections = _sections(image)
    boot, application = hashlib.sha384(), hashlib.sha384()
    whole, ramdisks = hashlib.sha384(), 0
    for section in sections:
        if section.kind not in (_KERNEL, _CMDLINE, _RAMDISK):
            continue
        ramdisks += section.kind == _RAMDISK
        whole.update(section.content)
        (application if ramdisks > 1 else boot).update(section.content)
    registers = {"PCR0": _register(whole.digest()), "PCR1": _register(boot.digest())}
    registers["PCR2"] = _register(application.digest())
    knobs: dict[str, Json] = {"pcr1": [registers["PCR1"].hex()], "pcr2": [registers["PCR2"].hex()]}
    for section in sections:
        if section.kind == _SIGNATURE:
            registers["PCR8"] = _register(_signer(section))
            knobs["pcr8"] = [registers["PCR8"].hex()]
    parts = tuple((name, value.hex()) for name, value in registers.items())
    return ReferenceValues("nitro", registers["PCR0"], parts, _VERIFIED, knobs)


def _register(digest: bytes) -> bytes:
    return hashlib.sha384(bytes(48) + digest).digest()


def _sections(image: bytes) -> list[_Section]:
    if len(image) < _HEADER.size:
        raise UserError("this file is too short to be an EIF", _HINT)
    header = _HEADER.unpack_from(image)
    magic, count, expected_crc = header[0], header[6], header[-1]
    if magic != _MAGIC or not 0 < count <= _MAX_SECTIONS:
        raise UserError("this file is no EIF", _HINT)
    crc = zlib.crc32(image[_HEADER.size :], zlib.crc32(image[: _HEADER.size - _CRC_BYTES]))
    if crc != expected_crc:
        raise UserError("this EIF is damaged: its checksum is another", "Copy or build it again.")
    sections: list[_Section] = []
    position = _HEADER.size
    while position < len(image):
        if position + _SECTION.size > len(image):
            raise UserError("this EIF is cut short", "Copy or build it again.")
        kind, _, size = _SECTION.unpack_from(image, position)
        start = position + _SECTION.size
        if start + size > len(image) or not _KERNEL <= kind <= _METADATA:
            raise UserError("this EIF has a section that is cut short or unknown", "Copy or build it again.")
        sections.append(_Section(kind, image[start : start + size]))
        position = start + size
    if len(sections) != count or not {_KERNEL, _CMDLINE, _RAMDISK} <= {section.kind for section in sections}:
        raise UserError("this EIF has not the sections that its header names", "Copy or build it again.")
    return sections


def _signer(section: _Section) -> bytes:
    """SHA-384 of the DER certificate that signed the image (CBOR: a list of certificate, as PEM, and signature)."""
    try:
        value = cbor.decode(section.content, "signature", max_bytes=_MAX_SIGNATURE_BYTES, streamed=True)
        first = value[0] if isinstance(value, tuple) and value else None
        pem = first.get("signing_certificate") if isinstance(first, dict) else None
        certificate = x509.load_pem_x509_certificate(_bytes(pem))
    except (ProtocolError, ValueError):
        raise UserError("the signature section of this EIF does not read", "Sign and build it again.") from None
    return hashlib.sha384(certificate.public_bytes(Encoding.DER)).digest()


def _bytes(value: cbor.Value) -> bytes:
    """The PEM text, which the builder writes as a list of numbers, one for each byte."""
    if not isinstance(value, tuple):
        raise ValueError("a list of numbers expected")
    return bytes(item if isinstance(item, int) else -1 for item in value)
