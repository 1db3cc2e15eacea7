"""A member's grant of a content key, and its word that it takes one back (docs/protocol.md §15). Trust zone: every TEE.

A grant is made beside the member's signing key; the broker that acts on it holds none. So whoever gets a key checks the
member's own signature over what the key is for, and over a commitment to the key itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique
from typing import Any

from trusted.attestation.roots import Assurance
from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import Verified, open_envelope, require_signers, signers_among
from trusted.documents.schema import DIGEST_BYTES, Validity, read_member, read_time, rule, write_time
from trusted.documents.schema import unique as all_different
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import DocumentError, KeyReleaseError, Reason
from trusted.wire import Fields, decode_json, encode_json, pack, sha256

GRANT_TYPE = "application/vnd.cloister.grant.v1+json"
WITHDRAWAL_TYPE = "application/vnd.cloister.withdrawal.v1+json"
MAX_ENVELOPE_BYTES = 1 << 14  # a grant travels in an answer
MAX_RELEASES = 1_000_000
NONCE_BYTES = 16
_MAX_MEASUREMENTS = 64
_MEASUREMENT_BYTES = 48


@unique
class Holder(StrEnum):
    """The roles to which a key may be granted; their names are those of the charter's policies."""

    WORKER = "worker"
    RECIPIENT = "recipient"


def commitment(key_id: bytes, secret: bytes) -> bytes:
    """What a grant says of the content key ``secret`` (32 random bytes) of ``key_id``; it tells nothing of the key."""
    return sha256(pack("cloister/key-commitment/v1", key_id, secret))


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may have one key, and how often; as parsed.

    Attributes:
        member: whose broker this is for; it signs.
        charter, plan: digests of what the asking TEE was launched for.
        role: what it must run as.
        key: which key: the digest of the sealed object, 32 bytes.
        commitment: to the content key (:func:`commitment`).
        holder: the member whose credential it must hold.
        measurements: what it must run, 48 bytes each; None: whatever the charter admits in that role.
        assurance: at least this must stand behind its evidence, whatever less the charter asks for.
        releases: how often the key may be handed out under this grant.
        nonce: 16 random bytes, so that two grants of the same are two.
        scoring: how much a runtime may answer with it; None: as much as its operator says.
    """

    member: str
    charter: bytes
    plan: bytes
    role: Holder
    key: bytes
    commitment: bytes
    holder: str
    measurements: tuple[bytes, ...] | None
    assurance: Assurance
    releases: int
    validity: Validity
    nonce: bytes
    scoring: ScoringLimits | None = None

    @classmethod
    def parse(cls, payload: bytes) -> Grant:
        """The grant of a payload, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(payload), "grant") as fields:
            return cls(
                member=read_member(fields, "member"),
                charter=fields.octets("charter", DIGEST_BYTES),
                plan=fields.octets("plan", DIGEST_BYTES),
                role=Holder(fields.choice("role", list(Holder))),
                key=fields.octets("key", DIGEST_BYTES),
                commitment=fields.octets("commitment", DIGEST_BYTES),
                holder=read_member(fields, "holder"),
                measurements=_read_measurements(fields),
                assurance=Assurance(fields.choice("assurance", [level.value for level in Assurance])),
                releases=fields.integer("releases", low=1, high=MAX_RELEASES),
                validity=Validity.read(fields),
                nonce=fields.octets("nonce", NONCE_BYTES),
                scoring=_read_scoring(fields),
            )

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §15 names its fields."""
        listed = None if self.measurements is None else [value.hex() for value in self.measurements]
        return {
            "member": self.member,
            "charter": self.charter.hex(),
            "plan": self.plan.hex(),
            "role": self.role.value,
            "key": self.key.hex(),
            "commitment": self.commitment.hex(),
            "holder": self.holder,
            "measurements": listed,
            "assurance": self.assurance.value,
            "releases": self.releases,
            **self.validity.to_json(),
            "nonce": self.nonce.hex(),
            **({} if self.scoring is None else {"scoring": self.scoring.to_json()}),
        }

    def require_open(self, now: datetime) -> None:
        """Refuse outside the grant's own time.

        Raises:
            KeyReleaseError: GRANT_NOT_YET_VALID, GRANT_EXPIRED.
        """
        try:
            self.validity.check(now, "grant")
        except DocumentError as error:
            early = error.reason is Reason.DOCUMENT_NOT_YET_VALID
            reason = Reason.GRANT_NOT_YET_VALID if early else Reason.GRANT_EXPIRED
            raise KeyReleaseError(reason, error.detail) from None


@dataclass(frozen=True, slots=True)
class VerifiedGrant(Verified[Grant]):
    """A grant that its member signed, under this charter. It may have ended, been taken back or used up."""


def verify_grant(envelope: bytes, charter: VerifiedCharter) -> VerifiedGrant:
    """The grant in ``envelope``, whose bearer may be lying.

    1. It names this charter, and members of it. 2. The member whose key it is signed it.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, GRANT_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    grant = Grant.parse(opened.payload)
    if grant.charter != charter.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "grant.charter: the digest of another charter")
    charter.document.member(grant.holder)
    member = charter.document.member(grant.member)
    found = signers_among(opened, charter.owners) & {member.id}
    require_signers(found, [member.id], "grant")
    return VerifiedGrant(grant, sha256(opened.payload), envelope, found)


