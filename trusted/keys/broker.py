"""A member's broker hands out a content key, or says why not (docs/protocol.md §15.2). Trust zone: the member's own.

Whoever asks may be lying. Cheapest first: which key and which grant, then evidence, then the member's word for that
TEE, then what the grant itself asks for. The count goes down on the disk before the key is sealed, so that no crash
hands out one more than was granted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted import hpke
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.blob import ContentKey
from trusted.channel.federation import Federation
from trusted.channel.states import successor
from trusted.documents.credential import verify_credential
from trusted.documents.grant import Grant, Holder, VerifiedGrant
from trusted.errors import (
    AttestationError,
    ChannelError,
    DocumentError,
    KeyReleaseError,
    ProtocolError,
    Reason,
    WireError,
)
from trusted.keys.binding import NONCE_BYTES, Wanted, possession, purpose, transcript
from trusted.keys.renewal import confirmation, renewal_key
from trusted.keys.states import BROKER_TABLE, Kind, State
from trusted.wire import exactly, pack, sha256, unpack

# Covers slow evidence (configfs quotes take seconds), and ends the life of a nonce that nobody answers.
EXCHANGE_LIMIT = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one grant stands in the broker's store."""

    grant: VerifiedGrant
    left: int
    revoked: bool

    def require_standing(self, now: datetime) -> None:
        """Refuse a grant that its member took back, or whose time is not now; how many releases are left says nothing.

        Raises:
            KeyReleaseError: GRANT_REVOKED, GRANT_NOT_YET_VALID, GRANT_EXPIRED.
        """
        if self.revoked:
            raise KeyReleaseError(Reason.GRANT_REVOKED, "grant: its member has taken it back")
        self.grant.document.require_open(now)

    def require_usable(self, now: datetime) -> None:
        """Refuse a grant that nobody can use now.

        Raises:
            KeyReleaseError: GRANT_REVOKED, GRANT_NOT_YET_VALID, GRANT_EXPIRED, GRANT_EXHAUSTED.
        """
        self.require_standing(now)
        if self.left < 1:
            raise KeyReleaseError(Reason.GRANT_EXHAUSTED, "grant.releases: all of them were made")


