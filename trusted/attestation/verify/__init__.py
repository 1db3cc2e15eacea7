"""Cryptography alone: evidence to claims, one file for each format; anybody may import it. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import snp
from trusted.attestation.verify.verified import VerifiedEvidence

__all__ = ["VerifiedEvidence", "verify"]

_Verifier = Callable[[Evidence, Sequence[TrustRoot], datetime], VerifiedEvidence]
_VERIFIERS: Mapping[EvidenceFormat, _Verifier] = MappingProxyType({EvidenceFormat.SNP: snp.verify})


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence``, which holds under one of ``roots`` at ``now`` (UTC).

    Whether the claims are good enough is for :func:`trusted.attestation.appraise.appraise`.

    Raises:
        AttestationError: the evidence does not hold; see the format's verifier.
        ValueError: ``now`` is not in UTC.
    """
    if now.utcoffset() != timedelta(0):
        raise ValueError("now: an aware time in UTC expected")
    trusted = tuple(root for root in roots if root.format is evidence.format)
    return _VERIFIERS[evidence.format](evidence, trusted, now)
