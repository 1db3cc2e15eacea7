"""A TEE together with the devices it holds, as one source of evidence. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trusted.attestation.evidence import Evidence
from trusted.evidence.provider import EvidenceProvider


class DeviceSource(Protocol):
    """Where the evidence of devices comes from, such as :class:`trusted.evidence.nvidia.NvidiaGpus`."""

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]: ...


@dataclass(frozen=True, slots=True)
class WithDevices:
    """``tee`` and every device of ``source``; a device that gives no evidence fails the whole."""

    tee: EvidenceProvider
    source: DeviceSource

    def evidence(self, report_data: bytes) -> Evidence:
        """The TEE's, over exactly 64 bytes."""
        return self.tee.evidence(report_data)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """Those of the source, over exactly 64 bytes."""
        return self.source.devices(challenge)
