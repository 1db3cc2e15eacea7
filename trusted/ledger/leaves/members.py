"""Leaves about who takes part. Trust zone: every TEE; whoever serves a leaf may have made it up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from trusted.attestation.roots import Assurance
from trusted.documents.schema import member_id, read_member, read_members
from trusted.errors import Reason, WireError
from trusted.ledger.leaves.form import DIGEST_BYTES, MAX_MEMBERS, NAME_BYTES, read_reason, reason_of
from trusted.wire import Fields


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first leaf: which run this is, who witnesses it, and a commitment to the seed of its sampling."""

    KIND: ClassVar[str] = "genesis"
    plan: bytes
    charter: bytes
    seed_commitment: bytes
    witnesses: tuple[str, ...]
    quorum: int

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {
            "plan": self.plan.hex(),
            "charter": self.charter.hex(),
            "seed_commitment": self.seed_commitment.hex(),
            "witnesses": list(self.witnesses),
            "quorum": self.quorum,
        }

    @classmethod
    def read(cls, fields: Fields) -> Genesis:
        """The leaf in ``fields``."""
        return cls(
            plan=fields.octets("plan", DIGEST_BYTES),
            charter=fields.octets("charter", DIGEST_BYTES),
            seed_commitment=fields.octets("seed_commitment", DIGEST_BYTES),
            witnesses=read_members(fields, "witnesses", low=1, high=MAX_MEMBERS),
            quorum=fields.integer("quorum", low=1, high=MAX_MEMBERS),
        )


@dataclass(frozen=True, slots=True)
class Admitted:
    """A member's worker was admitted. ``ear_sha256`` is of the signed attestation result, which stands elsewhere;
    ``dataset`` is what the worker committed its rows to (:mod:`trusted.row_commitment`)."""

    KIND: ClassVar[str] = "admitted"
    member: str
    boot: bytes
    verify_key: bytes
    measurement: bytes
    assurance: Assurance
    ear_sha256: bytes
    dataset: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {
            "member": self.member,
            "boot": self.boot.hex(),
            "verify_key": self.verify_key.hex(),
            "measurement": self.measurement.hex(),
            "assurance": self.assurance.value,
            "ear_sha256": self.ear_sha256.hex(),
            "dataset": self.dataset.hex(),
        }

    @classmethod
    def read(cls, fields: Fields) -> Admitted:
        """The leaf in ``fields``."""
        leaf = cls(
            member=read_member(fields, "member"),
            boot=fields.octets("boot", NAME_BYTES),
            verify_key=fields.octets("verify_key", 32),
            measurement=fields.octets("measurement"),
            assurance=Assurance(fields.choice("assurance", [one.value for one in Assurance])),
            ear_sha256=fields.octets("ear_sha256", DIGEST_BYTES),
            dataset=fields.octets("dataset", DIGEST_BYTES),
        )
        if not 0 < len(leaf.measurement) <= 64:
            raise WireError(Reason.MALFORMED, "leaf.measurement: 1 to 64 bytes expected")
        return leaf


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody was not admitted; who, if that was proved before the refusal."""

    KIND: ClassVar[str] = "refused"
    reason: Reason
    member: str | None

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"reason": int(self.reason), "member": self.member}

    @classmethod
    def read(cls, fields: Fields) -> Refused:
        """The leaf in ``fields``."""
        member = fields.take("member", str, type(None))
        return cls(read_reason(fields), None if member is None else member_id(member, fields.path("member")))


@dataclass(frozen=True, slots=True)
class Left:
    """A member's worker left, or its connection did. It may come back, and is then admitted anew."""

    KIND: ClassVar[str] = "left"
    member: str
    reason: Reason | None

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"member": self.member, "reason": None if self.reason is None else int(self.reason)}

    @classmethod
    def read(cls, fields: Fields) -> Left:
        """The leaf in ``fields``."""
        present = fields.take("reason", int, type(None))
        return cls(read_member(fields, "member"), None if present is None else reason_of(present))


@dataclass(frozen=True, slots=True)
class Evicted:
    """A member's worker was sent away: a lease ran out, or its evidence no longer holds."""

    KIND: ClassVar[str] = "evicted"
    member: str
    reason: Reason

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"member": self.member, "reason": int(self.reason)}

    @classmethod
    def read(cls, fields: Fields) -> Evicted:
        """The leaf in ``fields``."""
        return cls(read_member(fields, "member"), read_reason(fields))
