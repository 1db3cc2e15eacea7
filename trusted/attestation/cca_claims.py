"""What a verified Arm CCA token says. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.cca import Lifecycle, Profile, SoftwareComponent

PRODUCT = "CCA"
_HOST_DATA_BYTES = 32


@dataclass(frozen=True, slots=True)
class CcaPlatform:
    """The machine underneath.

    Attributes:
        profile: what its token follows.
        implementation_id: 32 bytes, the maker's name for the kind of machine.
        instance_id: 33 bytes, the machine.
        config: choices of the maker, in its own encoding.
        lifecycle: its state, and the 16 bits of the claim.
        hash_algorithm: of the components' measurements.
        components: the firmware below the realm.
    """

    profile: Profile
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: tuple[Lifecycle, int]
    hash_algorithm: str
    components: tuple[SoftwareComponent, ...]


@dataclass(frozen=True, slots=True)
class CcaClaims:
    """Everything that one verified token says.

    Attributes:
        report_data: 64 bytes that the realm chose (the realm challenge).
        personalization: 64 bytes that the host chose when it made the realm.
        measurement: the realm's initial measurement (RIM): 32, 48 or 64 bytes, as its hash algorithm has them.
        extensible_measurements: REM 0 to 3, of the same size.
        hash_algorithm: of the realm's measurements.
        platform: the machine underneath.
    """

    report_data: bytes
    personalization: bytes
    measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    hash_algorithm: str
    platform: CcaPlatform

    @property
    def format(self) -> EvidenceFormat:
        """Which evidence it was."""
        return EvidenceFormat.CCA

    @property
    def host_data(self) -> bytes:
        """The first 32 bytes of the personalization value if zeros follow; else all of it, which equals no host data:
        nothing may hide behind the part that is compared."""
        head, tail = self.personalization[:_HOST_DATA_BYTES], self.personalization[_HOST_DATA_BYTES:]
        return self.personalization if any(tail) else head

    @property
    def product(self) -> str:
        """There is one."""
        return PRODUCT

    @property
    def hardware_id(self) -> bytes:
        """The machine, 33 bytes."""
        return self.platform.instance_id

    @property
    def instance_key(self) -> InstanceKey:
        """A CPAK is one platform's own."""
        return InstanceKey.CHIP

    @property
    def provider(self) -> str | None:
        """None: the key is the platform's."""
        return None