@unique
class Withdrawn(StrEnum):
    """What is taken back: one grant, or a key with all that was granted of it."""

    GRANT = "grant"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """``member`` takes back the grant with the digest ``subject``, or ends the key with that id; as parsed."""

    member: str
    charter: bytes
    what: Withdrawn
    subject: bytes
    issued: datetime

    @classmethod
    def parse(cls, payload: bytes) -> Withdrawal:
        """The withdrawal of a payload, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(payload), "withdrawal") as fields:
            return cls(
                member=read_member(fields, "member"),
                charter=fields.octets("charter", DIGEST_BYTES),
                what=Withdrawn(fields.choice("what", list(Withdrawn))),
                subject=fields.octets("subject", DIGEST_BYTES),
                issued=read_time(fields, "issued"),
            )

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §15 names its fields."""
        return {
            "member": self.member,
            "charter": self.charter.hex(),
            "what": self.what.value,
            "subject": self.subject.hex(),
            "issued": write_time(self.issued),
        }


@dataclass(frozen=True, slots=True)
class VerifiedWithdrawal(Verified[Withdrawal]):
    """A withdrawal that its member signed. It holds for ever: there is no date after which it would not."""


def verify_withdrawal(envelope: bytes, charter: VerifiedCharter) -> VerifiedWithdrawal:
    """The withdrawal in ``envelope``, whose bearer may be lying.

    Raises:
        WireError, DocumentError: it names another charter, or its member did not sign it.
    """
    opened = open_envelope(envelope, WITHDRAWAL_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    withdrawal = Withdrawal.parse(opened.payload)
    if withdrawal.charter != charter.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "withdrawal.charter: the digest of another charter")
    member = charter.document.member(withdrawal.member)
    found = signers_among(opened, charter.owners) & {member.id}
    require_signers(found, [member.id], "withdrawal")
    return VerifiedWithdrawal(withdrawal, sha256(opened.payload), envelope, found)


def _read_scoring(fields: Fields) -> ScoringLimits | None:
    """``grant.scoring``; its absence leaves the operator's own limits."""
    return ScoringLimits.read(fields.mapping("scoring"), "grant.scoring") if fields.has("scoring") else None


def _read_measurements(fields: Fields) -> tuple[bytes, ...] | None:
    values = fields.take("measurements", list, type(None))
    if values is None:
        return None
    path = fields.path("measurements")
    rule(len(values) <= _MAX_MEASUREMENTS, path, f"at most {_MAX_MEASUREMENTS} entries expected")
    with Fields({str(place): value for place, value in enumerate(values)}, path) as entries:
        found = tuple(entries.octets(str(place), _MEASUREMENT_BYTES) for place in range(len(values)))
    all_different(found, path, low=1)
    return found
