"""What verified evidence of an Azure confidential VM says. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.claims import InstanceKey, SnpClaims
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.hcl import VmConfiguration
from trusted.attestation.tpm_claims import QuoteClaims


@dataclass(frozen=True, slots=True)
class AzureClaims:
    """The guest's part, a vTPM quote, and below it the hardware's, an SNP report over the vTPM's key.

    Attributes:
        quote: what the guest booted; fresh.
        snp: the processor and Microsoft's paravisor; made at boot, or anew when the guest wrote user data.
        configuration: what the paravisor says about the machine.
        user_data: 64 bytes that the guest had written when the hardware report was made; zeros when it had not.
        variable_data_sha256: what the hardware report is over, 32 bytes.
        fresh_report: whether the hardware report is over the very nonce of the quote.
    """

    format: EvidenceFormat
    quote: QuoteClaims
    snp: SnpClaims
    configuration: VmConfiguration
    user_data: bytes
    variable_data_sha256: bytes
    fresh_report: bool

    @property
    def report_data(self) -> bytes:
        """What the caller bound into the quote: 32 bytes where it is one of ours."""
        return self.quote.extra_data

    @property
    def measurement(self) -> bytes:
        """The digest of the selected PCRs, 32 bytes: what the guest booted. Hardware measures the paravisor alone."""
        return self.quote.pcr_digest

    @property
    def product(self) -> str:
        """Processor generation."""
        return self.snp.product

    @property
    def hardware_id(self) -> bytes:
        """What identifies the processor, 64 bytes."""
        return self.snp.hardware_id

    @property
    def instance_key(self) -> InstanceKey:
        """What the key that signed the hardware report identifies."""
        return self.snp.instance_key

    @property
    def provider(self) -> str | None:
        """Who that key was given to, when it identifies a provider."""
        return self.snp.provider
