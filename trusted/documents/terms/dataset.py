"""``plan.dataset``: what each site's data must be. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trusted.documents.schema import read_line, unique
from trusted.documents.terms.columns import MAX_NAME, ColumnRule
from trusted.wire import Fields

MAX_ROWS = 10**12


@dataclass(frozen=True, slots=True)
class Consent:
    """Only rows with exactly ``value`` in ``column`` enter."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class DatasetContract:
    """What each site's data must be.

    Attributes:
        min_rows: so many rows must remain once ``consent`` and ``expires`` have kept theirs out.
        columns: the app gets these and no others, in this order.
        rules: what the values of some of them must be, in the same order.
        consent: rows without it do not enter; its column need not be one of ``columns``.
        expires: a column of days or times; rows whose time has passed do not enter. Empty: none.
    """

    min_rows: int
    columns: tuple[str, ...]
    rules: tuple[ColumnRule, ...] = ()
    consent: Consent | None = None
    expires: str = ""

    @classmethod
    def read(cls, value: Any) -> DatasetContract:
        """``plan.dataset``."""
        with Fields(value, "plan.dataset") as fields:
            min_rows = fields.integer("min_rows", low=1, high=MAX_ROWS)
            columns, rules = _read_entries(fields)
            consent = _read_consent(fields.mapping("consent")) if fields.has("consent") else None
            expires = _read_expires(fields.mapping("expires")) if fields.has("expires") else ""
        return cls(min_rows, columns, rules, consent, expires)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that is read: the app's, then those that only decide which rows enter."""
        deciding = (self.consent.column if self.consent is not None else "", self.expires)
        return tuple(dict.fromkeys((*self.columns, *(column for column in deciding if column))))

    @property
    def rule_of(self) -> Mapping[str, ColumnRule]:
        """The rules by their columns' names."""
        return {rule.name: rule for rule in self.rules}

    def to_json(self) -> dict[str, Any]:
        """``plan.dataset``; a column without rules is its name alone."""
        rules = self.rule_of
        said: dict[str, Any] = {
            "min_rows": self.min_rows,
            "columns": [rules[name].to_json() if name in rules else name for name in self.columns],
        }
        if self.consent is not None:
            said["consent"] = {"column": self.consent.column, "value": self.consent.value}
        return said | ({"expires": {"column": self.expires}} if self.expires else {})


def _read_entries(fields: Fields) -> tuple[tuple[str, ...], tuple[ColumnRule, ...]]:
    """Names and objects, mixed."""
    path, names, rules = fields.path("columns"), list[str](), list[ColumnRule]()
    for place, value in enumerate(fields.items("columns")):
        if isinstance(value, dict):
            rules.append(ColumnRule.read(value, f"{path}.{place}"))
            names.append(rules[-1].name)
        else:
            with Fields({str(place): value}, path) as entry:
                names.append(read_line(entry, str(place), max_length=MAX_NAME))
    unique(names, path, low=1)
    return tuple(names), tuple(rules)


def _read_consent(value: Any) -> Consent:
    with Fields(value, "plan.dataset.consent") as fields:
        return Consent(read_line(fields, "column", max_length=MAX_NAME), read_line(fields, "value"))


def _read_expires(value: Any) -> str:
    with Fields(value, "plan.dataset.expires") as fields:
        return read_line(fields, "column", max_length=MAX_NAME)


def read_columns(fields: Fields, key: str, *, low: int) -> tuple[str, ...]:
    """At least ``low`` different column names of visible characters."""
    values = fields.items(key)
    with Fields({str(place): value for place, value in enumerate(values)}, fields.path(key)) as entries:
        columns = tuple(read_line(entries, str(place), max_length=MAX_NAME) for place in range(len(values)))
    unique(columns, fields.path(key), low=low)
    return columns
