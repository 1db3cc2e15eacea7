"""The type that stands for a finished verification. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trusted.attestation.claims import PlatformClaims
from trusted.attestation.roots import TrustRoot


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Claims that some key under ``root`` signed. Nobody has yet asked whether they are good enough.

    Attributes:
        claims: what the evidence says.
        root: the root that the verifier was told to trust.
        not_after: the first of the chain's certificates to expire.
        evidence_digest: SHA-256 of the evidence record.
    """

    claims: PlatformClaims
    root: TrustRoot
    not_after: datetime
    evidence_digest: bytes
