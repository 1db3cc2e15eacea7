"""Are the claims good enough: verified evidence against a policy and a binding. Trust zone: every TEE.

``examine`` explains, ``appraise`` decides; both run the same checks, so an explanation cannot differ from a verdict.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from trusted.attestation.checks import (
    KNOB_CHECKS,
    Check,
    Finding,
    Subject,
    Verdict,
    milan_without_chip_ids,
)
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.result import _APPRAISED, AttestationResult, SkippedKnob
from trusted.attestation.rules import Skip
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


def examine(
    verified: VerifiedEvidence, policy: AppraisalPolicy, expected: Expected, now: datetime
) -> tuple[Check, ...]:
    """Every check of an appraisal at ``now``, in order, whether or not an earlier one failed."""
    subject = Subject(verified.claims, verified.root.assurance, now)
    return (*_binding(verified, expected), _validity(verified, now), _no_cxl(subject), *_knobs(subject, policy))


def appraise(
    verified: VerifiedEvidence, policy: AppraisalPolicy, expected: Expected, now: datetime
) -> AttestationResult:
    """The affirming result, if every check passes or is skipped by the policy.

    Raises:
        AttestationError: the reason of the first check that fails.
    """
    checks = examine(verified, policy, expected, now)
    for check in checks:
        if check.verdict is Verdict.FAIL:
            raise AttestationError(check.reason, f"{check.claim}: does not meet the policy; {check.remedy}")
    platform = verified.claims.platform
    return AttestationResult(
        format=verified.claims.format,
        product=platform.product,
        hardware_id=platform.hardware_id,
        instance_key=platform.instance_key,
        provider=platform.provider,
        measurement=verified.claims.launch.measurement,
        assurance=verified.root.assurance,
        skips=tuple(_skips(policy)),
        policy_digest=policy.digest,
        evidence_digest=verified.evidence_digest,
        issued=now,
        expires=min(_expiries(verified, policy)),
        token=_APPRAISED,
    )


def _binding(verified: VerifiedEvidence, expected: Expected) -> Iterator[Check]:
    """The evidence was made for this conversation, by a guest launched for this charter and plan."""
    claims = verified.claims
    yield Check(
        claim="report_data",
        expected=expected.report_data.hex(),
        actual=claims.report_data.hex(),
        verdict=_same(expected.report_data, claims.report_data),
        reason=Reason.REPORT_DATA,
        remedy="attest anew for this session: the evidence belongs to another one",
    )
    yield Check(
        claim="host_data",
        expected=expected.host_data.hex(),
        actual=claims.host_data.hex(),
        verdict=_same(expected.host_data, claims.host_data),
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


def _no_cxl(subject: Subject) -> Check:
    """No knob allows memory behind CXL, so it is refused."""
    allowed = "cxl" in subject.claims.launch.guest_flags
    verdict = Verdict.FAIL if allowed else Verdict.PASS
    remedy = "launch the guest again with a guest policy that forbids CXL memory"
    return Check("cxl", "off", "on" if allowed else "off", verdict, Reason.GUEST_POLICY, remedy)


def _knobs(subject: Subject, policy: AppraisalPolicy) -> Iterator[Check]:
    """One check for each knob. A knob without a check would be an unset one: that is an error, not a pass."""
    for knob in fields(policy):
        check = KNOB_CHECKS[knob.name]
        value = getattr(policy, knob.name)
        finding = _skipped(subject, knob.name, value) if isinstance(value, Skip) else check.look(subject, value)
        reason = finding.reason or check.reason
        yield Check(knob.name, finding.expected, finding.actual, finding.verdict, reason, check.remedy)


def _skipped(subject: Subject, knob: str, skip: Skip) -> Finding:
    exception = milan_without_chip_ids(subject) if knob == "chip_ids" else None
    return exception or Finding(f"not checked: {skip.why}", "not looked at", Verdict.SKIP)


def _skips(policy: AppraisalPolicy) -> Iterator[SkippedKnob]:
    for knob in fields(policy):
        value = getattr(policy, knob.name)
        if isinstance(value, Skip):
            yield SkippedKnob(knob.name, value.why)


def _expiries(verified: VerifiedEvidence, policy: AppraisalPolicy) -> Iterator[datetime]:
    """When each thing runs out that the result stands on."""
    yield verified.not_after
    crl = verified.claims.crl
    if not isinstance(policy.revocation, Skip) and crl.this_update is not None and crl.next_update is not None:
        yield crl.next_update
        yield crl.this_update + timedelta(days=policy.revocation.max_age_days)
    for reference in policy.measurements:
        if reference.value == verified.claims.launch.measurement and reference.until is not None:
            yield reference.until
