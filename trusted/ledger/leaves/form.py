"""The form that every leaf has, and what several of them read alike (docs/protocol.md §12.2). Trust zone: every TEE."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from trusted.documents.schema import member_id
from trusted.errors import LedgerError, Reason, WireError
from trusted.wire import Fields, encode_json

MAX_LEAF_BYTES = 1 << 18  # a round of 1024 members, with a digest for each
MAX_MEMBERS = 1024
MAX_ROUND = 1 << 31
DIGEST_BYTES = 32
NAME_BYTES = 16  # of a blob, and of a boot


class Leaf(Protocol):
    """What every leaf can do."""

    KIND: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        ...


def encode(leaf: Leaf) -> bytes:
    """The canonical bytes of ``leaf``, at most 256 KiB.

    Raises:
        LedgerError: TOO_LARGE.
    """
    data = encode_json({"kind": leaf.KIND, **leaf.to_json()})
    if len(data) > MAX_LEAF_BYTES:
        raise LedgerError(Reason.TOO_LARGE, f"leaf: more than {MAX_LEAF_BYTES} bytes")
    return data


def read_round(fields: Fields) -> int:
    """The number of a round."""
    return fields.integer("round", low=1, high=MAX_ROUND)


def read_reason(fields: Fields, key: str = "reason") -> Reason:
    """A reason, by its number."""
    return reason_of(fields.integer(key, low=1, high=1 << 16))


def reason_of(number: int) -> Reason:
    """The reason with this number.

    Raises:
        WireError: there is none.
    """
    try:
        return Reason(number)
    except ValueError:
        raise WireError(Reason.MALFORMED, "leaf.reason: no such reason") from None


def by_member(fields: Fields, key: str) -> Fields:
    """An object with a field for each of at most 1024 members."""
    inner = Fields(fields.mapping(key), fields.path(key))
    members = inner.names()
    if len(members) > MAX_MEMBERS:
        raise WireError(Reason.TOO_LARGE, f"{fields.path(key)}: at most {MAX_MEMBERS} members")
    for member in members:
        member_id(member, fields.path(key))
    return inner