class Holdings(Protocol):
    """What a broker keeps: keys, grants, counts and a log. A store on a disk implements it; it is believed."""

    def federation(self, charter: bytes, plan: bytes, now: datetime) -> Federation:
        """The documents of these digests, verified.

        Raises:
            ChannelError: WRONG_CHARTER, WRONG_PLAN: the broker was given no such document.
            DocumentError: it does not hold now.
        """
        ...

    def standings(self, key_id: bytes, now: datetime) -> Sequence[Standing]:
        """Every grant of a key, the latest last.

        Raises:
            KeyReleaseError: KEY_UNKNOWN, KEY_RETIRED. DocumentError: no charter of any grant holds now.
        """
        ...

    def confirm(self, grant: VerifiedGrant, now: datetime) -> ContentKey:
        """The key of a grant that still stands, to answer with whoever has it already; nothing is counted.

        Raises:
            KeyReleaseError: it was revoked or retired meanwhile.
        """
        ...

    def take(self, grant: VerifiedGrant, result: AttestationResult, now: datetime) -> ContentKey:
        """The key, once one release fewer is left and the log holds this one, both on the disk.

        Raises:
            KeyReleaseError: it was revoked, retired or used up meanwhile; nothing was counted.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    """The fields of a request: claims of whoever asks, none verified."""

    evidence: EvidenceBundle
    kem: bytes
    credential: bytes
    possession: bytes

    @classmethod
    def parse(cls, frame: bytes) -> _Request:
        evidence, kem, credential, signature = unpack(frame, Kind.REQUEST.value, 4)
        return cls(
            EvidenceBundle.decode(evidence),
            exactly(kem, hpke.PUBLIC_BYTES, "request.kem_r"),
            credential,
            exactly(signature, 64, "request.possession"),
        )


class KeyExchange:
    """One connection of somebody who says that it is an attested TEE. It gives out one key at most."""

    def __init__(self, holdings: Holdings, opened_at: datetime) -> None:
        self._holdings = holdings
        self._opened_at = opened_at
        self._nonce = token_bytes(NONCE_BYTES)
        self._nonce_r = b""
        self._frames: tuple[bytes, ...] = ()
        self._grants: tuple[VerifiedGrant, ...] = ()
        self._renews = False
        self.wanted: Wanted | None = None
        self.state = State.AWAIT_HELLO

    def receive(self, frame: bytes, now: datetime) -> bytes:
        """Take the next frame; what to send back.

        Raises:
            ProtocolError: nothing is handed out; ``state`` is ``CLOSED``. The shell logs why, and tells the number.
        """
        try:
            kind = Kind.of(frame)
            following = successor(BROKER_TABLE, self.state, kind)
            if now - self._opened_at > EXCHANGE_LIMIT:
                raise ChannelError(Reason.NONCE, "exchange: the nonce is too old")
            reply = self._answer(frame, now) if kind is Kind.REQUEST else self._challenge(frame, kind, now)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following
        return reply

    def _challenge(self, frame: bytes, kind: Kind, now: datetime) -> bytes:
        self._renews = kind is Kind.RENEW
        self.wanted, self._nonce_r, renewed = _read_hello(frame, kind)
        standings = self._holdings.standings(self.wanted.key_id, now)
        if self._renews:
            self._grants = (_standing(standings, self.wanted, renewed, now),)
        else:
            self._grants = _usable(standings, self.wanted, now)
        return self._note(frame, pack(Kind.CHALLENGE.value, self._nonce))

    def _answer(self, frame: bytes, now: datetime) -> bytes:
        # 1. Documents that hold now. 2. K as this side sees it, and evidence bound to it that the charter admits in
        # that role. 3. A credential of a member, used in this exchange. 4. One of the grants, all of its terms.
        # 5. Counted, logged, on the disk. 6. Sealed to the key that was proved, for this exchange alone.
        # Who renews gets no key, and is not counted.
        if self.wanted is None:
            raise RuntimeError("the state table lets no request in before a hello")
        request = _Request.parse(frame)
        federation = self._holdings.federation(self.wanted.charter, self.wanted.plan, now)
        federation.require_valid(now)
        digests = b"".join(sha256(earlier) for earlier in self._frames)
        bound = transcript(self.wanted, (self._nonce_r, self._nonce), request.kem, digests)
        result = federation.appraise(self.wanted.role.value, request.evidence, bound, now)
        holder = _verify_holder(request, federation, bound.over(request.evidence.devices), now)
        grant = _choose(self._grants, federation, holder, result)
        if self._renews:
            secret = renewal_key(self._holdings.confirm(grant, now), grant)
            return self._note(frame, pack(Kind.RENEWED.value, confirmation(secret, (*self._frames, frame))))
        key = self._holdings.take(grant, result, now)
        sealed = hpke.seal(request.kem, key.secret, *purpose((*self._frames, frame), grant.envelope))
        return self._note(frame, pack(Kind.ANSWER.value, grant.envelope, sealed))

    def _note(self, received: bytes, sent: bytes) -> bytes:
        self._frames = (*self._frames, received, sent)
        return sent


def _read_hello(frame: bytes, kind: Kind) -> tuple[Wanted, bytes, bytes]:
    """What is wanted, the asker's nonce, and the digest of the grant that it renews; empty where it renews none."""
    nonce, role, charter, plan, key_id, *grant = unpack(frame, kind.value, 6 if kind is Kind.RENEW else 5)
    names = {known.value.encode("ascii"): known for known in Holder}
    if role not in names:
        raise WireError(Reason.MALFORMED, "hello.role: worker or recipient expected")
    digests = (exactly(charter, 32, "hello.charter"), exactly(plan, 32, "hello.plan"), exactly(key_id, 32, "hello.key"))
    renewed = exactly(grant[0], 32, "renew.grant") if grant else b""
    return Wanted(names[role], *digests), exactly(nonce, NONCE_BYTES, "hello.nonce_r"), renewed


