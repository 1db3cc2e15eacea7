"""What verified TPM 2.0 quotes say, alone or as the guest's part of Azure's evidence. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import PcrSelection, Scheme


@dataclass(frozen=True, slots=True)
class Pcr:
    """One quoted register and its value (32 or 48 bytes)."""

    bank: Bank
    index: int
    value: bytes


@dataclass(frozen=True, slots=True)
class QuoteClaims:
    """One quote, signed by an attestation key (AK).

    Attributes:
        extra_data: what the caller bound into it, 0 to 64 bytes.
        pcr_digest: the digest over the values of ``pcrs`` in their order; 32 or 48 bytes by the AK's scheme.
        pcrs: the registers of the selection, in its order.
        replayed: indexes of those whose value the event log explains; empty where no log came along.
        scheme: how the AK signs.
        firmware_version: the TPM maker's number.
        reset_count, restart_count: how often the TPM was reset, and resumed since then.
        clock_safe: whether the TPM's clock has never run backwards.
    """

    extra_data: bytes
    pcr_digest: bytes
    selections: tuple[PcrSelection, ...]
    pcrs: tuple[Pcr, ...]
    replayed: frozenset[int]
    scheme: Scheme
    firmware_version: int
    reset_count: int
    restart_count: int
    clock_ms: int
    clock_safe: bool


@dataclass(frozen=True, slots=True)
class TpmClaims:
    """Everything that one verified quote says.

    Attributes:
        quote: see :class:`QuoteClaims`.
        key_sha256: SHA-256 of the AK's SubjectPublicKeyInfo, 32 bytes: one TPM has it, and it never leaves.
        maker: the product name of the root that vouches for the AK.
    """

    format: EvidenceFormat
    quote: QuoteClaims
    key_sha256: bytes
    maker: str

    @property
    def report_data(self) -> bytes:
        """What the caller bound into the quote: 32 bytes where it is one of ours."""
        return self.quote.extra_data

    @property
    def measurement(self) -> bytes:
        """The digest of the selected PCRs: what was booted."""
        return self.quote.pcr_digest

    @property
    def product(self) -> str:
        """The TPM's maker, as the charter names its root."""
        return self.maker

    @property
    def hardware_id(self) -> bytes:
        """The AK, 32 bytes."""
        return self.key_sha256

    @property
    def instance_key(self) -> InstanceKey:
        """An AK is one TPM's."""
        return InstanceKey.CHIP

    @property
    def provider(self) -> str | None:
        """Nobody in between."""
        return None
