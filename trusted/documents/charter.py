"""The charter: who the members are, and what everything else must prove (docs/protocol.md §2). Trust zone: every TEE.

A verifier with no history trusts the charter whose digest it was given; one that holds an older charter follows the
chain, so that no minority and no former member can replace the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policies.rules import Permission, Skip
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.products import PRODUCTS
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.documents.dsse import (
    KEY_BYTES,
    MAX_PAYLOAD_BYTES,
    KeyOwners,
    Verified,
    keyid_of,
    open_envelope,
    owners_of,
    require_threshold,
    signers,
)
from trusted.documents.schema import DIGEST_BYTES, Validity, read_line, read_member, rule, unique
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json, sha256

PAYLOAD_TYPE = "application/vnd.cloister.charter.v1+json"
SEALING_KEY_BYTES = 1216  # ML-KEM-768, then X25519
MAX_MEMBERS = 1024
MAX_KEYS = 16
MAX_VERSION = 1_000_000


class Profile(Enum):
    """Whether real data may be touched. Only ``DEVELOPMENT`` may name a software root."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


@dataclass(frozen=True, slots=True)
class Member:
    """One organisation: its Ed25519 signing keys, and the key to which models are sealed for it."""

    id: str
    name: str
    signing_keys: tuple[bytes, ...]
    sealing_key: bytes

    @classmethod
    def read(cls, value: Any, name: str = "charter.members") -> Member:
        """One entry of ``charter.members``, and the public file that a member hands out.

        Raises:
            WireError, DocumentError: a field is missing, unknown or out of bounds.
        """
        with Fields(value, name) as fields:
            member = read_member(fields, "id")
            title = read_line(fields, "name")
            keys = fields.items("signing_keys", max_items=MAX_KEYS)
            sealing_key = fields.octets("sealing_key", SEALING_KEY_BYTES)
        with Fields({str(place): key for place, key in enumerate(keys)}, f"{name}.signing_keys") as entries:
            signing_keys = tuple(entries.octets(str(place), KEY_BYTES) for place in range(len(keys)))
        rule(len(signing_keys) >= 1, f"{name}.signing_keys", "at least one key expected")
        return cls(member, title, signing_keys, sealing_key)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``charter.members``."""
        keys = [key.hex() for key in self.signing_keys]
        return {"id": self.id, "name": self.name, "signing_keys": keys, "sealing_key": self.sealing_key.hex()}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many organisations must sign. Never fewer than a majority, so that two camps cannot both rule."""

    charter: int
    plan: int

    @classmethod
    def read(cls, value: Any, members: int) -> Thresholds:
        """``charter.thresholds`` of a charter of so many ``members``."""
        low = majority(members)
        with Fields(value, "charter.thresholds") as fields:
            thresholds = cls(*(fields.integer(key, low=1, high=MAX_MEMBERS) for key in cls.__slots__))
        for key, threshold in thresholds.to_json().items():
            rule(low <= threshold <= members, f"charter.thresholds.{key}", f"{low} to {members} expected")
        return thresholds

    def to_json(self) -> dict[str, int]:
        """``charter.thresholds``."""
        return {"charter": self.charter, "plan": self.plan}


@dataclass(frozen=True, slots=True)
class Charter:
    """The consortium's rules, as parsed: their own bounds hold, and nobody's signature has been checked."""

    name: str
    version: int
    previous: bytes | None
    profile: Profile
    validity: Validity
    members: tuple[Member, ...]
    thresholds: Thresholds
    roots: tuple[TrustRoot, ...]
    aggregator: AppraisalPolicy
    worker: AppraisalPolicy
    recipient: AppraisalPolicy | None = None  # absent: no runtime ever gets a model's key

    @classmethod
    def parse(cls, payload: bytes) -> Charter:
        """The charter of a payload, whose writer may be lying.

        Raises:
            WireError: not canonical JSON, or a field is missing, unknown or of another type.
            DocumentError: DOCUMENT_RULE, DUPLICATE_KEY, SOFTWARE_ROOT_IN_PRODUCTION.
        """
        with Fields(decode_json(payload, max_bytes=MAX_PAYLOAD_BYTES), "charter") as fields:
            version = fields.integer("version", low=1, high=MAX_VERSION)
            members = tuple(Member.read(entry) for entry in fields.items("members", max_items=MAX_MEMBERS))
            charter = cls(
                name=read_line(fields, "name", max_length=100),
                version=version,
                previous=_read_previous(fields, version),
                profile=Profile(fields.choice("profile", [profile.value for profile in Profile])),
                validity=Validity.read(fields),
                members=members,
                thresholds=Thresholds.read(fields.mapping("thresholds"), len(members)),
                roots=tuple(_read_root(entry) for entry in fields.items("roots", max_items=64)),
                aggregator=AppraisalPolicy.from_json(fields.mapping("aggregator"), "charter.aggregator"),
                worker=AppraisalPolicy.from_json(fields.mapping("worker"), "charter.worker"),
                recipient=_read_recipient(fields),
            )
        _check_members(charter.members)
        unique([(root.format, root.product, root.sha256) for root in charter.roots], "charter.roots", low=1)
        if charter.profile is Profile.PRODUCTION:
            _check_production(charter)
        return charter

    @property
    def signing_keys(self) -> dict[str, tuple[bytes, ...]]:
        """The signing keys of each member, by member id."""
        return {member.id: member.signing_keys for member in self.members}

    def member(self, member_id: str) -> Member:
        """The member of that id.

        Raises:
            DocumentError: UNKNOWN_MEMBER.
        """
        for member in self.members:
            if member.id == member_id:
                return member
        raise DocumentError(Reason.UNKNOWN_MEMBER, "charter.members: a document names somebody who is no member")

    @property
    def policies(self) -> dict[str, AppraisalPolicy]:
        """What each role must prove, by its name; ``recipient`` only where the charter speaks of it."""
        policies = {"aggregator": self.aggregator, "worker": self.worker}
        return policies if self.recipient is None else policies | {"recipient": self.recipient}

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §2 names its fields."""
        return {
            "name": self.name,
            "version": self.version,
            "previous": self.previous.hex() if self.previous is not None else None,
            "profile": self.profile.value,
            **self.validity.to_json(),
            "members": [member.to_json() for member in self.members],
            "thresholds": self.thresholds.to_json(),
            "roots": [_write_root(root) for root in self.roots],
            **{role: policy.to_json() for role, policy in self.policies.items()},
        }


@dataclass(frozen=True, slots=True)
class VerifiedCharter(Verified[Charter]):
    """A charter that its members' threshold signed, and that holds now.

    Attributes:
        owners: whose signing key is whose. Every admission asks, and there may be a thousand members: found once.
    """

    owners: KeyOwners = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find what the charter alone decides.

        Raises:
            DocumentError: DUPLICATE_KEY.
        """
        object.__setattr__(self, "owners", MappingProxyType(owners_of(self.document.signing_keys)))


