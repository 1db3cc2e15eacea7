"""Does evidence hold, and are its claims good enough: the one way in, for every platform. Trust zone: every TEE.

``examine`` explains, ``appraise`` decides; both run the same checks, so an explanation cannot differ from a verdict.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence
from trusted.attestation.platforms import PLATFORMS, Platform
from trusted.attestation.policies.check import Check, Finding, Subject, Verdict
from trusted.attestation.policies.knob import KnobbedPolicy, PlatformPolicy
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.result import _APPRAISED, AttestationResult, SkippedKnob
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.trust_vector import trust_vector
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import exactly


@dataclass(frozen=True, slots=True)
class Expected:
    """What the evidence must be bound to: ``report_data`` (64 bytes) and ``host_data`` (32), from ``binding.py``."""

    report_data: bytes
    host_data: bytes

    def __post_init__(self) -> None:
        exactly(self.report_data, 64, "report_data")
        exactly(self.host_data, 32, "host_data")

    @property
    def short_nonce(self) -> bytes:
        """What stands for ``report_data`` in formats that hold 32 bytes."""
        return short_nonce(self.report_data)


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence``, which holds under one of ``roots`` at ``now`` (UTC). Nobody asks yet if they suffice.

    Raises:
        AttestationError: the evidence does not hold; see the format's verifier.
        ValueError: ``now`` is not in UTC.
    """
    if now.utcoffset() != timedelta(0):
        raise ValueError("now: an aware time in UTC expected")
    trusted = tuple(root for root in roots if root.format is evidence.format)
    return PLATFORMS[evidence.format].verify(evidence, trusted, now)


def examine(verified: VerifiedEvidence, policy: PlatformPolicy, expected: Expected, now: datetime) -> tuple[Check, ...]:
    """Every check of an appraisal at ``now``, in order, whether or not an earlier one failed.

    Raises:
        ValueError: ``policy`` is another platform's.
    """
    platform = PLATFORMS[verified.claims.format]
    if not isinstance(policy, platform.policy):
        raise ValueError("policy: not of the platform that the evidence comes from")
    subject = Subject(verified.claims, assurance_of(verified, policy, now), now)
    knobs = _knobs(subject, policy, platform)
    return (*_binding(verified, expected, platform), _validity(verified, now), *platform.always(subject), *knobs)


def appraise(
    verified: VerifiedEvidence, policy: PlatformPolicy, expected: Expected, now: datetime
) -> AttestationResult:
    """The affirming result, if every check passes or is skipped by the policy.

    Raises:
        AttestationError: the reason of the first check that fails.
    """
    checks = examine(verified, policy, expected, now)
    for check in checks:
        if check.verdict is Verdict.FAIL:
            raise AttestationError(check.reason, f"{check.claim}: does not meet the policy; {check.remedy}")
    claims, assurance = verified.claims, assurance_of(verified, policy, now)
    return AttestationResult(
        format=claims.format,
        product=claims.product,
        hardware_id=claims.hardware_id,
        instance_key=claims.instance_key,
        provider=claims.provider,
        measurement=claims.measurement,
        assurance=assurance,
        skips=tuple(_skips(policy)),
        vector=trust_vector(Subject(claims, assurance, now), checks, _lenient(policy)),
        policy_digest=policy.digest,
        evidence_digest=verified.evidence_digest,
        issued=now,
        expires=min(_expiries(verified, policy)),
        devices=(),
        token=_APPRAISED,
    )


def assurance_of(verified: VerifiedEvidence, policy: PlatformPolicy, now: datetime) -> Assurance:
    """What stands behind the evidence: its root, and for a vendor's root the policy's own list of machines.

    Nothing in evidence raises it: a machine that names itself is believed by the vendor's signature, and stands on the
    list or does not. A list that is skipped or empty vouches for nobody, nor does a key that names no machine.
    """
    root, platform = verified.root.assurance, PLATFORMS[verified.claims.format]
    if root is not Assurance.HARDWARE or not platform.machines or not any(verified.claims.hardware_id):
        return root
    machines = getattr(policy, platform.machines)
    if isinstance(machines, Skip):
        return root
    found = platform.checks[platform.machines].look(Subject(verified.claims, root, now), machines)
    return Assurance.POSSESSION if found.verdict is Verdict.PASS else root


