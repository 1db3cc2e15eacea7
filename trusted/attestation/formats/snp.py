"""The AMD SEV-SNP attestation report, versions 2 to 5, bytes to fields. Trust zone: every TEE.

Strict: one report has one spelling. Bytes that the signature does not cover must be zero, so a verified report has no
room for anything unsigned. Source: AMD 56860, table ATTESTATION_REPORT; attestation.md 4.5 and 7.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.attestation.claims import AbiVersion, FirmwareVersion, Tcb
from trusted.attestation.products import GENOA, Product, line_of, product_of
from trusted.errors import AttestationError, Reason

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
_VERSIONS = range(2, 6)
_FIRST_WITH_CPUID = 3
_FIRST_WITH_MITIGATIONS = 5
# IOMMU_WRITE_SAFE came with the firmware ABI of version 5 (1.58); Turin sets it. Before, the bit was reserved.
_FIRST_WITH_IOMMU_WRITE_SAFE = 5
_ECDSA_P384_SHA384 = 1
_NO_MIGRATION_AGENT = b"\xff" * 32

# POLICY, bits 0-7 ABI_MINOR and 8-15 ABI_MAJOR apart.
_POLICY_MUST_BE_ONE = 17
GUEST_FLAGS: Mapping[str, int] = MappingProxyType(
    {
        "smt": 16,
        "migrate_ma": 18,
        "debug": 19,
        "single_socket": 20,
        "cxl": 21,
        "mem_aes_256_xts": 22,
        "rapl_disabled": 23,
        "ciphertext_hiding": 24,
        "page_swap_disabled": 25,
    }
)
PLATFORM_FLAGS: Mapping[str, int] = MappingProxyType(
    {
        "smt": 0,
        "tsme": 1,
        "ecc": 2,
        "rapl_disabled": 3,
        "ciphertext_hiding": 4,
        "alias_check_complete": 5,
        "iommu_write_safe": 6,
        "tio": 7,
    }
)


@unique
class SigningKey(Enum):
    """SIGNING_KEY, bits 2-4 of the key flags."""

    VCEK = 0
    VLEK = 1


@dataclass(frozen=True, slots=True)
class UnverifiedSnpReport:
    """A well-formed report that anybody may have written. Names and sizes follow AMD 56860."""

    version: int
    product: Product | None  # None in version 2, which does not say
    line: str | None  # the silicon line; None in version 2
    guest_svn: int
    guest_flags: frozenset[str]
    minimum_abi: AbiVersion
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_flags: frozenset[str]
    signing_key: SigningKey
    author_key_enabled: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id_ma: bytes
    chip_id: bytes
    current_tcb: Tcb
    reported_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    current_firmware: FirmwareVersion
    committed_firmware: FirmwareVersion
    launch_mitigations: int | None
    current_mitigations: int | None
    signed: bytes
    signature_r: int
    signature_s: int

    @property
    def has_migration_agent(self) -> bool:
        """Whether the guest is tied to a migration agent (REPORT_ID_MA is not all ones)."""
        return self.report_id_ma != _NO_MIGRATION_AGENT


def parse(report: bytes) -> UnverifiedSnpReport:
    """The fields of ``report``, whose sender may be lying about all of them.

    Raises:
        AttestationError: EVIDENCE_FORMAT, REPORT_VERSION, RESERVED_NOT_ZERO, GUEST_POLICY, PLATFORM_INFO, VMPL,
            PRODUCT, EVIDENCE_SIGNATURE; the detail names the field.
    """
    if len(report) != REPORT_BYTES:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"report: exactly {REPORT_BYTES} bytes expected")
    version = _u32(report, 0x00)
    if version not in _VERSIONS:
        raise AttestationError(Reason.REPORT_VERSION, "report.version: 2 to 5 expected")
    if _u32(report, 0x34) != _ECDSA_P384_SHA384:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "report.signature_algo: ECDSA P-384 with SHA-384 expected")
    _require_zeros(report, version)
    product = _product(report, version)
    layout = (product or GENOA).tcb_offsets  # version 2 is older than Turin, and the others share one layout
    signing_key, author_key_enabled = _key_flags(_u32(report, 0x48))
    guest_flags, minimum_abi = _guest_policy(_u64(report, 0x08))
    has_mitigations = version >= _FIRST_WITH_MITIGATIONS
    return UnverifiedSnpReport(
        version=version,
        product=product,
        line=None if product is None else line_of(product, (report[0x188], report[0x189], report[0x18A])),
        guest_svn=_u32(report, 0x04),
        guest_flags=guest_flags,
        minimum_abi=minimum_abi,
        family_id=report[0x10:0x20],
        image_id=report[0x20:0x30],
        vmpl=_vmpl(_u32(report, 0x30)),
        platform_flags=_platform_flags(_u64(report, 0x40), version),
        signing_key=signing_key,
        author_key_enabled=author_key_enabled,
        report_data=report[0x50:0x90],
        measurement=report[0x90:0xC0],
        host_data=report[0xC0:0xE0],
        id_key_digest=report[0xE0:0x110],
        author_key_digest=report[0x110:0x140],
        report_id_ma=report[0x160:0x180],
        chip_id=report[0x1A0:0x1E0],
        current_tcb=_tcb(report[0x38:0x40], layout, "current_tcb"),
        reported_tcb=_tcb(report[0x180:0x188], layout, "reported_tcb"),
        committed_tcb=_tcb(report[0x1E0:0x1E8], layout, "committed_tcb"),
        launch_tcb=_tcb(report[0x1F0:0x1F8], layout, "launch_tcb"),
        current_firmware=_firmware(report[0x1E8:0x1EB]),
        committed_firmware=_firmware(report[0x1EC:0x1EF]),
        launch_mitigations=_u64(report, 0x1F8) if has_mitigations else None,
        current_mitigations=_u64(report, 0x200) if has_mitigations else None,
        signed=report[:SIGNED_BYTES],
        signature_r=int.from_bytes(report[0x2A0:0x2D0], "little"),
        signature_s=int.from_bytes(report[0x2E8:0x318], "little"),
    )


def _u32(report: bytes, offset: int) -> int:
    return int.from_bytes(report[offset : offset + 4], "little")


def _u64(report: bytes, offset: int) -> int:
    return int.from_bytes(report[offset : offset + 8], "little")


def _require_zeros(report: bytes, version: int) -> None:
    """Every reserved byte is zero. Both halves of the signature are 72 bytes for 48-byte numbers."""
    reserved = (
        (0x4C, 0x50),
        (0x18B if version >= _FIRST_WITH_CPUID else 0x188, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208 if version >= _FIRST_WITH_MITIGATIONS else 0x1F8, SIGNED_BYTES),
        (0x2D0, 0x2E8),
        (0x318, REPORT_BYTES),
    )
    for start, end in reserved:
        if any(report[start:end]):
            raise AttestationError(Reason.RESERVED_NOT_ZERO, f"report[{start:#x}:{end:#x}]: zeros expected")


def _product(report: bytes, version: int) -> Product | None:
    if version < _FIRST_WITH_CPUID:
        return None
    product = product_of(report[0x188], report[0x189])
    if product is None:
        raise AttestationError(Reason.PRODUCT, "report.cpuid: a family and model that this release knows expected")
    return product


def _key_flags(flags: int) -> tuple[SigningKey, bool]:
    if flags >> 5:
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "report.key_flags: bits 5 to 31 must be zero")
    if flags & 2:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "report.mask_chip_key: set, so the report is not signed")
    selected = flags >> 2 & 7
    if selected not in (SigningKey.VCEK.value, SigningKey.VLEK.value):
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "report.signing_key: VCEK or VLEK expected")
    return SigningKey(selected), bool(flags & 1)


def _guest_policy(policy: int) -> tuple[frozenset[str], AbiVersion]:
    if not policy >> _POLICY_MUST_BE_ONE & 1:
        raise AttestationError(Reason.GUEST_POLICY, "report.policy: bit 17 must be one")
    if policy >> 26:
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "report.policy: bits 26 to 63 must be zero")
    flags = frozenset(name for name, bit in GUEST_FLAGS.items() if policy >> bit & 1)
    return flags, AbiVersion(major=policy >> 8 & 0xFF, minor=policy & 0xFF)


def _platform_flags(info: int, version: int) -> frozenset[str]:
    if info >> 8:
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "report.platform_info: bits 8 to 63 must be zero")
    if version < _FIRST_WITH_IOMMU_WRITE_SAFE and info >> PLATFORM_FLAGS["iommu_write_safe"] & 1:
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "report.platform_info: bit 6 must be zero before version 5")
    return frozenset(name for name, bit in PLATFORM_FLAGS.items() if info >> bit & 1)


def _vmpl(vmpl: int) -> int:
    if vmpl > 3:  # all ones means that the host asked for the report, not a guest
        raise AttestationError(Reason.VMPL, "report.vmpl: a guest's privilege level, 0 to 3, expected")
    return vmpl


def _tcb(field: bytes, layout: tuple[tuple[str, int], ...], name: str) -> Tcb:
    used = {offset for _, offset in layout}
    if any(byte for offset, byte in enumerate(field) if offset not in used):
        raise AttestationError(Reason.RESERVED_NOT_ZERO, f"report.{name}: reserved bytes must be zero")
    return Tcb(tuple((component, field[offset]) for component, offset in layout))


def _firmware(field: bytes) -> FirmwareVersion:
    """BUILD, MINOR, MAJOR: one byte each."""
    return FirmwareVersion(major=field[2], minor=field[1], build=field[0])
