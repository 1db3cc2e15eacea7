"""Evidence explained: each claim, what was expected, the verdict, and what to do. Trust zone: a member's machine.

The checks are those of ``trusted.attestation.appraise``, so an explanation cannot differ from an admission. What they
need and nobody gave (a charter, a binding) is said to be NOT CHECKED, and never counted as a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from types import MappingProxyType

from console.explained_rows import NOT_CHECKED, NOTHING, Row, Standing
from console.verification_steps import Step, failed_at, step_of
from trusted.attestation.appraise import Expected, assurance_of, examine, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.claims import CrlClaim, CrlStatus, PlatformClaims, SnpClaims
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import snp
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.check import Check
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason

_REPORT_DATA_BYTES = 64


@unique
class Conclusion(Enum):
    """What came of it all. ``VERIFIED``: genuine, but nobody's policy was asked whether that is enough."""

    AFFIRMING = "affirming"
    VERIFIED = "verified"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Question:
    """What the evidence is held against.

    Attributes:
        roots: what is trusted.
        policy: what a charter asks of the role; None: nobody's policy is asked.
        report_data: 64 bytes that the report must carry; None: the binding to a session is not checked.
        host_data: 32 bytes for role, charter and plan; None: the binding to those is not checked.
        at: the time of it all.
    """

    roots: tuple[TrustRoot, ...]
    policy: AppraisalPolicy | None
    report_data: bytes | None
    host_data: bytes | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every row, and what verified (None: nothing did, so no claim of the evidence is worth reading)."""

    rows: tuple[Row, ...]
    verified: VerifiedEvidence | None
    appraised: bool
    assurance: Assurance | None = None  # what stands behind the evidence, under the policy where there is one

    @property
    def conclusion(self) -> Conclusion:
        """Refused by the first failure; else affirming under a policy, or only verified."""
        if self.verified is None or any(row.standing is Standing.FAIL for row in self.rows):
            return Conclusion.REFUSED
        return Conclusion.AFFIRMING if self.appraised else Conclusion.VERIFIED

    @property
    def claims(self) -> PlatformClaims | None:
        """The verified claims."""
        return None if self.verified is None else self.verified.claims

    @property
    def unbound(self) -> tuple[str, ...]:
        """The bindings that were not checked."""
        return tuple(row.claim for row in self.rows if row.standing is Standing.NOT_CHECKED and row.claim in _UNBOUND)


def explain(evidence: Evidence, question: Question) -> Explanation:
    """Everything there is to say about ``evidence``, which anybody may have written."""
    try:
        if evidence.format is EvidenceFormat.SNP:  # so that a fault of form is not taken for one of binding
            snp.parse(evidence.report)
    except AttestationError as error:
        return Explanation((*failed_at(Step.FORM, error),), None, question.policy is not None)
    try:
        verified = verify(evidence, question.roots, question.at)
    except AttestationError as error:
        return Explanation((*failed_at(step_of(error), error),), None, question.policy is not None)
    steps = tuple(Row(step.value, "holds", "holds", Standing.PASS) for step in Step)
    checks = (
        _compared(verified, question) if question.policy is None else _appraised(verified, question.policy, question)
    )
    return Explanation((*steps, *checks), verified, question.policy is not None, _assurance(verified, question))


def _assurance(verified: VerifiedEvidence, question: Question) -> Assurance:
    if question.policy is None:
        return verified.root.assurance
    return assurance_of(verified, _policy_for(verified.claims.format, question.policy), question.at)


_UNBOUND: Mapping[str, str] = MappingProxyType(
    {
        "report_data": "the binding to a session: give --report-data",
        "host_data": "the binding to role, charter and plan: give --charter, --role and --plan",
    }
)


def _appraised(verified: VerifiedEvidence, policy: AppraisalPolicy, question: Question) -> Iterator[Row]:
    """The checks of an admission. What nobody told to expect is filled in to run them, and then not counted."""
    claims = verified.claims
    given = {"report_data": question.report_data, "host_data": question.host_data}
    host_data = PLATFORMS[claims.format].host_data(claims)
    carried = claims.report_data if len(claims.report_data) == _REPORT_DATA_BYTES else bytes(_REPORT_DATA_BYTES)
    expected = Expected(question.report_data or carried, question.host_data or host_data or bytes(32))
    for check in examine(verified, _policy_for(claims.format, policy), expected, question.at):
        if check.claim in given and given[check.claim] is None:
            yield _unbound(check.claim, check.actual)
        else:
            yield _row(check)


def _policy_for(format: EvidenceFormat, policy: AppraisalPolicy) -> PlatformPolicy:
    """What a role's policy says of evidence of this format, a TEE's or one of its devices': never both."""
    rule = policy.devices.get(format)
    return policy.for_format(format) if rule is None else rule.policy


def _compared(verified: VerifiedEvidence, question: Question) -> Iterator[Row]:
    """Without a policy: whatever binding was given, and nothing else."""
    claims = verified.claims
    bindings = (
        ("report_data", _as_long_as(claims.report_data, question.report_data), claims.report_data, Reason.REPORT_DATA),
        ("host_data", question.host_data, PLATFORMS[claims.format].host_data(claims), Reason.HOST_DATA),
    )
    for claim, expected, actual, reason in bindings:
        if actual is None:
            continue  # this platform has no such field
        if expected is None:
            yield _unbound(claim, actual.hex())
        elif expected == actual:
            yield Row(claim, expected.hex(), actual.hex(), Standing.PASS)
        else:
            remedy = "this evidence was made for another session, role, charter or plan"
            yield Row(claim, expected.hex(), actual.hex(), Standing.FAIL, reason, remedy)
    if isinstance(claims, SnpClaims):
        yield _revocation(claims.crl)
    yield Row("policy", "a charter's policy", NOTHING, Standing.NOT_CHECKED, remedy="give --charter and --role")


def _as_long_as(carried: bytes, report_data: bytes | None) -> bytes | None:
    """What ``report_data`` is in a format that holds only 32 bytes of it."""
    return report_data if report_data is None or len(carried) == len(report_data) else short_nonce(report_data)


def _revocation(crl: CrlClaim) -> Row:
    """A list that is there revokes nothing of the chain, or verification had failed; how old is for a charter."""
    if crl.status is CrlStatus.GOOD:
        return Row("revocation", "a current list", crl.status.value, Standing.PASS)
    remedy = "give the vendor's current revocation list, with --crl for a bare report"
    return Row("revocation", "a current list", crl.status.value, Standing.NOT_CHECKED, remedy=remedy)


def _unbound(claim: str, actual: str) -> Row:
    return Row(claim, NOT_CHECKED, actual, Standing.NOT_CHECKED, remedy=_UNBOUND[claim])


def _row(check: Check) -> Row:
    standing = Standing(check.verdict.value)
    failed = standing is Standing.FAIL
    reason, remedy = (check.reason, check.remedy) if failed else (None, "")
    return Row(check.claim, check.expected, check.actual, standing, reason, remedy)
