"""One typed column of ``plan.dataset``: what its values may be. Trust zone: every TEE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any

from trusted.documents.schema import matching, read_line, rule, unique
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields

MAX_NAME = 128
MAX_VALUES = 1024
_MAX_WHOLE = (1 << 53) - 1  # what every reader of JSON keeps exactly
_LARGEST = 1e300
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Bound = int | float | str | None


class ColumnType(Enum):
    """What a value is; docs/data.md says how each is spelled in a CSV file."""

    INTEGER = "integer"
    NUMBER = "number"
    CATEGORY = "category"
    TEXT = "text"
    DATE = "date"
    BOOLEAN = "boolean"


class Missing(Enum):
    """Whether a field may be empty."""

    REFUSE = "refuse"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What one column's values must be.

    Attributes:
        unit: as people read it, UCUM where there is one (``mmHg``); nothing converts. Empty: none.
        low, high: both included. Whole numbers, numbers, or days as ``YYYY-MM-DD``, by ``type``; None: no bound.
        values: all that a category may be.
    """

    name: str
    type: ColumnType
    unit: str = ""
    low: Bound = None
    high: Bound = None
    values: tuple[str, ...] = ()
    missing: Missing = Missing.REFUSE

    @classmethod
    def read(cls, value: Any, path: str) -> ColumnRule:
        """One object of ``plan.dataset.columns``. What does not belong to its type is an unknown field."""
        with Fields(value, path) as fields:
            name = read_line(fields, "name", max_length=MAX_NAME)
            kind = ColumnType(fields.choice("type", [one.value for one in ColumnType]))
            measured = kind in (ColumnType.INTEGER, ColumnType.NUMBER)
            column = cls(
                name=name,
                type=kind,
                unit=read_line(fields, "unit", max_length=40) if measured and fields.has("unit") else "",
                low=_read_bound(fields, "low", kind),
                high=_read_bound(fields, "high", kind),
                values=_read_values(fields) if kind is ColumnType.CATEGORY else (),
                missing=_read_missing(fields),
            )
        rule(_in_order(column.low, column.high), f"{path}.high", "at least low expected")
        return column

    def to_json(self) -> dict[str, Any]:
        """One object of ``plan.dataset.columns``; what says nothing is left out."""
        said: dict[str, Any] = {"name": self.name, "type": self.type.value}
        said |= {"unit": self.unit} if self.unit else {}
        said |= {key: bound for key, bound in (("low", self.low), ("high", self.high)) if bound is not None}
        said |= {"values": list(self.values)} if self.values else {}
        return said | ({"missing": self.missing.value} if self.missing is Missing.ALLOW else {})


def _read_bound(fields: Fields, key: str, kind: ColumnType) -> Bound:
    if kind not in (ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.DATE) or not fields.has(key):
        return None
    if kind is ColumnType.INTEGER:
        return fields.integer(key, low=-_MAX_WHOLE, high=_MAX_WHOLE)
    if kind is ColumnType.NUMBER:
        return fields.number(key, low=-_LARGEST, high=_LARGEST)
    day = matching(fields.text(key, max_length=10), _DAY, fields.path(key))
    try:
        date.fromisoformat(day)
    except ValueError:
        raise DocumentError(Reason.DOCUMENT_RULE, f"{fields.path(key)}: no such day") from None
    return day


def _in_order(low: Bound, high: Bound) -> bool:
    if isinstance(low, str) and isinstance(high, str):
        return low <= high  # days in ISO form order as text
    if isinstance(low, int | float) and isinstance(high, int | float):
        return low <= high
    return True


def _read_values(fields: Fields) -> tuple[str, ...]:
    path = fields.path("values")
    listed = fields.items("values", max_items=MAX_VALUES)
    with Fields({str(place): value for place, value in enumerate(listed)}, path) as entries:
        values = tuple(read_line(entries, str(place)) for place in range(len(listed)))
    unique(values, path, low=1)
    return values


def _read_missing(fields: Fields) -> Missing:
    if not fields.has("missing"):
        return Missing.REFUSE
    return Missing(fields.choice("missing", [one.value for one in Missing]))
