"""Leaves about rounds. Trust zone: every TEE; whoever serves a leaf may have made it up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from trusted.documents.schema import read_member, read_members
from trusted.errors import LedgerError, Reason
from trusted.ledger.leaves.form import DIGEST_BYTES, MAX_MEMBERS, by_member, read_reason, read_round
from trusted.wire import Fields


@dataclass(frozen=True, slots=True)
class Opened:
    """A round began: who was there, who of them was drawn, and which model they got (SHA-256 of its blob's prefix)."""

    KIND: ClassVar[str] = "opened"
    round: int
    present: tuple[str, ...]
    cohort: tuple[str, ...]
    model_prefix_sha256: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {
            "round": self.round,
            "present": list(self.present),
            "cohort": list(self.cohort),
            "model_prefix_sha256": self.model_prefix_sha256.hex(),
        }

    @classmethod
    def read(cls, fields: Fields) -> Opened:
        """The leaf in ``fields``."""
        return cls(
            round=read_round(fields),
            present=read_members(fields, "present", low=1, high=MAX_MEMBERS),
            cohort=read_members(fields, "cohort", low=1, high=MAX_MEMBERS),
            model_prefix_sha256=fields.octets("model_prefix_sha256", DIGEST_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """A contribution that counts, by the SHA-256 of its blob's prefix (header, signature, FLOE's header).

    Its sender gets a proof that this leaf is there. The ``closed`` leaf behind it says what is folded in the end.
    """

    KIND: ClassVar[str] = "counted"
    round: int
    member: str
    prefix_sha256: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"round": self.round, "member": self.member, "prefix_sha256": self.prefix_sha256.hex()}

    @classmethod
    def read(cls, fields: Fields) -> Counted:
        """The leaf in ``fields``."""
        return cls(read_round(fields), read_member(fields, "member"), fields.octets("prefix_sha256", DIGEST_BYTES))


@dataclass(frozen=True, slots=True)
class Lost:
    """A contribution that does not count, and why."""

    member: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Closed:
    """A round took its last contribution; these will be folded, and no others. Both lists by member id."""

    KIND: ClassVar[str] = "closed"
    round: int
    counted: tuple[str, ...]
    lost: tuple[Lost, ...]

    def __post_init__(self) -> None:
        counted, lost = list(self.counted), [one.member for one in self.lost]
        in_order = counted == sorted(counted) and lost == sorted(lost)
        if not in_order or len({*counted, *lost}) != len(counted) + len(lost):
            raise LedgerError(Reason.LEDGER_LEAF, "leaf: each member once, in the order of their ids, expected")

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {
            "round": self.round,
            "counted": list(self.counted),
            "lost": {one.member: int(one.reason) for one in self.lost},
        }

    @classmethod
    def read(cls, fields: Fields) -> Closed:
        """The leaf in ``fields``."""
        number = read_round(fields)
        counted = read_members(fields, "counted", low=0, high=MAX_MEMBERS)
        lost = by_member(fields, "lost")
        return cls(
            number,
            counted,
            tuple(Lost(member, read_reason(lost, member)) for member in lost.names()),
        )


@dataclass(frozen=True, slots=True)
class Committed:
    """A round's model is in place."""

    KIND: ClassVar[str] = "committed"
    round: int

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"round": self.round}

    @classmethod
    def read(cls, fields: Fields) -> Committed:
        """The leaf in ``fields``."""
        return cls(read_round(fields))


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A round came to nothing; the model is as before."""

    KIND: ClassVar[str] = "abandoned"
    round: int
    reason: Reason

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"round": self.round, "reason": int(self.reason)}

    @classmethod
    def read(cls, fields: Fields) -> Abandoned:
        """The leaf in ``fields``."""
        return cls(read_round(fields), read_reason(fields))
