"""A TEE together with the devices it holds, as one source of evidence. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trusted.attestation.evidence import Evidence
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.sealing import sealing_key
from trusted.evidence.tpm import TpmEvidence


class DeviceSource(Protocol):
    """Where the evidence of devices comes from: ``nvidia.NvidiaGpus``, or :class:`TpmDevice`."""

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]: ...


@dataclass(frozen=True, slots=True)
class WithDevices:
    """``tee``, what it holds already, and every device of ``source``; one that gives no evidence fails the whole."""

    tee: EvidenceProvider
    source: DeviceSource

    def evidence(self, report_data: bytes) -> Evidence:
        """The TEE's, over exactly 64 bytes."""
        return self.tee.evidence(report_data)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """Those of the TEE, then those of the source, over exactly 64 bytes."""
        return (*self.tee.devices(challenge), *self.source.devices(challenge))

    def sealing_key(self, label: bytes) -> bytes:
        """The TEE's, 32 secret bytes; TEE_NO_SEALING where it has none."""
        return sealing_key(self.tee, label)


@dataclass(frozen=True, slots=True)
class TpmDevice:
    """A TPM beside a TEE: its quote answers the device challenge, and not the TEE's own report data."""

    tpm: TpmEvidence

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """One quote over the short nonce of ``challenge``, exactly 64 bytes."""
        return (self.tpm.evidence(challenge),)
