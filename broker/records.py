"""What a store tells of its keys, its grants and its log. Trust zone: the member's own machine; no secret in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

from trusted.errors import Reason


@unique
class KeyKind(StrEnum):
    """What a key opens."""

    DATASET = "dataset"
    MODEL = "model"


@unique
class Event(StrEnum):
    """What the log tells."""

    ADDED = "added"
    GRANTED = "granted"
    RELEASED = "released"
    REFUSED = "refused"
    REVOKED = "revoked"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class KeptKey:
    """One key, as far as it may be shown."""

    id: bytes
    kind: KeyKind
    description: str
    commitment: bytes
    added: str
    retired: bool


@dataclass(frozen=True, slots=True)
class KeptGrant:
    """One grant as it lies in the store. Its envelope was verified when it came in."""

    digest: bytes
    key: bytes
    charter: bytes
    plan: bytes
    envelope: bytes
    remaining: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log: what happened when; of a release, to what, by which attestation result (digests)."""

    number: int
    at: str
    event: Event
    key: bytes | None
    grant: bytes | None
    result: bytes | None
    measurement: bytes | None
    reason: Reason | None
    envelope: bytes | None

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Entry:
        """The entry of a row of the table ``log``."""
        number, at, event, key, grant, result, measurement, reason, envelope = row
        why = None if reason is None else Reason(reason)
        return cls(number, at, Event(event), key, grant, result, measurement, why, envelope)
