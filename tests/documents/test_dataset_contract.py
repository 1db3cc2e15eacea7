"""``plan.dataset``: what may stand in it, what may not, and that plans of names alone keep their bytes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.documents import consortium as c
from trusted.documents.plan import Plan
from trusted.documents.site_policy import effective, verify_site_policy
from trusted.documents.terms import ColumnRule, ColumnType, Consent, DatasetContract, Missing
from trusted.errors import DocumentError, ProtocolError, Reason
from trusted.wire import encode_json

CHARTER = c.charter()
FULL: dict[str, Any] = {
    "min_rows": 100,
    "columns": [
        {"name": "age", "type": "integer", "unit": "a", "low": 0, "high": 120},
        "visits",
        {"name": "sbp", "type": "number", "unit": "mm[Hg]", "low": 40.5, "missing": "allow"},
        {"name": "sex", "type": "category", "values": ["f", "m"]},
        {"name": "seen", "type": "date", "low": "2020-01-01", "high": "2026-12-31"},
        {"name": "smokes", "type": "boolean"},
        {"name": "note", "type": "text"},
    ],
    "consent": {"column": "consent", "value": "yes"},
    "expires": {"column": "until"},
}


def reason_of(dataset: Any) -> Reason:
    with pytest.raises(ProtocolError) as refused:
        DatasetContract.read(dataset)
    return refused.value.reason


def column(**changes: Any) -> dict[str, Any]:
    entry = {"name": "x", "type": "integer"} | changes
    return FULL | {"columns": [{key: value for key, value in entry.items() if value is not None}]}


def test_a_full_contract_is_read_and_survives_encoding() -> None:
    contract = DatasetContract.read(FULL)
    assert contract.columns == ("age", "visits", "sbp", "sex", "seen", "smokes", "note")
    assert contract.rule_of["sbp"] == ColumnRule("sbp", ColumnType.NUMBER, "mm[Hg]", low=40.5, missing=Missing.ALLOW)
    assert contract.consent == Consent("consent", "yes")
    assert contract.needed == (*contract.columns, "consent", "until")
    assert encode_json(contract.to_json()) == encode_json(FULL)


def test_a_plan_of_names_alone_has_the_bytes_that_it_always_had() -> None:
    document = c.plan_json(CHARTER)
    assert set(Plan.parse(encode_json(document)).to_json()["dataset"]) == {"min_rows", "columns"}
    assert Plan.parse(encode_json(document)).encode() == encode_json(document)


def test_a_column_that_decides_and_is_the_apps_too_is_needed_once() -> None:
    contract = DatasetContract.read(FULL | {"consent": {"column": "sex", "value": "f"}, "expires": {"column": "seen"}})
    assert contract.needed == contract.columns


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (column(type="float"), Reason.MALFORMED),
        (column(type=None), Reason.MISSING_FIELD),
        (column(name=None), Reason.MISSING_FIELD),
        (column(name="a\u202eb"), Reason.DOCUMENT_RULE),
        (column(unit="mm\nHg"), Reason.DOCUMENT_RULE),
        (column(unit=""), Reason.MALFORMED),
        (column(low=1.5), Reason.WRONG_TYPE),
        (column(low="1"), Reason.WRONG_TYPE),
        (column(low=True), Reason.WRONG_TYPE),
        (column(low=1 << 53), Reason.MALFORMED),
        (column(low=2, high=1), Reason.DOCUMENT_RULE),
        (column(values=["a"]), Reason.UNKNOWN_FIELD),
        (column(missing="maybe"), Reason.MALFORMED),
        (column(pattern=".*"), Reason.UNKNOWN_FIELD),
        (column(type="number", low=1.5, high=1.25), Reason.DOCUMENT_RULE),
        (column(type="category"), Reason.MISSING_FIELD),
        (column(type="category", values=[]), Reason.DOCUMENT_RULE),
        (column(type="category", values=["a", "a"]), Reason.DOCUMENT_RULE),
        (column(type="category", values=[""]), Reason.MALFORMED),
        (column(type="category", values=[1]), Reason.WRONG_TYPE),
        (column(type="category", values=[str(number) for number in range(1025)]), Reason.TOO_LARGE),
        (column(type="category", values=["a"], unit="a"), Reason.UNKNOWN_FIELD),
        (column(type="date", low="2020-02-30"), Reason.DOCUMENT_RULE),
        (column(type="date", low="1.2.2020"), Reason.DOCUMENT_RULE),
        (column(type="date", low=2020), Reason.WRONG_TYPE),
        (column(type="date", low="2020-02-02", high="2020-02-01"), Reason.DOCUMENT_RULE),
        (column(type="text", low=1), Reason.UNKNOWN_FIELD),
        (FULL | {"columns": ["x", {"name": "x", "type": "text"}]}, Reason.DOCUMENT_RULE),
        (FULL | {"columns": []}, Reason.DOCUMENT_RULE),
        (FULL | {"columns": [["x"]]}, Reason.WRONG_TYPE),
        (FULL | {"consent": {"column": "ok"}}, Reason.MISSING_FIELD),
        (FULL | {"consent": {"column": "ok", "value": ""}}, Reason.MALFORMED),
        (FULL | {"consent": "ok"}, Reason.WRONG_TYPE),
        (FULL | {"expires": {"column": "until", "grace": 3}}, Reason.UNKNOWN_FIELD),
        (FULL | {"expires": None}, Reason.WRONG_TYPE),
        (FULL | {"min_rows": 0}, Reason.MALFORMED),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(dataset: Any, reason: Reason) -> None:
    assert reason_of(dataset) is reason


def test_one_value_is_a_range_too() -> None:
    assert DatasetContract.read(column(low=3, high=3)).rules[0].low == 3


@pytest.mark.parametrize("deciding", [{"consent": {"column": "ok", "value": "1"}}, {"expires": {"column": "ok"}}])
def test_a_site_that_does_not_list_a_deciding_column_refuses(deciding: dict[str, Any]) -> None:
    """Which rows enter says something about the column that decides it."""
    dataset = {"min_rows": 1, "columns": ["age", "visits"]} | deciding
    plan = c.plan(CHARTER, c.plan_json(CHARTER, dataset=dataset))

    def policy(*columns: str) -> Any:
        document = c.site_policy_json(CHARTER, plan, columns=list(columns))
        from trusted.documents.site_policy import PAYLOAD_TYPE

        return verify_site_policy(c.signed(document, PAYLOAD_TYPE, ["hospital-a"]), CHARTER, c.NOW)

    assert effective(CHARTER, plan, policy("age", "visits", "ok")).columns == ("age", "visits")
    with pytest.raises(DocumentError) as refused:
        effective(CHARTER, plan, policy("age", "visits"))
    assert refused.value.reason is Reason.SITE_REFUSES
