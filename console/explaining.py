"""Evidence explained: each claim, what was expected, the verdict, and what to do. Trust zone: a member's machine.

The checks are those of ``trusted.attestation.appraise``, so an explanation cannot differ from an admission. What they
need and nobody gave (a charter, a binding) is said to be NOT CHECKED, and never counted as a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from types import MappingProxyType

from console.hints import runbook_for
from trusted.attestation.appraise import Expected, examine
from trusted.attestation.checks import Check
from trusted.attestation.claims import Claims, CrlClaim, CrlStatus
from trusted.attestation.evidence import Evidence
from trusted.attestation.formats import snp
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify import VerifiedEvidence, verify
from trusted.errors import AttestationError, Reason
from trusted.wire import Json

NOT_CHECKED = "not checked"
_NOTHING = "—"


@unique
class Standing(Enum):
    """What came of one row."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"
    NOT_CHECKED = NOT_CHECKED


@unique
class Conclusion(Enum):
    """What came of it all. ``VERIFIED``: genuine, but nobody's policy was asked whether that is enough."""

    AFFIRMING = "affirming"
    VERIFIED = "verified"
    REFUSED = "refused"


@unique
class Step(Enum):
    """The steps of a verification, in their order, in words for people."""

    FORM = "report and certificates are well formed"
    ROOT = "the chain ends in a trusted root"
    CERTIFICATES = "the certificates' signatures and dates hold"
    SIGNATURE = "the chip's key signed the report"
    BINDING = "that key belongs to this chip and TCB"


@dataclass(frozen=True, slots=True)
class Row:
    """One claim. ``reason`` and ``remedy`` stand where it failed, and nowhere else."""

    claim: str
    expected: str
    actual: str
    standing: Standing
    reason: Reason | None = None
    remedy: str = ""

    def to_json(self) -> dict[str, Json]:
        """The row as ``--json`` prints it."""
        code = None if self.reason is None else self.reason.code
        return {
            "claim": self.claim,
            "expected": self.expected,
            "actual": self.actual,
            "verdict": self.standing.value,
            "reason": code,
            "remedy": self.remedy,
            "runbook": None if code is None else runbook_for(code),
        }


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

    @property
    def conclusion(self) -> Conclusion:
        """Refused by the first failure; else affirming under a policy, or only verified."""
        if self.verified is None or any(row.standing is Standing.FAIL for row in self.rows):
            return Conclusion.REFUSED
        return Conclusion.AFFIRMING if self.appraised else Conclusion.VERIFIED

    @property
    def claims(self) -> Claims | None:
        """The verified claims."""
        return None if self.verified is None else self.verified.claims

    @property
    def assurance(self) -> Assurance | None:
        """What stands behind the root."""
        return None if self.verified is None else self.verified.root.assurance

    @property
    def unbound(self) -> tuple[str, ...]:
        """The bindings that were not checked."""
        return tuple(row.claim for row in self.rows if row.standing is Standing.NOT_CHECKED and row.claim in _UNBOUND)


def explain(evidence: Evidence, question: Question) -> Explanation:
    """Everything there is to say about ``evidence``, which anybody may have written."""
    try:
        snp.parse(evidence.report)
    except AttestationError as error:
        return Explanation((*_failed_at(Step.FORM, error),), None, question.policy is not None)
    try:
        verified = verify(evidence, question.roots, question.at)
    except AttestationError as error:
        return Explanation((*_failed_at(_step_of(error), error),), None, question.policy is not None)
    steps = tuple(Row(step.value, "holds", "holds", Standing.PASS) for step in Step)
    checks = (
        _compared(verified, question) if question.policy is None else _appraised(verified, question.policy, question)
    )
    return Explanation((*steps, *checks), verified, question.policy is not None)


