"""What a verified Nitro document says. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat

PRODUCT = "Nitro"
_REPORT_DATA_BYTES = 64
_IMAGE_PCRS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class NitroClaims:
    """Everything that one verified document of a Nitro Enclave says.

    Attributes:
        module_id: the parent instance and one start of an enclave on it.
        timestamp: when the hypervisor wrote it, UTC.
        pcrs: (index, 48 bytes). 0: the image; 1: kernel and boot; 2: application; 3: the parent's IAM role;
            4: the parent instance; 8: the certificate that signed the image. All zero where nothing was measured.
        public_key, user_data, nonce: what the enclave put in; None where it put nothing.
    """

    module_id: str
    timestamp: datetime
    pcrs: tuple[tuple[int, bytes], ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def format(self) -> EvidenceFormat:
        """Which evidence it was."""
        return EvidenceFormat.NITRO

    @property
    def report_data(self) -> bytes:
        """``user_data`` of exactly 64 bytes. Anything else was made for something else and is empty here: it binds to
        nothing, not even where its bytes would do as the short form of another format."""
        return self.user_data if self.user_data is not None and len(self.user_data) == _REPORT_DATA_BYTES else b""

    @property
    def measurement(self) -> bytes:
        """PCR 0, 48 bytes: the whole image."""
        return self.pcr(0)

    @property
    def product(self) -> str:
        """There is one."""
        return PRODUCT

    @property
    def hardware_id(self) -> bytes:
        """The module id. It names an instance and a start, which is all that AWS tells about the machine."""
        return self.module_id.encode("ascii")

    @property
    def instance_key(self) -> InstanceKey:
        """AWS certifies each start of an enclave, on a machine that it does not name: a provider's key."""
        return InstanceKey.PROVIDER

    @property
    def provider(self) -> str | None:
        """Who the key was given to."""
        return "aws"

    @property
    def instance_id(self) -> str:
        """The EC2 instance, ``i-…``; the whole module id where it has no such part."""
        instance, separator, _ = self.module_id.rpartition("-enc")
        return instance if separator else self.module_id

    @property
    def debug(self) -> bool:
        """Whether the host may read the enclave's console: AWS then reports the image's registers as zero."""
        return not all(any(self.pcr(index)) for index in _IMAGE_PCRS)

    def pcr(self, index: int) -> bytes:
        """One register, 48 bytes; empty where the document has none of that number."""
        return dict(self.pcrs).get(index, b"")
