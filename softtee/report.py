"""Encode an SEV-SNP report from fields: the inverse of ``trusted.attestation.formats.snp``.

Trust zone: the software TEE, which plays the processor and protects nothing. Source: AMD 56860, ATTESTATION_REPORT.
"""

from __future__ import annotations

from dataclasses import dataclass

SIGNED_BYTES = 0x2A0
REPORT_BYTES = 0x4A0


@dataclass(frozen=True, slots=True)
class ReportFields:
    """Every field of a report, raw, so that tests can also write what no processor would.

    Byte strings have their field's size; TCBs are the eight raw bytes; versions are (major, minor, build).
    The defaults are those of a Genoa machine of 2025 whose guest policy allows SMT and nothing else.
    """

    version: int = 5
    guest_svn: int = 0
    policy: int = 0x30000
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    signature_algo: int = 1
    current_tcb: bytes = bytes(8)
    platform_info: int = 0x25
    key_flags: int = 0
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(48)
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = bytes(32)
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: bytes = bytes(8)
    cpuid: tuple[int, int, int] = (0x19, 0x11, 0x01)
    chip_id: bytes = bytes(64)
    committed_tcb: bytes = bytes(8)
    current_firmware: tuple[int, int, int] = (1, 55, 43)
    committed_firmware: tuple[int, int, int] = (1, 55, 43)
    launch_tcb: bytes = bytes(8)
    launch_mitigations: int = 1
    current_mitigations: int = 1


def encode(fields: ReportFields) -> bytes:
    """The 672 bytes of a report that are signed.

    Raises:
        ValueError: a byte string of the wrong size.
        OverflowError: a number that its field cannot hold.
    """
    body = bytearray(SIGNED_BYTES)
    numbers = (
        (0x00, 4, fields.version),
        (0x04, 4, fields.guest_svn),
        (0x08, 8, fields.policy),
        (0x30, 4, fields.vmpl),
        (0x34, 4, fields.signature_algo),
        (0x40, 8, fields.platform_info),
        (0x48, 4, fields.key_flags),
    )
    octets = (
        (0x10, 16, fields.family_id),
        (0x20, 16, fields.image_id),
        (0x38, 8, fields.current_tcb),
        (0x50, 64, fields.report_data),
        (0x90, 48, fields.measurement),
        (0xC0, 32, fields.host_data),
        (0xE0, 48, fields.id_key_digest),
        (0x110, 48, fields.author_key_digest),
        (0x140, 32, fields.report_id),
        (0x160, 32, fields.report_id_ma),
        (0x180, 8, fields.reported_tcb),
        (0x1A0, 64, fields.chip_id),
        (0x1E0, 8, fields.committed_tcb),
        (0x1E8, 3, bytes(reversed(fields.current_firmware))),
        (0x1EC, 3, bytes(reversed(fields.committed_firmware))),
        (0x1F0, 8, fields.launch_tcb),
    )
    for offset, size, number in numbers + _versioned_numbers(fields):
        body[offset : offset + size] = number.to_bytes(size, "little")
    for offset, size, value in octets:
        if len(value) != size:
            raise ValueError(f"report[{offset:#x}]: {size} bytes expected")
        body[offset : offset + size] = value
    return bytes(body)


def _versioned_numbers(fields: ReportFields) -> tuple[tuple[int, int, int], ...]:
    """CPUID came with version 3, mitigation vectors with version 5; older reports have zeros there."""
    numbers: list[tuple[int, int, int]] = []
    if fields.version >= 3:
        numbers += [(0x188 + place, 1, number) for place, number in enumerate(fields.cpuid)]
    if fields.version >= 5:
        numbers += [(0x1F8, 8, fields.launch_mitigations), (0x200, 8, fields.current_mitigations)]
    return tuple(numbers)


def assemble(body: bytes, r: int, s: int) -> bytes:
    """The whole report of 1184 bytes: the signed bytes, then both numbers of the ECDSA P-384 signature."""
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return (body + signature).ljust(REPORT_BYTES, b"\x00")
