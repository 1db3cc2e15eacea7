"""What a peer must prove here: the charter and plan of this session, applied to evidence. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from trusted.attestation.binding import host_data
from trusted.attestation.collateral import FloorKeeper, endorsements_of
from trusted.attestation.composite import Bound, EvidenceBundle, OpenTranscript, appraise_bundle
from trusted.attestation.result import AttestationResult
from trusted.documents.charter import VerifiedCharter
from trusted.documents.plan import VerifiedPlan
from trusted.errors import AttestationError, ChannelError, Reason


@dataclass(frozen=True, slots=True)
class Federation:
    """The charter and the plan that both sides of a session must hold, verified.

    ``floors`` is this process's memory of the endorsements that it has seen, so that none of them goes backwards.
    """

    charter: VerifiedCharter
    plan: VerifiedPlan
    floors: FloorKeeper = field(default_factory=FloorKeeper, compare=False, repr=False)

    def appraise(
        self, role: str, bundle: EvidenceBundle, transcript: OpenTranscript, now: datetime
    ) -> AttestationResult:
        """The affirming result for a peer that says it runs ``role``, with its devices, and is bound to ``transcript``.

        The peer, and every host between, may be lying about all of ``bundle``.

        Raises:
            AttestationError: what it fails to prove; POLICY_UNSET, the charter knows no such role.
        """
        charter = self.charter.document
        policy = charter.policies.get(role)
        if policy is None:
            raise AttestationError(Reason.POLICY_UNSET, f"charter.{role}: the charter admits nobody in this role")
        bound = Bound(transcript, host_data(role, self.charter.digest, self.plan.digest))
        result = appraise_bundle(bundle, policy, charter.roots, bound=bound, now=now)
        for found, part in zip((result, *result.devices), (bundle.cpu, *bundle.devices), strict=True):
            self.floors.see(endorsements_of(part), found.hardware_id)
        return result

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