def _usable(standings: Sequence[Standing], wanted: Wanted, now: datetime) -> tuple[VerifiedGrant, ...]:
    """The grants for exactly this use that can be used now, the latest first; if there is none, why not the latest."""
    usable: list[VerifiedGrant] = []
    refused: ProtocolError | None = None
    for standing in _fitting(standings, wanted):
        try:
            standing.require_usable(now)
        except KeyReleaseError as error:
            refused = refused or error
        else:
            usable.append(standing.grant)
    if refused is not None and not usable:
        raise refused
    return tuple(usable)


def _standing(standings: Sequence[Standing], wanted: Wanted, digest: bytes, now: datetime) -> VerifiedGrant:
    """The one grant that is renewed, for exactly this use; how many releases are left does not matter to it."""
    for standing in _fitting(standings, wanted):
        if standing.grant.digest == digest:
            standing.require_standing(now)
            return standing.grant
    raise KeyReleaseError(Reason.NOT_GRANTED, "renew.grant: no grant of this key and use")


def _fitting(standings: Sequence[Standing], wanted: Wanted) -> list[Standing]:
    """The grants for this role, charter and plan, the latest first; at least one, or why there is none."""
    in_role = [standing for standing in reversed(standings) if standing.grant.document.role is wanted.role]
    if not in_role:
        raise KeyReleaseError(Reason.NOT_GRANTED, "hello.role: this key was granted to nobody in this role")
    under_charter = [standing for standing in in_role if standing.grant.document.charter == wanted.charter]
    if not under_charter:
        raise ChannelError(Reason.WRONG_CHARTER, "hello.charter: this key was granted under another charter")
    for_plan = [standing for standing in under_charter if standing.grant.document.plan == wanted.plan]
    if not for_plan:
        raise ChannelError(Reason.WRONG_PLAN, "hello.plan: this key was granted for another plan")
    return for_plan


def _verify_holder(request: _Request, federation: Federation, over: bytes, now: datetime) -> str:
    """The member whose word the asking TEE holds: whose credential names the key that signed this very exchange."""
    credential = verify_credential(request.credential, federation.charter, now).document
    try:
        Ed25519PublicKey.from_public_bytes(credential.worker_key).verify(request.possession, possession(over))
    except (InvalidSignature, ValueError):
        raise ChannelError(Reason.PEER_SIGNATURE, "request.possession: not signed by the credential's key") from None
    return credential.member


def _choose(
    grants: Sequence[VerifiedGrant], federation: Federation, holder: str, result: AttestationResult
) -> VerifiedGrant:
    """The latest grant all of whose terms hold; if there is none, why the latest does not."""
    refused: ProtocolError | None = None
    for grant in grants:
        try:
            _require_party(grant.document, federation)
            _require_terms(grant.document, holder, result)
        except ProtocolError as error:
            refused = refused or error
        else:
            return grant
    raise refused or RuntimeError("an exchange without a grant ends at its hello")


def _require_party(grant: Grant, federation: Federation) -> None:
    """Whose key it is has that place in the plan."""
    plan = federation.plan.document
    if grant.role is Holder.RECIPIENT and grant.member not in plan.recipients:
        raise KeyReleaseError(Reason.NOT_A_RECIPIENT, "grant.member: not among the plan's recipients")
    if grant.role is Holder.WORKER and grant.member not in plan.cohort.members:
        raise DocumentError(Reason.UNKNOWN_MEMBER, "grant.member: not a member of the plan's cohort")


def _require_terms(grant: Grant, holder: str, result: AttestationResult) -> None:
    """What the grant asks beyond the charter."""
    if holder != grant.holder:
        raise KeyReleaseError(Reason.GRANT_HOLDER, "request.credential: of another member than the grant names")
    if grant.measurements is not None and result.measurement not in grant.measurements:
        raise AttestationError(Reason.MEASUREMENT, "grant.measurements: something else runs there")
    if not result.assurance.reaches(grant.assurance):
        raise AttestationError(Reason.ASSURANCE, f"grant.assurance: {grant.assurance.value} or better expected")
