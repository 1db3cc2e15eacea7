"""Each rule of the data-set contract, with what just keeps it and what just breaks it; and who enters at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.documents.terms import ColumnRule, ColumnType, Consent, DatasetContract, Missing
from trusted.errors import AppError, Reason
from worker.contract import Breach, Broken, Gate, check_of, moment_of, number_of

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
INTEGER = ColumnRule("x", ColumnType.INTEGER, low=-2, high=10)
NUMBER = ColumnRule("x", ColumnType.NUMBER, unit="mmHg", low=0.5, high=300)
DATE = ColumnRule("x", ColumnType.DATE, low="2020-02-29", high="2026-12-31")
CATEGORY = ColumnRule("x", ColumnType.CATEGORY, values=("f", "m"))
BOOLEAN = ColumnRule("x", ColumnType.BOOLEAN)
TEXT = ColumnRule("x", ColumnType.TEXT)
MAY_MISS = ColumnRule("x", ColumnType.NUMBER, missing=Missing.ALLOW)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (INTEGER, "-2"), (INTEGER, "10"), (INTEGER, "0"), (INTEGER, "-0"),
        (NUMBER, "0.5"), (NUMBER, "300"), (NUMBER, "3e2"), (NUMBER, "120."), (NUMBER, "007.5"), (NUMBER, "1E+1"),
        (DATE, "2020-02-29"), (DATE, "2026-12-31"), (DATE, "2026-12-31T23:59:59Z"),
        (DATE, "2025-01-01 08:00:00.5+01:00"),
        (CATEGORY, "f"), (CATEGORY, "m"), (BOOLEAN, "true"), (BOOLEAN, "False"), (BOOLEAN, "1"),
        (TEXT, "anything,\n\u00e9"), (MAY_MISS, ""), (MAY_MISS, "-1e300"),
    ],
)  # fmt: skip
def test_what_keeps_a_rule_passes(rule: ColumnRule, text: str) -> None:
    assert check_of(rule)(text) is None


@pytest.mark.parametrize(
    ("rule", "text", "broken"),
    [
        (INTEGER, "-3", Broken.LOW), (INTEGER, "11", Broken.HIGH), (INTEGER, "1.0", Broken.TYPE),
        (INTEGER, "+1", Broken.TYPE), (INTEGER, "01", Broken.TYPE), (INTEGER, " 1", Broken.TYPE),
        (INTEGER, "\u0661", Broken.TYPE), (INTEGER, "1_0", Broken.TYPE), (INTEGER, "9" * 19, Broken.TYPE),
        (INTEGER, "", Broken.MISSING),
        (NUMBER, "0.49999999999999994", Broken.LOW), (NUMBER, "300.00000000000006", Broken.HIGH),
        (NUMBER, "nan", Broken.TYPE), (NUMBER, "inf", Broken.TYPE), (NUMBER, "1e999", Broken.TYPE),
        (NUMBER, "1,5", Broken.TYPE), (NUMBER, "0x10", Broken.TYPE), (NUMBER, "1 ", Broken.TYPE),
        (NUMBER, ".", Broken.TYPE), (NUMBER, "-", Broken.TYPE), (NUMBER, "NA", Broken.TYPE),
        (NUMBER, "", Broken.MISSING),
        (DATE, "2020-02-28", Broken.LOW), (DATE, "2027-01-01", Broken.HIGH),
        (DATE, "2027-01-01T00:00:00Z", Broken.HIGH),
        (DATE, "2021-02-29", Broken.TYPE), (DATE, "20210228", Broken.TYPE), (DATE, "28.02.2021", Broken.TYPE),
        (DATE, "2021-2-1", Broken.TYPE), (DATE, "2021-02-01T25:00:00Z", Broken.TYPE), (DATE, "2021-W05-1", Broken.TYPE),
        (CATEGORY, "F", Broken.VALUES), (CATEGORY, "f ", Broken.VALUES), (CATEGORY, "", Broken.MISSING),
        (BOOLEAN, "yes", Broken.TYPE), (BOOLEAN, "2", Broken.TYPE), (TEXT, "", Broken.MISSING),
        (MAY_MISS, " ", Broken.TYPE),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named(rule: ColumnRule, text: str, broken: Broken) -> None:
    assert check_of(rule)(text) is broken


def gate(now: datetime = NOW, saw: list[Breach] | None = None, **terms: object) -> Gate:
    contract = DatasetContract(1, ("age", "sbp"), **terms)  # type: ignore[arg-type]
    made = Gate(contract, now, None if saw is None else saw.append)
    made.begin(["name", "age", "sbp", "consent", "until"])
    return made


def refused(gate: Gate) -> AppError:
    with pytest.raises(AppError) as error:
        gate.close()
    return error.value


def test_a_refusal_counts_the_rows_and_names_column_and_rule_and_no_value() -> None:
    rules = (ColumnRule("age", ColumnType.INTEGER, high=120), ColumnRule("sbp", ColumnType.NUMBER, low=40))
    judged = gate(rules=rules)
    for age, sbp in (("36", "120"), ("999", "39"), ("998", "120"), ("40", "x")):
        judged.take(["Ada", age, sbp, "yes", ""])
    error = refused(judged)
    assert error.reason is Reason.DATA_VALUES
    assert "'age': 2 row(s)" in error.detail
    assert "2 more rule(s)" in error.detail
    assert not any(word in str(error) for word in ("999", "998", "39", "Ada", "name"))


def test_who_asks_is_shown_row_and_value_and_the_value_is_in_no_repr() -> None:
    seen: list[Breach] = []
    judged = gate(saw=seen, rules=(ColumnRule("age", ColumnType.INTEGER, high=120),))
    judged.take(["Ada", "36", "1", "yes", ""])
    judged.take(["Ada", "121", "1", "yes", ""])
    assert seen == [Breach(2, "age", Broken.HIGH, "121")]
    assert "121" not in repr(seen)


def test_a_row_without_consent_does_not_enter_and_nothing_else_is_asked_of_it() -> None:
    judged = gate(consent=Consent("consent", "yes"), rules=(ColumnRule("age", ColumnType.INTEGER),))
    assert judged.take(["Ada", "36", "1", "yes", ""]) == ["36", "1"]
    for consent in ("no", "", "Yes", "yes "):
        assert judged.take(["Bob", "withdrawn", "", consent, ""]) is None
    judged.close()
    assert (judged.rows, judged.without_consent) == (1, 4)


@pytest.mark.parametrize(
    "text",
    ["2026-03-01", "2026-03-02", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00", "2026-03-01T13:00:00+01:00"],
)
def test_a_row_enters_until_its_time_has_passed(text: str) -> None:
    assert gate(expires="until").take(["Ada", "36", "1", "", text]) == ["36", "1"]


@pytest.mark.parametrize("text", ["2026-02-28", "2026-03-01T11:59:59Z", "2026-03-01T12:59:59+01:00", ""])
def test_a_row_whose_time_has_passed_or_that_has_none_does_not_enter(text: str) -> None:
    judged = gate(expires="until")
    assert judged.take(["Ada", "36", "1", "", text]) is None
    assert judged.expired == 1
    assert refused(judged).reason is Reason.DATA_CONTRACT  # none is left


def test_the_day_is_that_of_utc_wherever_the_clock_stands() -> None:
    far_east = datetime(2026, 3, 2, 3, 0, tzinfo=timezone(timedelta(hours=12)))  # still the 1st in UTC
    assert gate(far_east, expires="until").take(["Ada", "36", "1", "", "2026-03-01"]) is not None


def test_an_expiry_that_is_no_time_breaks_the_contract() -> None:
    judged = gate(expires="until")
    assert judged.take(["Ada", "36", "1", "", "soon"]) is None
    assert refused(judged).reason is Reason.DATA_VALUES


def test_min_rows_counts_what_entered() -> None:
    judged = Gate(DatasetContract(2, ("age",), consent=Consent("ok", "1")), NOW)
    judged.begin(["age", "ok"])
    for row in (["1", "1"], ["2", "0"], ["3", "0"]):
        judged.take(row)
    assert "min_rows" in refused(judged).detail
    judged.take(["4", "1"])
    judged.close()


@pytest.mark.parametrize("header", [["age", "sbp", "until"], ["age", "sbp", "consent", "consent"], ["age", "consent"]])
def test_each_column_that_is_read_must_be_there_once(header: list[str]) -> None:
    judged = Gate(DatasetContract(1, ("age", "sbp"), consent=Consent("consent", "yes")), NOW)
    with pytest.raises(AppError) as error:
        judged.begin(header)
    assert error.value.reason is Reason.DATA_CONTRACT


def test_a_clock_without_a_zone_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="zone"):
        Gate(DatasetContract(1, ("age",)), datetime(2026, 3, 1))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_whatever_the_text_a_rule_gives_an_answer(text: str) -> None:
    for rule in (INTEGER, NUMBER, DATE, CATEGORY, BOOLEAN, TEXT, MAY_MISS):
        assert check_of(rule)(text) in {None, *Broken}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_that_python_writes_is_read_as_itself(value: float) -> None:
    assert number_of(repr(value)) == value


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_that_python_writes_is_read_as_itself(moment: datetime) -> None:
    assert moment_of(moment.isoformat()) == moment
