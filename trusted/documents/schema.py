"""Field readers that several documents share (docs/protocol.md §1, §2). Trust zone: every TEE.

The writer of a document may be lying, and the reader may be a tired person at a terminal: text that could hide
what is being signed (control characters, bidirectional overrides) is refused, and so are identifiers that are not safe
as a file name, a metric label or a cell of a report.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trusted.errors import DocumentError, Reason
from trusted.wire import Fields

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_TIME_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MEMBER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
DIGEST_BYTES = 32


def rule(condition: bool, field: str, expected: str) -> None:
    """Refuse a document whose ``field`` is not as ``expected``.

    Raises:
        DocumentError: DOCUMENT_RULE.
    """
    if not condition:
        raise DocumentError(Reason.DOCUMENT_RULE, f"{field}: {expected}")


def read_line(fields: Fields, key: str, *, max_length: int = 200) -> str:
    """One line of visible text. Stops a document that shows a signer something else than it says (Trojan Source)."""
    value = fields.text(key, max_length=max_length)
    visible = all(unicodedata.category(letter)[0] not in "CZ" or letter == " " for letter in value)
    rule(visible and value == value.strip(), fields.path(key), "one line of visible characters expected")
    return value


def matching(value: Any, form: re.Pattern[str], name: str) -> str:
    """``value`` if it is a string of ``form``.

    Raises:
        DocumentError: DOCUMENT_RULE.
    """
    if not isinstance(value, str) or not form.fullmatch(value):
        raise DocumentError(Reason.DOCUMENT_RULE, f"{name}: {form.pattern} expected")
    return value


def member_id(value: Any, name: str) -> str:
    """A member's identifier: lower-case letters, digits and hyphens, 1 to 63 of them."""
    return matching(value, _MEMBER_ID, name)


def read_member(fields: Fields, key: str) -> str:
    """The member that a document names."""
    return member_id(fields.text(key), fields.path(key))


def read_members(fields: Fields, key: str, *, low: int, high: int) -> tuple[str, ...]:
    """``low`` to ``high`` different member identifiers, in the order of the document."""
    values = fields.items(key, max_items=high)
    members = tuple(member_id(value, fields.path(key)) for value in values)
    unique(members, fields.path(key), low=low)
    return members


def read_digests(fields: Fields, key: str, *, max_items: int = 1024) -> tuple[bytes, ...]:
    """Different digests, 32 bytes each. An empty list means none, never any."""
    values = fields.items(key, max_items=max_items)
    with Fields({str(place): value for place, value in enumerate(values)}, fields.path(key)) as entries:
        digests = tuple(entries.octets(str(place), DIGEST_BYTES) for place in range(len(values)))
    unique(digests, fields.path(key), low=0)
    return digests


def unique(values: Sequence[Any], name: str, *, low: int) -> None:
    """Refuse fewer than ``low`` values, and any that stands twice."""
    rule(len(values) >= low, name, f"at least {low} entries expected")
    rule(len(set(values)) == len(values), name, "an entry stands twice")


def read_time(fields: Fields, key: str) -> datetime:
    """``YYYY-MM-DDTHH:MM:SSZ`` as an aware UTC time, in whole seconds."""
    text = matching(fields.text(key, max_length=20), _TIME_FORM, fields.path(key))
    try:
        moment = datetime.strptime(text, _TIME)
    except ValueError:
        raise DocumentError(Reason.DOCUMENT_RULE, f"{fields.path(key)}: no such date") from None
    return moment.replace(tzinfo=UTC)


def write_time(moment: datetime) -> str:
    """The one spelling of ``moment``, an aware time; fractions of a second are dropped."""
    return aware(moment).astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def aware(moment: datetime) -> datetime:
    """``moment``, which must know its time zone.

    Raises:
        ValueError: it does not, which is a bug of the caller.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone")
    return moment


@dataclass(frozen=True, slots=True)
class Validity:
    """The times between which a document holds, both included."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def read(cls, fields: Fields) -> Validity:
        """``not_before`` and ``not_after`` of a document."""
        validity = cls(read_time(fields, "not_before"), read_time(fields, "not_after"))
        rule(validity.not_before < validity.not_after, fields.path("not_after"), "later than not_before expected")
        return validity

    def to_json(self) -> dict[str, Any]:
        """The two fields, for the document that holds them."""
        return {"not_before": write_time(self.not_before), "not_after": write_time(self.not_after)}

    def check(self, now: datetime, document: str) -> None:
        """Refuse at a time outside.

        Raises:
            DocumentError: DOCUMENT_NOT_YET_VALID or DOCUMENT_EXPIRED.
        """
        if aware(now) < self.not_before:
            raise DocumentError(Reason.DOCUMENT_NOT_YET_VALID, f"{document}.not_before: still to come")
        check_not_after(self.not_after, now, document)


def check_not_after(not_after: datetime, now: datetime, document: str) -> None:
    """Refuse once ``not_after`` has passed.

    Raises:
        DocumentError: DOCUMENT_EXPIRED.
    """
    if aware(now) > not_after:
        raise DocumentError(Reason.DOCUMENT_EXPIRED, f"{document}.not_after: has passed")
