"""What a verified NVIDIA GPU report says. Trust zone: every TEE.

What it cannot say: which machine holds the GPU (``composite.py`` binds it to one), and, without RIMs, whether it
runs in a developer mode: no field of the report names that, so the state is ``unknown`` until NVIDIA's reference
values match.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique

from trusted.attestation.claims import CrlStatus, InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.spdm import BoardIds


@unique
class GpuMode(Enum):
    """The confidential mode: one GPU, several with encrypted links, or several over protected PCIe."""

    SPT = "SPT"
    MPT = "MPT"
    PPCIE = "PPCIE"
    UNSTATED = "unstated"  # drivers before 580 do not say


@unique
class DebugState(Enum):
    """Whether the GPU can be looked into."""

    OFF = "off"  # every measurement that NVIDIA's RIMs of this driver and this VBIOS name is theirs
    ON = "on"  # the device's certificate says so (TCG DICE operational flags)
    UNKNOWN = "unknown"


@unique
class RimKind(Enum):
    """Which reference values: the value is the name of the evidence's part."""

    DRIVER = "rim-driver"
    VBIOS = "rim-vbios"


@dataclass(frozen=True, slots=True)
class RimClaim:
    """A signed reference integrity manifest that the report met in every active measurement.

    Attributes:
        kind, version: what it is the reference of; the version is also the report's.
        tag: NVIDIA's id of the manifest.
        compared: how many measurements it names.
        not_after: when the first certificate of its signer runs out.
    """

    kind: RimKind
    version: str
    tag: str
    compared: int
    not_after: datetime


@dataclass(frozen=True, slots=True)
class OcspClaim:
    """What the responder said of the chain. A certificate that is revoked or on hold never gets this far."""

    status: CrlStatus
    this_update: datetime | None = None
    next_update: datetime | None = None


@dataclass(frozen=True, slots=True)
class GpuClaims:
    """Everything that one verified report of a GPU says.

    Attributes:
        report_data: the 32-byte nonce that it answers.
        measurements: 48 bytes for each measurement block.
        measurement: SHA-384 over all of them, 48 bytes.
        product: ``Hopper`` or ``Blackwell``, as the chain's architecture certificate names it.
        hardware_id: SHA-256 of the device's own key (SPKI), 32 bytes: it stays when firmware changes.
        ueid: the serial number of the signing certificate, which NVIDIA's tools print; it changes with the firmware.
        chip: as the chain names it, such as ``GH100``.
        fwid: digest of the firmware that holds the signing key, equal to the certificate's; None with old drivers.
        debug, mode: see the enums.
        rims: the manifests that came along, all met.
    """

    format: EvidenceFormat
    report_data: bytes
    measurements: tuple[bytes, ...]
    measurement: bytes
    product: str
    hardware_id: bytes
    ueid: int
    chip: str
    driver_version: str
    vbios_version: str
    vbios_raw: bytes
    board: BoardIds
    fwid: bytes | None
    mode: GpuMode
    debug: DebugState
    rims: tuple[RimClaim, ...]
    ocsp: OcspClaim

    @property
    def instance_key(self) -> InstanceKey:
        """The key identifies one GPU."""
        return InstanceKey.CHIP

    @property
    def provider(self) -> str | None:
        """None: no provider holds such a key."""
        return None

    def has_rims(self) -> bool:
        """Whether both manifests came along, so that NVIDIA's references vouch for driver and VBIOS."""
        return {rim.kind for rim in self.rims} == set(RimKind)