def verify_charter(envelope: bytes, now: datetime, *, previous: VerifiedCharter | None = None) -> VerifiedCharter:
    """The charter in ``envelope``, whose bearer may be lying, at the time ``now``.

    1. It is a charter and its own rules hold. 2. Signed by its own threshold. 3. With ``previous``: it is the next
    version, names the digest of ``previous``, and the old threshold of the old members signed it too. 4. It holds now.
    Without ``previous`` only its digest says that it is the consortium's: compare ``digest`` with one you trust.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE)
    charter = Charter.parse(opened.payload)
    found = signers(opened, charter.signing_keys)
    require_threshold(found, charter.thresholds.charter, "charter")
    if previous is not None:
        _check_succession(charter, previous)
        old = signers(opened, previous.document.signing_keys)
        require_threshold(old, previous.document.thresholds.charter, "charter, for the previous charter")
    charter.validity.check(now, "charter")
    return VerifiedCharter(charter, sha256(opened.payload), envelope, found)


def majority(members: int) -> int:
    """The smallest number that is more than half of ``members``."""
    return members // 2 + 1


def _check_succession(charter: Charter, previous: VerifiedCharter) -> None:
    rule(charter.name == previous.document.name, "charter.name", "the name of the previous charter expected")
    rule(charter.version == previous.document.version + 1, "charter.version", "one more than the previous expected")
    if charter.previous != previous.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "charter.previous: the digest of another charter")


def _check_members(members: tuple[Member, ...]) -> None:
    unique([member.id for member in members], "charter.members", low=2)
    keyids = [keyid_of(key) for member in members for key in member.signing_keys]
    sealing_keys = [member.sealing_key for member in members]
    if len(set(keyids)) != len(keyids) or len(set(sealing_keys)) != len(sealing_keys):
        raise DocumentError(Reason.DUPLICATE_KEY, "charter.members: a key stands twice")


def _check_production(charter: Charter) -> None:
    """A production charter proves hardware, and says so in every knob that could be talked away."""
    for root in charter.roots:
        if root.assurance is Assurance.NONE:
            raise DocumentError(
                Reason.SOFTWARE_ROOT_IN_PRODUCTION,
                "charter.roots: a software root; only profile development allows one",
            )
    for role, policies in charter.policies.items():
        for format, policy in policies.platforms.items():
            _check_production_policy(policy, f"charter.{role}.{format.value}")
        for format, rule_of in policies.devices.items():
            _check_production_policy(rule_of.policy, f"charter.{role}.devices.{format.value}")


def _check_production_policy(policy: PlatformPolicy, name: str) -> None:
    """Not every platform has each of these knobs; where it has, production may not talk it away."""
    debug, migration = getattr(policy, "debug", Permission.REFUSE), getattr(policy, "migration", Permission.REFUSE)
    rule(debug is Permission.REFUSE, f"{name}.debug", "refuse expected in production")
    rule(not isinstance(migration, Skip), f"{name}.migration", "no skip in production")
    hardware = getattr(policy, "assurance", Assurance.NONE) is not Assurance.NONE
    rule(hardware, f"{name}.assurance", "more than none in production")


def _read_previous(fields: Fields, version: int) -> bytes | None:
    if version == 1:
        rule(fields.take("previous", str, type(None)) is None, fields.path("previous"), "null expected in version 1")
        return None
    return fields.octets("previous", DIGEST_BYTES)


def _read_recipient(fields: Fields) -> AppraisalPolicy | None:
    if not fields.has("recipient"):
        return None
    return AppraisalPolicy.from_json(fields.mapping("recipient"), "charter.recipient")


def _read_root(value: Any) -> TrustRoot:
    with Fields(value, "charter.roots") as fields:
        format = EvidenceFormat(fields.choice("format", [kind.value for kind in EvidenceFormat]))
        is_snp = format is EvidenceFormat.SNP
        return TrustRoot(
            format=format,
            product=fields.choice("product", list(PRODUCTS)) if is_snp else read_line(fields, "product", max_length=32),
            sha256=fields.octets("sha256", DIGEST_BYTES),
            vouched=Assurance(fields.choice("assurance", [Assurance.PROVIDER.value]))
            if fields.has("assurance")
            else Assurance.NONE,
        )


def _write_root(root: TrustRoot) -> dict[str, str]:
    vouched = {} if root.vouched is Assurance.NONE else {"assurance": root.vouched.value}
    return {"format": root.format.value, "product": root.product, "sha256": root.sha256.hex(), **vouched}