# Where a verification fails, by its reason, as trusted/attestation/verify orders its steps.
_STEPS: Mapping[Reason, Step] = MappingProxyType(
    {
        Reason.TRUST_ANCHOR: Step.ROOT,
        Reason.CHAIN: Step.CERTIFICATES,
        Reason.CERT_EXPIRED: Step.CERTIFICATES,
        Reason.CERT_NOT_YET_VALID: Step.CERTIFICATES,
        Reason.REVOKED: Step.CERTIFICATES,
        Reason.EVIDENCE_SIGNATURE: Step.SIGNATURE,
        Reason.KEY_BINDING: Step.BINDING,
        Reason.TCB_BINDING: Step.BINDING,
        Reason.CHIP_BINDING: Step.BINDING,
    }
)
_REMEDY_OF_FORM = "collect the evidence anew: these bytes are damaged, cut, or no SNP report of a known version"
_FETCH_CERTIFICATES = "fetch this chip's certificates anew from the vendor, for the TCB that the report names"
_REMEDIES: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.TRUST_ANCHOR: "use a vendor's machine, or name the software root: in the charter, or with --software-root",
        Reason.PRODUCT: "give the certificates of this processor generation; is the release too old for a new one?",
        Reason.CHAIN: "give the chip's certificate with the ASK and ARK that issued it, unchanged",
        Reason.CERT_EXPIRED: "fetch the certificates anew and check the clock; for old evidence, give its time with --at",
        Reason.CERT_NOT_YET_VALID: "check the clock, or the time given with --at",
        Reason.REVOKED: "the vendor withdrew this key: do not trust the machine",
        Reason.EVIDENCE_SIGNATURE: "give the certificate of the chip that made this report; else the report was altered",
        Reason.KEY_BINDING: _FETCH_CERTIFICATES,
        Reason.TCB_BINDING: _FETCH_CERTIFICATES,
        Reason.CHIP_BINDING: _FETCH_CERTIFICATES,
        Reason.VMPL: "ask for the report from inside the guest, not from its host",
    }
)


def _step_of(error: AttestationError) -> Step:
    field = error.detail.partition(":")[0]
    if field == "certificates":  # how many there are is looked at before any of them
        return Step.FORM
    if error.reason is Reason.PRODUCT:
        return Step.BINDING if field == "CEK" else Step.ROOT
    return _STEPS.get(error.reason, Step.FORM)


def _failed_at(failed: Step, error: AttestationError) -> Iterator[Row]:
    """One row for each step. A key of the wrong kind is found before the signature, a wrong extension after it: then
    the signature is not claimed to have passed."""
    steps = list(Step)
    unsure = {Step.SIGNATURE} if error.reason is Reason.KEY_BINDING else set()
    for step in steps:
        if step is failed:
            remedy = _REMEDIES.get(error.reason, _REMEDY_OF_FORM)
            yield Row(step.value, "holds", error.detail, Standing.FAIL, error.reason, remedy)
        elif steps.index(step) < steps.index(failed) and step not in unsure:
            yield Row(step.value, "holds", "holds", Standing.PASS)
        else:
            yield Row(step.value, "holds", _NOTHING, Standing.NOT_CHECKED)


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
    expected = Expected(question.report_data or claims.report_data, question.host_data or claims.host_data)
    for check in examine(verified, policy, expected, question.at):
        if check.claim in given and given[check.claim] is None:
            yield _unbound(check.claim, check.actual)
        else:
            yield _row(check)


def _compared(verified: VerifiedEvidence, question: Question) -> Iterator[Row]:
    """Without a policy: whatever binding was given, and nothing else."""
    claims = verified.claims
    bindings = (
        ("report_data", question.report_data, claims.report_data, Reason.REPORT_DATA),
        ("host_data", question.host_data, claims.host_data, Reason.HOST_DATA),
    )
    for claim, expected, actual, reason in bindings:
        if expected is None:
            yield _unbound(claim, actual.hex())
        elif expected == actual:
            yield Row(claim, expected.hex(), actual.hex(), Standing.PASS)
        else:
            remedy = "this evidence was made for another session, role, charter or plan"
            yield Row(claim, expected.hex(), actual.hex(), Standing.FAIL, reason, remedy)
    yield _revocation(claims.crl)
    yield Row("policy", "a charter's policy", _NOTHING, Standing.NOT_CHECKED, remedy="give --charter and --role")


def _revocation(crl: CrlClaim) -> Row:
    """A list that is there revokes nothing of the chain, or verification had failed; its age is a charter's to judge."""
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


def failures(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows that failed."""
    return tuple(row for row in rows if row.standing is Standing.FAIL)
