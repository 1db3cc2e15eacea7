"""What a DICE certificate says of the firmware that holds its key. Trust zone: every TEE.

NVIDIA's Hopper writes the older extension (a device key and one firmware digest), Blackwell a DiceTcbInfo. Source:
TCG DICE Attestation Architecture 1.1, 6.1.1 (DiceTcbInfo, OperationalFlags); certificates of real devices for the
older one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from trusted.errors import AttestationError, Reason

_COMPOSITE = x509.ObjectIdentifier("2.23.133.5.4.1")
_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
_SHA384 = bytes.fromhex("0609608648016503040202")
_FWID_BYTES = 48
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_FWIDS, _FLAGS = 0xA6, 0x87
# OperationalFlags, first bit highest: notConfigured 0, notSecure 1, recovery 2, debug 3. The first one stands in
# certificates of production devices; any of the other three means that the firmware is not what it should be.
_INSECURE = 0x70


@dataclass(frozen=True, slots=True)
class FirmwareIdentity:
    """The firmware's digest (SHA-384), and whether the certificate calls it insecure; None where it cannot say."""

    fwid: bytes
    insecure: bool | None


def firmware_identity(certificate: x509.Certificate) -> FirmwareIdentity:
    """What ``certificate``, whose chain holds, says about the firmware below its key.

    Raises:
        AttestationError: KEY_BINDING, neither extension, or one that does not read.
    """
    values = {
        item.oid: item.value.value
        for item in certificate.extensions
        if isinstance(item.value, x509.UnrecognizedExtension)
    }
    if (_COMPOSITE in values) == (_TCB_INFO in values):
        raise AttestationError(Reason.KEY_BINDING, "leaf: one TCG DICE extension with the firmware's digest expected")
    if _COMPOSITE in values:
        return FirmwareIdentity(_composite(values[_COMPOSITE]), None)
    return _tcb_info(values[_TCB_INFO])


def _composite(der: bytes) -> bytes:
    """SEQUENCE {version, SubjectPublicKeyInfo, FWID}."""
    (tag, content), *more = _items(der)
    parts = _items(content)
    if more or tag != _SEQUENCE or [kind for kind, _ in parts] != [_INTEGER, _SEQUENCE, _SEQUENCE]:
        raise _unreadable()
    return _fwid(parts[2][1])


def _tcb_info(der: bytes) -> FirmwareIdentity:
    """SEQUENCE of tagged optional fields; the first firmware digest is the running one, those of zeros are unused."""
    (tag, content), *more = _items(der)
    fields = _items(content)
    if more or tag != _SEQUENCE or len({kind for kind, _ in fields}) != len(fields):
        raise _unreadable()
    found = dict(fields)
    fwids = _items(found.get(_FWIDS, b""))
    if not fwids or any(kind != _SEQUENCE for kind, _ in fwids):
        raise _unreadable()
    digests = [_fwid(content) for _, content in fwids]
    if any(any(digest) for digest in digests[1:]):
        raise _unreadable()
    flags = found.get(_FLAGS)
    if flags is None:
        return FirmwareIdentity(digests[0], None)
    if len(flags) < 2:
        raise _unreadable()
    return FirmwareIdentity(digests[0], bool(flags[1] & _INSECURE))


def _fwid(content: bytes) -> bytes:
    """``{hashAlg, digest}``: SHA-384 alone."""
    prefix = _SHA384 + bytes([_OCTETS, _FWID_BYTES])
    if not content.startswith(prefix) or len(content) != len(prefix) + _FWID_BYTES:
        raise _unreadable()
    return content[len(prefix) :]


def _items(der: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) of each DER item in a row; at most 16."""
    items: list[tuple[int, bytes]] = []
    position = 0
    while position < len(der):
        header = der[position : position + 3]
        size, start = (header[1], 2) if len(header) > 1 and header[1] < 0x80 else (-1, 0)
        if len(header) == 3 and header[1] == 0x81 and header[2] >= 0x80:
            size, start = header[2], 3
        end = position + start + size
        if size < 0 or end > len(der) or len(items) == 16:
            raise _unreadable()
        items.append((header[0], der[position + start : end]))
        position = end
    if not items:
        raise _unreadable()
    return items


def _unreadable() -> AttestationError:
    return AttestationError(Reason.KEY_BINDING, "leaf: a TCG DICE extension that reads expected")
