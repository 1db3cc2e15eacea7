"""What each site's data must be, in sentences for the person who is asked to sign. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator

from trusted.documents.terms import ColumnRule, ColumnType, DatasetContract, Missing
from trusted.documents.terms.columns import Bound

_VALUES_SHOWN = 12
_KINDS = {
    ColumnType.INTEGER: "whole numbers",
    ColumnType.NUMBER: "numbers",
    ColumnType.CATEGORY: "one of the values",
    ColumnType.TEXT: "text",
    ColumnType.DATE: "days or times",
    ColumnType.BOOLEAN: "true or false",
}


def explain_dataset(contract: DatasetContract) -> Iterator[str]:
    """Which columns the app gets, what their values must be, which rows enter, and how many there must be."""
    yield f"Data: the columns {', '.join(contract.columns)}; at least {contract.min_rows} row(s) at each site."
    yield from map(_column, contract.rules)
    if contract.rules:
        yield "A site whose data breaks one of these does not take part; its worker says which rule, and no value."
    if contract.consent is not None:
        consent = contract.consent
        yield f'Only rows whose column {consent.column} is exactly "{consent.value}" are used.'
    if contract.expires:
        yield (
            f"Rows whose time in column {contract.expires} has passed, or that have none, are not used; "
            "the worker looks when it starts."
        )
    hidden = [column for column in contract.needed if column not in contract.columns]
    if hidden:
        yield f"The app does not see {', '.join(hidden)}; which rows it sees depends on it."
    yield "Each site's rows are committed to in the run's ledger, which hides them."


def _column(rule: ColumnRule) -> str:
    values = f" {', '.join(rule.values[:_VALUES_SHOWN])}" if rule.values else ""
    more = len(rule.values) - _VALUES_SHOWN
    values += f" and {more} more" if more > 0 else ""
    unit = f" in {rule.unit}" if rule.unit else ""
    low = "" if rule.low is None else f", at least {_bound(rule.low)}"
    high = "" if rule.high is None else f", at most {_bound(rule.high)}"
    empty = "may be empty" if rule.missing is Missing.ALLOW else "never empty"
    return f"Column {rule.name}: {_KINDS[rule.type]}{values}{unit}{low}{high}; {empty}."


def _bound(bound: Bound) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
