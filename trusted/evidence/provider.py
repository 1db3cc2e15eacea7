"""What every source of evidence offers. Trust zone: every TEE."""

from __future__ import annotations

from typing import Protocol

from trusted.attestation.evidence import Evidence


class EvidenceProvider(Protocol):
    """Where a TEE gets evidence about itself. One call, fresh evidence; no source is ever replaced by another."""

    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence whose report carries ``report_data``, exactly 64 bytes.

        Raises:
            TeeError: the platform gave none. The caller fails; it never goes on without.
        """
        ...

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """Evidence of each device that this TEE holds, answering ``challenge``, exactly 64 bytes; empty without any.

        Raises:
            TeeError: a device gave none. The caller fails; it never leaves a device out.
        """
        ...
