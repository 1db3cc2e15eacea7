"""What a plan's contract says of a steward's data, in full. Trust zone: the data steward's own machine.

Unlike a worker, which counts and names rules, this shows rows and values: it is the steward's own data and screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from console.output import Report
from console.tables import Table
from trusted.documents.terms import ColumnRule, ColumnType, DatasetContract
from trusted.documents.terms.columns import Bound
from trusted.errors import AppError
from trusted.row_commitment import RowCommitment
from worker.contract import Breach, Broken, Gate, moment_of, number_of

MAX_EXAMPLES = 10  # of each column: enough to see what is wrong
_MAX_SHOWN = 40  # letters of a value
_NOTHING = "-"


@dataclass(slots=True)
class ColumnSeen:
    """What one column of the plan held, in the rows that enter."""

    name: str
    rule: ColumnRule | None
    missing: int = 0
    low: str = ""
    high: str = ""
    broken: Counter[Broken] = field(default_factory=Counter)
    examples: list[tuple[str, Breach]] = field(default_factory=list)
    _low: Any = None
    _high: Any = None

    def see(self, text: str) -> None:
        """Take in one value."""
        if not text:
            self.missing += 1
            return
        value = self._ordered(text)
        if value is None:
            return
        if self._low is None or value < self._low:
            self._low, self.low = value, text
        if self._high is None or value > self._high:
            self._high, self.high = value, text

    def _ordered(self, text: str) -> Any:
        if self.rule is None:
            return None
        if self.rule.type in (ColumnType.INTEGER, ColumnType.NUMBER):
            return number_of(text)
        return moment_of(text) if self.rule.type is ColumnType.DATE else None

    @property
    def holds(self) -> bool:
        """Whether no value broke a rule."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """For programs; ``examples`` hold values of the data."""
        examples = [
            {"file": name, "row": one.row, "rule": one.broken.name.lower(), "value": one.value}
            for name, one in self.examples
        ]
        return {
            "name": self.name,
            "contract": None if self.rule is None else self.rule.to_json(),
            "missing": self.missing,
            "lowest": self.low or None,
            "highest": self.high or None,
            "broken": {broken.name.lower(): count for broken, count in self.broken.items()},
            "examples": examples,
        }


@dataclass(slots=True)
class Checked:
    """The verdict, and all that led to it."""

    contract: DatasetContract
    columns: dict[str, ColumnSeen]
    files: list[str]
    gate: Gate
    commitment: RowCommitment | None
    refusal: AppError | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        refusal = None if self.refusal is None else {"code": self.refusal.reason.code, "detail": self.refusal.detail}
        return {
            "verdict": "holds" if self.refusal is None else "refused",
            "refusal": refusal,
            "files": self.files,
            "rows": self.gate.rows,
            "min_rows": self.contract.min_rows,
            "without_consent": self.gate.without_consent,
            "expired": self.gate.expired,
            "columns": [column.to_json() for column in self.columns.values()],
            "commitment": None if self.commitment is None else self.commitment.digest().hex(),
        }


def check(found: Iterable[Table], contract: DatasetContract, now: datetime, secret: bytes | None = None) -> Checked:
    """Hold all tables against ``contract`` as a worker would at the time ``now``.

    ``secret`` of a sealed file (32 bytes) gives the commitment that its worker will make.

    Raises:
        AppError, BlobError, UserError: a file cannot be read at all.
    """
    rules = contract.rule_of
    columns = {name: ColumnSeen(name, rules.get(name)) for name in contract.needed}
    files: list[str] = []

    def saw(breach: Breach) -> None:
        column = columns[breach.column]
        column.broken[breach.broken] += 1
        if len(column.examples) < MAX_EXAMPLES:
            column.examples.append((files[-1], breach))

    gate = Gate(contract, now, saw)
    made = None if secret is None else RowCommitment(contract.columns, secret)
    checked = Checked(contract, columns, files, gate, made)
    try:
        for table in found:
            files.append(table.name)
            gate.begin(table.header)
            _take(table, gate, columns, made)
        gate.close()
    except AppError as error:
        checked.refusal = error
    return checked


def _take(table: Table, gate: Gate, columns: dict[str, ColumnSeen], made: RowCommitment | None) -> None:
    seen = [columns[name] for name in gate.contract.columns]
    for row in table.rows:
        entered = gate.take(row)
        if entered is None:
            continue
        for column, text in zip(seen, entered, strict=True):
            column.see(text)
        if made is not None:
            made.add(entered)


def show_checked(report: Report, checked: Checked) -> None:
    """Print the verdict, a row for each column, and what is wrong where."""
    gate, contract = checked.gate, checked.contract
    shown = (*contract.columns, *(name for name in contract.needed if not checked.columns[name].holds))
    rows = [("column", "contract", "empty", "lowest", "highest", "verdict")]
    rows += [_row(checked.columns[name]) for name in dict.fromkeys(shown)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    report.say(
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    )
    report.say("")
    left_out = [f"{count} {why}" for count, why in _left_out(gate) if count]
    report.say(
        f"{gate.rows} row(s) enter{'; left out: ' + ', '.join(left_out) if left_out else ''}. "
        f"The plan asks for at least {contract.min_rows}."
    )
    for column in checked.columns.values():
        for name, one in column.examples:
            report.say(f"  {name}, row {one.row}: {column.name} is {_short(one.value)}; {_why(column, one.broken)}")
        more = sum(column.broken.values()) - len(column.examples)
        if more > 0:
            report.say(f"  … and {more} more in {column.name}")


def _left_out(gate: Gate) -> tuple[tuple[int, str], ...]:
    return (gate.without_consent, "without consent"), (gate.expired, "past their time, or without one")


def _row(column: ColumnSeen) -> tuple[str, str, str, str, str, str]:
    count = sum(column.broken.values())
    verdict = ("holds" if column.rule is not None else "not checked") if column.holds else f"BREAKS in {count}"
    said = _NOTHING if column.rule is None else terms(column.rule)
    return column.name, said, str(column.missing), column.low or _NOTHING, column.high or _NOTHING, verdict


def bound_in_words(bound: Bound) -> str:
    """A bound as people write it; nothing where there is none."""
    return "" if bound is None else f"{bound:g}" if isinstance(bound, float) else str(bound)


def terms(rule: ColumnRule) -> str:
    """``integer 0..120 years``: the rule in a cell."""
    low, high = (bound_in_words(bound) for bound in (rule.low, rule.high))
    within = f" {low}..{high}" if low or high else ""
    among = f" of {len(rule.values)}" if rule.values else ""
    unit = f" {rule.unit}" if rule.unit else ""
    return f"{rule.type.value}{among}{within}{unit}"


def _why(column: ColumnSeen, broken: Broken) -> str:
    if column.rule is None:
        return "the contract wants a day (YYYY-MM-DD) or a time in ISO 8601"
    wanted = {
        Broken.MISSING: "the contract wants a value",
        Broken.TYPE: f"the contract wants {_SPELLED[column.rule.type]}",
        Broken.LOW: f"the contract wants at least {bound_in_words(column.rule.low)}",
        Broken.HIGH: f"the contract wants at most {bound_in_words(column.rule.high)}",
        Broken.VALUES: f"the contract wants one of {', '.join(column.rule.values[:8])}",
    }
    return wanted[broken]


_SPELLED = {
    ColumnType.INTEGER: "a whole number, like 42",
    ColumnType.NUMBER: "a number, like 42.5",
    ColumnType.DATE: "a day (YYYY-MM-DD) or a time in ISO 8601",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.CATEGORY: "one of its values",
    ColumnType.TEXT: "text",
}


def _short(value: str) -> str:
    return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…") if value else "empty"
