"""What a peer must prove here: the charter and plan of this session, applied to evidence. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.binding import host_data, report_data
from trusted.attestation.evidence import Evidence
from trusted.attestation.result import AttestationResult
from trusted.channel.transcript import AGGREGATOR, WORKER
from trusted.documents.charter import VerifiedCharter
from trusted.documents.plan import VerifiedPlan
from trusted.errors import ChannelError, Reason


@dataclass(frozen=True, slots=True)
class Federation:
    """The charter and the plan that both sides of a session must hold, verified."""

    charter: VerifiedCharter
    plan: VerifiedPlan

    def appraise(self, role: str, evidence: bytes, transcript: bytes, now: datetime) -> AttestationResult:
        """The affirming result for a peer that says it runs ``role`` and is bound to ``transcript``.

        The peer, and every host between, may be lying about all of ``evidence``.

        Raises:
            WireError, AttestationError: what it fails to prove.
        """
        charter = self.charter.document
        policy = {AGGREGATOR: charter.aggregator, WORKER: charter.worker}[role]
        decoded = Evidence.decode(evidence)
        platform_policy = policy.for_format(decoded.format)
        verified = verify(decoded, charter.roots, now)
        expected = Expected(
            report_data=report_data(transcript),
            host_data=host_data(role, self.charter.digest, self.plan.digest),
        )
        return appraise(verified, platform_policy, expected, now)

    def require_valid(self, now: datetime) -> None:
        """Refuse to go on when charter or plan no longer hold.

        Raises:
            DocumentError: DOCUMENT_EXPIRED, DOCUMENT_NOT_YET_VALID.
        """
        self.charter.document.validity.check(now, "charter")
        self.plan.document.validity.check(now, "plan")

    def require_same(self, charter: bytes, plan: bytes) -> None:
        """Refuse a peer that holds another charter or another plan."""
        if charter != self.charter.digest:
            raise ChannelError(Reason.WRONG_CHARTER, "hello: the peer holds another charter")
        if plan != self.plan.digest:
            raise ChannelError(Reason.WRONG_PLAN, "hello: the peer holds another plan")