def with_devices(result: AttestationResult, devices: tuple[AttestationResult, ...]) -> AttestationResult:
    """``result`` of a TEE together with those of the devices that it holds: it stands no longer than any of them."""
    expires = min((result.expires, *(device.expires for device in devices)))
    return replace(result, devices=devices, expires=expires, token=_APPRAISED)


def _binding(verified: VerifiedEvidence, expected: Expected, platform: Platform) -> Iterator[Check]:
    """The evidence was made for this conversation, by a guest launched for this charter and plan."""
    claims = verified.claims
    wanted = expected.report_data if len(claims.report_data) == len(expected.report_data) else expected.short_nonce
    yield Check(
        claim="report_data",
        expected=wanted.hex(),
        actual=claims.report_data.hex(),
        verdict=_same(wanted, claims.report_data),
        reason=Reason.REPORT_DATA,
        remedy="attest anew for this session: the evidence belongs to another one",
    )
    host_data = platform.host_data(claims)
    if host_data is not None:
        yield Check(
            claim="host_data",
            expected=expected.host_data.hex(),
            actual=host_data.hex(),
            verdict=_same(expected.host_data, host_data),
            reason=Reason.HOST_DATA,
            remedy="launch the guest for this role, charter and plan",
        )


def _same(expected: bytes, actual: bytes) -> Verdict:
    return Verdict.PASS if hmac.compare_digest(expected, actual) else Verdict.FAIL


def _validity(verified: VerifiedEvidence, now: datetime) -> Check:
    """The chain has not run out since it was verified."""
    verdict = Verdict.PASS if now <= verified.not_after else Verdict.FAIL
    expected, actual = f"at or after {now:%Y-%m-%d}", f"{verified.not_after:%Y-%m-%d}"
    remedy = "fetch the chip's current certificate"
    return Check("not_after", expected, actual, verdict, Reason.CERT_EXPIRED, remedy)


def _knobs(subject: Subject, policy: PlatformPolicy, platform: Platform) -> Iterator[Check]:
    """One check for each knob. A knob without a check would be an unset one: that is an error, not a pass."""
    for knob in policy.KNOBS:
        check = platform.checks[knob.name]
        value = getattr(policy, knob.name)
        if isinstance(value, Skip):
            finding = platform.skipped(subject, knob.name) or _not_checked(value)
        else:
            finding = check.look(subject, value)
        reason = finding.reason or check.reason
        yield Check(knob.name, finding.expected, finding.actual, finding.verdict, reason, check.remedy)


def _not_checked(skip: Skip) -> Finding:
    return Finding(f"not checked: {skip.why}", "not looked at", Verdict.SKIP)


def _skips(policy: PlatformPolicy, within: str = "") -> Iterator[SkippedKnob]:
    """Every knob that is not used; those of a policy within a policy under both names."""
    for knob in policy.KNOBS:
        value, name = getattr(policy, knob.name), f"{within}{knob.name}"
        if isinstance(value, Skip):
            yield SkippedKnob(name, value.why)
        elif isinstance(value, KnobbedPolicy):
            yield from _skips(value, f"{name}.")


def _lenient(policy: PlatformPolicy) -> frozenset[str]:
    """The knobs that let through what they are about: a check that passes for that reason vouches for nothing."""
    loose = (Permission.ALLOW, Demand.ANY)
    return frozenset(knob.name for knob in policy.KNOBS if getattr(policy, knob.name) in loose)


def _expiries(verified: VerifiedEvidence, policy: PlatformPolicy) -> Iterator[datetime]:
    """When each thing runs out that the result stands on."""
    yield verified.not_after
    yield from PLATFORMS[verified.claims.format].expiries(verified.claims, policy)
    references: tuple[ReferenceValue, ...] | Skip = getattr(policy, "measurements", ())
    for reference in () if isinstance(references, Skip) else references:
        if reference.value == verified.claims.measurement and reference.until is not None:
            yield reference.until
