"""Row by row: who enters, and whether every value is what the plan's contract says. Zone: worker, and the console.

The same rules judge inside the worker and on the data steward's own machine (``cloister data check``). A refusal names
a rule, a column of the plan, and how many rows broke it; row numbers and values reach only who asks for them with
``saw``, which no worker does: its log lies on a machine that need not be the steward's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum
from functools import lru_cache

from trusted.documents.schema import aware
from trusted.documents.terms import ColumnRule, ColumnType, DatasetContract, Missing
from trusted.errors import AppError, Reason

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(?:[0-9]{1,60}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,3})?")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_DAY_LETTERS = 10
_MOMENTS_KEPT = 4096  # a table has few different days, and reading one takes longer than all else of a row
_BOOLEAN = frozenset(("true", "false", "True", "False", "TRUE", "FALSE", "0", "1"))


class Broken(Enum):
    """Which rule a value breaks, in words that follow "row(s)"."""

    MISSING = "are empty where the contract says missing: refuse"
    TYPE = "are not of the contract's type"
    LOW = "are below the contract's low"
    HIGH = "are above the contract's high"
    VALUES = "are none of the contract's values"


@dataclass(frozen=True, slots=True)
class Breach:
    """One value that breaks a rule. It quotes the data: for the steward's own eyes. ``row`` counts from 1 in
    each file, below its header."""

    row: int
    column: str
    broken: Broken
    value: str = field(repr=False)


Check = Callable[[str], Broken | None]
Saw = Callable[[Breach], None]


class Gate:
    """Lets the rows of one data set in, one after the other, by the rules of one contract at one moment.

    A row without consent, or whose time has passed, does not enter, and nothing else is asked of it. Values that break
    a rule are counted to the end, so that one look at the refusal is enough.
    """

    def __init__(self, contract: DatasetContract, now: datetime, saw: Saw | None = None) -> None:
        self.contract = contract
        self.broken: Counter[tuple[str, Broken]] = Counter()
        self.rows = 0
        self.without_consent = 0
        self.expired = 0
        self._read = 0
        self._now = aware(now).astimezone(UTC)
        self._saw = saw
        self._places: list[int] = []
        self._checks: list[tuple[int, str, Check]] = []
        self._consent, self._expires, self._width = -1, -1, 0

    def begin(self, header: Sequence[str]) -> None:
        """The rows that come next stand below ``header``.

        Raises:
            AppError: DATA_CONTRACT: a column of the contract is missing, or stands there twice.
        """
        contract = self.contract
        for column in contract.needed:
            if header.count(column) != 1:
                raise breach(f"column {column!r} of plan.dataset must be in each file once")
        places = {column: header.index(column) for column in contract.needed}
        self._width, self._read = len(header), 0
        self._places = [places[column] for column in contract.columns]
        self._checks = [(places[rule.name], rule.name, check_of(rule)) for rule in contract.rules]
        self._consent = -1 if contract.consent is None else places[contract.consent.column]
        self._expires = places[contract.expires] if contract.expires else -1

    def take(self, row: Sequence[str]) -> list[str] | None:
        """The contract's columns of ``row``, or None where it does not enter.

        Raises:
            AppError: DATA_CONTRACT: another number of fields than the header.
        """
        if len(row) != self._width:
            raise breach("a row has more or fewer fields than the header")
        self._read += 1
        if not self._enters(row):
            return None
        for place, column, check in self._checks:
            broken = check(row[place])
            if broken is not None:
                self._tally(column, broken, row[place])
        self.rows += 1
        return [row[place] for place in self._places]

    def close(self) -> None:
        """Refuse the data set unless every row held and enough of them entered.

        Raises:
            AppError: DATA_VALUES, DATA_CONTRACT.
        """
        if self.broken:
            (column, broken), count = next(iter(self.broken.items()))
            more = len(self.broken) - 1
            rest = f"; {more} more rule(s) are broken" if more else ""
            raise AppError(Reason.DATA_VALUES, f"data: column {column!r}: {count} row(s) {broken.value}{rest}")
        if self.rows < self.contract.min_rows:
            raise breach("fewer rows than plan.dataset.min_rows")

    def _enters(self, row: Sequence[str]) -> bool:
        consent = self.contract.consent
        if consent is not None and row[self._consent] != consent.value:
            self.without_consent += 1
            return False
        if self._expires >= 0 and self._has_passed(row[self._expires]):
            self.expired += 1
            return False
        return True

    def _has_passed(self, text: str) -> bool:
        """Whether a row's time is over; one without a time has none left. A day lasts to its end in UTC."""
        if not text:
            return True
        if moment_of(text) is None:
            self._tally(self.contract.expires, Broken.TYPE, text)
            return True
        if len(text) == _DAY_LETTERS:
            return date.fromisoformat(text) < self._now.date()
        return moment_of(text) < self._now  # type: ignore[operator]

    def _tally(self, column: str, broken: Broken, value: str) -> None:
        self.broken[column, broken] += 1
        if self._saw is not None:
            self._saw(Breach(self._read, column, broken, value))


def breach(rule: str) -> AppError:
    """A refusal of data whose form or size is not the contract's."""
    return AppError(Reason.DATA_CONTRACT, f"data: {rule}")


@lru_cache(maxsize=_MOMENTS_KEPT)
def moment_of(text: str) -> datetime | None:
    """The time that ``text`` spells in ISO 8601, or the first moment of a day; without a zone it is UTC. Else None."""
    if not _MOMENT.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def number_of(text: str) -> float | None:
    """The finite number that ``text`` spells, or None."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def check_of(rule: ColumnRule) -> Check:
    """What tells whether one value keeps ``rule``."""
    held = _CHECKS[rule.type](rule)
    when_empty = None if rule.missing is Missing.ALLOW else Broken.MISSING

    def check(text: str) -> Broken | None:
        return held(text) if text else when_empty

    return check


def _integer(rule: ColumnRule) -> Check:
    low, high = rule.low, rule.high

    def check(text: str) -> Broken | None:
        if not _INTEGER.fullmatch(text):
            return Broken.TYPE
        return _within(int(text), low, high)

    return check


def _number(rule: ColumnRule) -> Check:
    low, high = rule.low, rule.high

    def check(text: str) -> Broken | None:
        value = number_of(text)
        return Broken.TYPE if value is None else _within(value, low, high)

    return check


def _within(value: float, low: object, high: object) -> Broken | None:
    if isinstance(low, int | float) and value < low:
        return Broken.LOW
    if isinstance(high, int | float) and value > high:
        return Broken.HIGH
    return None


def _date(rule: ColumnRule) -> Check:
    low, high = rule.low, rule.high

    def check(text: str) -> Broken | None:
        if moment_of(text) is None:
            return Broken.TYPE
        day = text[:_DAY_LETTERS]  # as written; days in ISO form order as text
        if isinstance(low, str) and day < low:
            return Broken.LOW
        return Broken.HIGH if isinstance(high, str) and day > high else None

    return check


def _category(rule: ColumnRule) -> Check:
    known = frozenset(rule.values)
    return lambda text: None if text in known else Broken.VALUES


def _boolean(_: ColumnRule) -> Check:
    return lambda text: None if text in _BOOLEAN else Broken.TYPE


def _text(_: ColumnRule) -> Check:
    return lambda _: None


_CHECKS: dict[ColumnType, Callable[[ColumnRule], Check]] = {
    ColumnType.INTEGER: _integer,
    ColumnType.NUMBER: _number,
    ColumnType.DATE: _date,
    ColumnType.CATEGORY: _category,
    ColumnType.BOOLEAN: _boolean,
    ColumnType.TEXT: _text,
}
