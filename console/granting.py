"""Granting a key, taking a grant back, retiring a key: signed here, acted on by the store. Trust zone: the member's.

The member's signing key is used on this machine and never given to the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_bytes
from typing import TypeVar

from broker.records import KeptGrant, KeptKey, KeyKind
from broker.store import KeyStore
from console.documents import owner_of, present
from console.output import UserError
from trusted.attestation.roots import Assurance
from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import Signer, new_envelope, open_envelope, raw_public_key, sign
from trusted.documents.grant import (
    GRANT_TYPE,
    NONCE_BYTES,
    WITHDRAWAL_TYPE,
    Grant,
    Holder,
    Withdrawal,
    Withdrawn,
    verify_grant,
    verify_withdrawal,
)
from trusted.documents.plan import VerifiedPlan
from trusted.documents.schema import Validity, write_time
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import KeyReleaseError, Reason

_SHORTEST = 6
_ROLES = {KeyKind.DATASET: Holder.WORKER, KeyKind.MODEL: Holder.RECIPIENT}
_WORDS = {
    Assurance.NONE: "software will do: NO HARDWARE PROTECTION",
    Assurance.PROVIDER: "a provider's word or better",
    Assurance.HARDWARE: "a vendor's hardware or better",
    Assurance.POSSESSION: "hardware that the charter lists machine by machine",
}
Found = TypeVar("Found", KeptKey, KeptGrant)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a grant asks beyond the charter, and for how long and how often it holds."""

    releases: int
    valid_days: int
    assurance: Assurance
    measurements: tuple[bytes, ...]
    holder: str
    scoring: ScoringLimits | None = None


def new_grant(store: KeyStore, kept: KeptKey, charter: VerifiedCharter, plan: VerifiedPlan, *, terms: Terms) -> Grant:
    """The grant of ``kept`` to TEEs of ``plan``, checked by what the broker would refuse it for; nobody signed it yet.

    Raises:
        UserError: neither member, charter nor plan leaves room for it. DocumentError: the holder is no member.
    """
    role, member = _ROLES[kept.kind], store.member
    _require_possible(role, member, charter, plan)
    if terms.scoring is not None and role is not Holder.RECIPIENT:
        raise UserError("a worker answers no requests", "Leave --scoring away: it is for keys of models.")
    now = present()
    return Grant(
        member=member,
        charter=charter.digest,
        plan=plan.digest,
        role=role,
        key=kept.id,
        commitment=kept.commitment,
        holder=charter.document.member(terms.holder or member).id,
        measurements=terms.measurements or None,
        assurance=terms.assurance,
        releases=terms.releases,
        validity=Validity(now, now + timedelta(days=terms.valid_days)),
        nonce=token_bytes(NONCE_BYTES),
        scoring=terms.scoring,
    )


def read_scoring(text: str) -> ScoringLimits | None:
    """The limits in ``ROWS:PER_MINUTE:TOTAL``; None for an empty text.

    Raises:
        UserError: another form. DocumentError: out of bounds.
    """
    if not text:
        return None
    parts = text.split(":")
    if len(parts) != len(ScoringLimits.__slots__) or not all(part.isdecimal() for part in parts):
        hint = "Give rows in a request, requests a minute of one client, requests in all, such as 512:60:100000."
        raise UserError(f"--scoring {text}: not ROWS:PER_MINUTE:TOTAL", hint)
    return ScoringLimits(*map(int, parts))


def _require_possible(role: Holder, member: str, charter: VerifiedCharter, plan: VerifiedPlan) -> None:
    if role is Holder.RECIPIENT and charter.document.recipient is None:
        hint = "Have the members sign a charter with --recipient-measurement or --recipient-policy."
        raise UserError("this charter admits no recipient's runtime", hint)
    if role is Holder.RECIPIENT and member not in plan.document.recipients:
        raise KeyReleaseError(Reason.NOT_A_RECIPIENT, f"plan.recipients: {member} is not among them")
    if role is Holder.WORKER and member not in plan.document.cohort.members:
        hint = f"Its cohort: {', '.join(plan.document.cohort.members)}."
        raise UserError(f"{member} has no worker in this plan", hint)


