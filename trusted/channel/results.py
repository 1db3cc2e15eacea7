"""Each side's signed word about the other: an EAR for every proof that granted a lease. Trust zone: every TEE.

Signed with the key that the appraiser's own evidence binds, so that whoever verified that evidence can verify this. The
nonce is the appraiser's own; subject, policy, evidence and the end of the lease stand inside.
"""

from __future__ import annotations

from trusted.attestation.ear import RELEASE, Appraiser, Grant, sign_ear
from trusted.channel.session import Identity, Session


def aggregator_subject(plan: bytes) -> str:
    """The aggregator of a plan (its digest, 32 bytes)."""
    return f"urn:cloister:plan:{plan.hex()}:aggregator"


def worker_subject(plan: bytes, member: str) -> str:
    """The worker of ``member`` in a plan (its digest, 32 bytes)."""
    return f"urn:cloister:plan:{plan.hex()}:worker:{member}"


def issue_result(session: Session, subject: str, identity: Identity) -> str:
    """The token for the newest proof of ``session``, about ``subject``, signed by this side."""
    proof = session.proof
    appraiser = Appraiser(RELEASE, identity.signing_key)
    return sign_ear(proof.result, Grant(subject, proof.nonce, session.until), appraiser)
