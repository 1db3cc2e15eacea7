"""The platforms there are: for each evidence format its verifier, its policy and its checks. Trust zone: every TEE.

Adding a platform adds its files and one entry here; what is not here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.policies import snp_checks
from trusted.attestation.policies.check import Check, Finding, KnobCheck, Subject
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policies.snp import SnpPolicy
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import snp
from trusted.attestation.verify.verified import VerifiedEvidence

Verifier = Callable[[Evidence, Sequence[TrustRoot], datetime], VerifiedEvidence]


def _nothing_more(subject: Subject) -> Iterator[Check]:
    return iter(())


def _every_skip_holds(subject: Subject, knob: str) -> Finding | None:
    return None


def _no_further_expiry(claims: Any, policy: Any) -> Iterator[datetime]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform.

    Attributes:
        verify: cryptography alone, evidence to claims.
        policy: the dataclass of its knobs.
        checks: one for each knob, in their order.
        host_data: the claims' 32 bytes that the host fixed at launch; None where the platform has no such field.
        always: checks that no knob switches off.
        skipped: a finding where a skip of this knob does not hold.
        expiries: further times at which a result under this policy ends.
    """

    verify: Verifier
    policy: type[PlatformPolicy]
    checks: Mapping[str, KnobCheck]
    host_data: Callable[[Any], bytes | None]
    always: Callable[[Subject], Iterator[Check]] = _nothing_more
    skipped: Callable[[Subject, str], Finding | None] = _every_skip_holds
    expiries: Callable[[Any, Any], Iterator[datetime]] = _no_further_expiry


PLATFORMS: Mapping[EvidenceFormat, Platform] = MappingProxyType(
    {
        EvidenceFormat.SNP: Platform(
            verify=snp.verify,
            policy=SnpPolicy,
            checks=snp_checks.KNOB_CHECKS,
            host_data=lambda claims: claims.host_data,
            always=snp_checks.always,
            skipped=snp_checks.skipped,
            expiries=snp_checks.expiries,
        ),
    }
)