def in_words(grant: Grant, kept: KeptKey) -> Iterator[str]:
    """What a member signs, in sentences."""
    who = {Holder.WORKER: "worker", Holder.RECIPIENT: "runtime"}[grant.role]
    yield f"{grant.member} lets the attested {who} of {grant.holder} have the key of {kept.description}."
    yield f"  key          {grant.key.hex()}"
    yield f"  for plan     {grant.plan.hex()}"
    yield f"  how often    {grant.releases} time(s), until {write_time(grant.validity.not_after)}"
    yield f"  assurance    {_WORDS[grant.assurance]}"
    if grant.scoring is not None:
        limits = grant.scoring
        often = f"{limits.rows_per_request} rows a request, {limits.requests_per_minute} requests a minute"
        yield f"  answers      {often} of one client,"
        yield f"               {limits.requests_total} requests in all for each time that the key leaves"
    listed = [value.hex() for value in grant.measurements or ()]
    yield f"  measurement  {', '.join(listed) or f'whatever the charter admits as {grant.role.value}'}"


def in_vain(charter: VerifiedCharter, assurance: Assurance) -> bool:
    """Whether no root of the charter can reach what a grant asks for, so that nobody will ever use it."""
    needed = min(assurance.rank, Assurance.HARDWARE.rank)  # possession is a matter of lists, not of roots
    return all(root.assurance.rank < needed for root in charter.document.roots)


def sign_grant(store: KeyStore, grant: Grant, charter: VerifiedCharter, plan: VerifiedPlan, *, signer: Signer) -> bytes:
    """Sign ``grant`` and have the store act on it; its digest.

    Raises:
        UserError: the signer is of another member. ProtocolError: the store refuses it.
    """
    _require_own(store, charter, signer)
    envelope = sign(new_envelope(grant.encode(), GRANT_TYPE), signer).encode()
    verified = verify_grant(envelope, charter)
    store.add_grant(verified, charter, plan, present())
    return verified.digest


def withdraw(store: KeyStore, charter: VerifiedCharter, what: Withdrawn, subject: bytes, *, signer: Signer) -> None:
    """Sign that a grant, or a key with all its grants, is taken back, and have the store act on it.

    Raises:
        UserError: the signer is of another member. ProtocolError, OSError: the store cannot.
    """
    _require_own(store, charter, signer)
    document = Withdrawal(store.member, charter.digest, what, subject, present())
    envelope = sign(new_envelope(document.encode(), WITHDRAWAL_TYPE), signer).encode()
    store.withdraw(verify_withdrawal(envelope, charter), present())


def _require_own(store: KeyStore, charter: VerifiedCharter, signer: Signer) -> None:
    member = owner_of(raw_public_key(signer), charter.document.signing_keys)
    if member != store.member:
        raise UserError(f"the key store is of {store.member}, the signing key of {member}", "Give those of one member.")


def find_key(store: KeyStore, text: str, kind: KeyKind) -> KeptKey:
    """The key of that kind whose id begins with ``text``, hexadecimal.

    Raises:
        UserError: none, or more than one, does.
    """
    kept = [key for key in store.kept_keys() if key.kind is kind]
    return _one(kept, text, lambda key: key.id, f"{kind.value} key")


def find_grant(store: KeyStore, text: str, kind: KeyKind) -> KeptGrant:
    """The grant of a key of that kind whose digest begins with ``text``, hexadecimal.

    Raises:
        UserError: none, or more than one, does.
    """
    return _one(grants_of(store, kind), text, lambda grant: grant.digest, "grant")


def grants_of(store: KeyStore, kind: KeyKind) -> list[KeptGrant]:
    """Every grant of keys of that kind."""
    ids = {key.id for key in store.kept_keys() if key.kind is kind}
    return [grant for grant in store.grants() if grant.key in ids]


def parsed(kept: KeptGrant) -> Grant:
    """What a kept grant says; it was verified when it came in."""
    return Grant.parse(open_envelope(kept.envelope, GRANT_TYPE).payload)


def standing(kept: KeptGrant, grant: Grant) -> str:
    """How a grant stands, in one word or two."""
    if kept.revoked:
        return "revoked"
    now = present()
    if now > grant.validity.not_after:
        return "expired"
    if not kept.remaining:
        return "used up"
    return "not yet valid" if now < grant.validity.not_before else "open"


def _one(kept: Iterable[Found], text: str, digest: Callable[[Found], bytes], what: str) -> Found:
    if len(text) < _SHORTEST:
        raise UserError(f"{what}: too short", f"Give {_SHORTEST} or more of its hexadecimal digits.")
    found = [item for item in kept if digest(item).hex().startswith(text.lower())]
    if len(found) != 1:
        hint = "`cloister keys list` shows keys and grants; give more digits."
        raise UserError(f"{len(found) or 'no'} {what}(s) begin with {text[:64]}", hint)
    return found[0]
