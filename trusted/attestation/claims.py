"""What verified evidence says, in words that do not depend on its format (RFC 9334: claims). Trust zone: every TEE.

A format's verifier fills them in; a policy looks at nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from typing import Protocol

from trusted.attestation.evidence import EvidenceFormat


class PlatformClaims(Protocol):
    """What every platform's claims can tell, whatever their format. The rest is for that platform's own checks.

    Attributes:
        format: which evidence it was.
        report_data: what the guest bound into it: 64 bytes, or 32 where the format holds no more.
        measurement: the one digest that names what runs.
        product: the platform's generation or kind.
        hardware_id: what identifies the machine; empty or all zero when it does not say.
        instance_key: what the signing key identifies.
        provider: who the key was given to, when it identifies a provider.
    """

    @property
    def format(self) -> EvidenceFormat: ...
    @property
    def report_data(self) -> bytes: ...
    @property
    def measurement(self) -> bytes: ...
    @property
    def product(self) -> str: ...
    @property
    def hardware_id(self) -> bytes: ...
    @property
    def instance_key(self) -> InstanceKey: ...
    @property
    def provider(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security version numbers, one for each component of the platform: (name, 0..255)."""

    components: tuple[tuple[str, int], ...]

    def below(self, floor: Tcb) -> tuple[str, ...]:
        """The components of ``floor`` that are lower here, or absent. Empty when this TCB is good enough."""
        mine = dict(self.components)
        return tuple(name for name, minimum in floor.components if mine.get(name, -1) < minimum)

    def __str__(self) -> str:
        return " ".join(f"{name}={version}" for name, version in self.components)


@dataclass(frozen=True, slots=True, order=True)
class FirmwareVersion:
    """Version of the security processor's firmware; ordered, most significant part first."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True, order=True)
class AbiVersion:
    """The lowest firmware ABI that the guest agreed to be launched on."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@unique
class InstanceKey(Enum):
    """What the key that signed the report identifies."""

    CHIP = "chip"  # SNP VCEK: one processor at one TCB
    PROVIDER = "provider"  # SNP VLEK: some processor of one cloud provider


@unique
class CrlStatus(Enum):
    """What the vendor's revocation list said when the evidence was verified."""

    ABSENT = "absent"
    STALE = "stale"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class CrlClaim:
    """The revocation list that came along. A key that it revokes never gets this far, however old the list."""

    status: CrlStatus
    this_update: datetime | None = None
    next_update: datetime | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class TcbState:
    """The four TCB levels of a platform. ``reported`` is the one its key is bound to."""

    reported: Tcb
    current: Tcb
    committed: Tcb
    launch: Tcb


@dataclass(frozen=True, slots=True)
class FirmwareState:
    """The firmware that runs, and the one below which the platform can no longer go."""

    current: FirmwareVersion
    committed: FirmwareVersion


@dataclass(frozen=True, slots=True)
class Launch:
    """What was launched, and what the launch was allowed to be.

    Attributes:
        measurement: 48 bytes, SHA-384.
        guest_svn: security version that the image's signer gave it.
        family_id, image_id: 16 bytes each, the signer's words.
        author_key, id_key: digests of the keys that signed the image, 48 bytes; None when nobody signed.
        debug: whether the host may read the guest's memory.
        migratable: whether a migration agent may move the guest.
        guest_flags: further permissions and demands: see :data:`trusted.attestation.formats.snp.GUEST_FLAGS`.
        minimum_abi: see :class:`AbiVersion`.
        mitigations: bit vector at launch; None where the format has none.
    """

    measurement: bytes
    guest_svn: int
    family_id: bytes
    image_id: bytes
    author_key: bytes | None
    id_key: bytes | None
    debug: bool
    migratable: bool
    guest_flags: frozenset[str]
    minimum_abi: AbiVersion
    mitigations: int | None


@dataclass(frozen=True, slots=True)
class Platform:
    """The machine underneath.

    Attributes:
        product: processor generation.
        line: the silicon line within it, such as ``Genoa-X``; the generation itself for its first line.
        hardware_id: what identifies the processor (SNP CHIP_ID, 64 bytes); all zero when it does not say.
        instance_key: what the signing key identifies.
        provider: who the key was given to, when it identifies a provider; else None.
        flags: what is switched on: see :data:`trusted.attestation.formats.snp.PLATFORM_FLAGS`.
        tcb, firmware: versions.
        mitigations: bit vector now; None where the format has none.
    """

    product: str
    line: str
    hardware_id: bytes
    instance_key: InstanceKey
    provider: str | None
    flags: frozenset[str]
    tcb: TcbState
    firmware: FirmwareState
    mitigations: int | None


@dataclass(frozen=True, slots=True)
class SnpClaims:
    """Everything that one verified SEV-SNP report says.

    Attributes:
        format, report_version: which layout it had.
        report_data: 64 bytes that the guest chose.
        host_data: 32 bytes that the host chose at launch and can no longer change.
        vmpl: privilege level of the software that asked for the report, 0 (highest) to 3.
    """

    format: EvidenceFormat
    report_version: int
    report_data: bytes
    host_data: bytes
    vmpl: int
    launch: Launch
    platform: Platform
    crl: CrlClaim

    @property
    def measurement(self) -> bytes:
        """What was launched, 48 bytes."""
        return self.launch.measurement

    @property
    def product(self) -> str:
        """Processor generation."""
        return self.platform.product

    @property
    def hardware_id(self) -> bytes:
        """What identifies the processor, 64 bytes; all zero when it does not say."""
        return self.platform.hardware_id

    @property
    def instance_key(self) -> InstanceKey:
        """What the signing key identifies."""
        return self.platform.instance_key

    @property
    def provider(self) -> str | None:
        """Who the key was given to, when it identifies a provider."""
        return self.platform.provider
