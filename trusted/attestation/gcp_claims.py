"""What a verified token of Confidential Space says. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.gcp_token import TokenClaims
from trusted.wire import sha256

_PROVIDER = "Google"


@dataclass(frozen=True, slots=True)
class GcpClaims:
    """Google's word about one workload; there is no hardware report to see."""

    format: EvidenceFormat
    token: TokenClaims

    @property
    def report_data(self) -> bytes:
        """The nonce that the workload asked for: 32 bytes where it is one of ours."""
        return self.token.nonce

    @property
    def measurement(self) -> bytes:
        """The digest of the container's image, 32 bytes."""
        return self.token.container.image_digest

    @property
    def product(self) -> str:
        """The machine's kind, such as ``GCP_AMD_SEV``."""
        return self.token.hardware

    @property
    def hardware_id(self) -> bytes:
        """SHA-256 of the instance's number: no token names a processor."""
        return sha256(self.token.instance.encode("utf-8"))

    @property
    def instance_key(self) -> InstanceKey:
        """A key of the provider's."""
        return InstanceKey.PROVIDER

    @property
    def provider(self) -> str | None:
        """Whose word it is."""
        return _PROVIDER
