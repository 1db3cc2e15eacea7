"""``plan.evaluation`` and ``plan.metrics``: what is out of bounds is refused, and what is absent changes no byte."""

from __future__ import annotations

from typing import Any

import pytest

from tests.documents import consortium as c
from trusted.documents.explain import explain_plan
from trusted.documents.plan import Plan
from trusted.documents.terms import Evaluation, MetricRule
from trusted.documents.terms.evaluation import MAX_COUNTS, Subgroup
from trusted.errors import ProtocolError, Reason
from trusted.wire import encode_json

CHARTER = c.charter()
TERMS: dict[str, Any] = {
    "task": "binary-classification",
    "label": {"column": "visits", "at_least": 5},
    "threshold": 0.25,
    "bins": 100,
    "subgroups": [{"column": "age", "edges": [18, 65.5]}],
    "min_cell": 10,
    "min_sites": 3,
    "digits": 3,
    "count_base": 5,
    "per_site": False,
    "audit": {"shadows": 4, "calls": 3},
}


def plan(**changes: Any) -> dict[str, Any]:
    return c.plan_json(CHARTER, evaluation={**TERMS, **changes})


def refused(document: dict[str, Any]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        Plan.from_json(document)
    return caught.value.reason


def test_an_evaluation_survives_encoding():
    payload = encode_json(plan())
    found = Plan.parse(payload)
    assert found.encode() == payload
    assert found.evaluation is not None
    assert found.evaluation.threshold_bin == 25
    assert found.evaluation.counts == 2 * 100 * (1 + 4 + 2)


def test_a_plan_without_one_has_the_bytes_that_it_had():
    payload = encode_json(c.plan_json(CHARTER))
    assert Plan.parse(payload).evaluation is None
    assert Plan.parse(payload).encode() == payload
    assert b"evaluation" not in payload
    assert b"min_rows" not in encode_json(MetricRule("auc", 2, 3).to_json())


@pytest.mark.parametrize("field", [*TERMS])
def test_a_missing_field_is_refused_but_for_the_audit(field):
    document = c.without(plan(), f"evaluation.{field}")
    if field == "audit":
        assert Plan.from_json(document).evaluation.audit is None
    else:
        assert refused(document) is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    "changes",
    [
        {"label": {"column": "income", "at_least": 5}},
        {"subgroups": [{"column": "income", "edges": [1]}]},
        {"subgroups": [{"column": "age", "edges": []}]},
        {"subgroups": [{"column": "age", "edges": [65, 18]}]},
        {"subgroups": [{"column": "age", "edges": [18, 18]}]},
        {"subgroups": [{"column": "age", "values": []}]},
        {"subgroups": [{"column": "age", "values": ["1", "1.0"]}]},
        {"subgroups": [{"column": "age", "values": ["other"]}]},
        {"subgroups": [{"column": "age", "edges": [1]}, {"column": "age", "edges": [2]}]},
        {"threshold": 0.255},
        {"min_sites": 4},
        {"bins": 1000, "subgroups": [{"column": "age", "edges": list(range(20))}]},
        {"audit": {"shadows": 1, "calls": 1}},
        {"unseen": ["visits"]},
        {"unseen": ["income"]},
        {"unseen": []},
        {"unseen": ["age", "age"]},
    ],
)
def test_terms_that_break_a_rule_are_refused(changes):
    assert refused(plan(**changes)) is Reason.DOCUMENT_RULE


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "regression"},
        {"min_cell": 4},
        {"min_sites": 1},
        {"digits": 5},
        {"count_base": 0},
        {"bins": 1},
        {"threshold": 1.01},
        {"audit": {"shadows": 17, "calls": 1}},
        {"audit": {"shadows": 2, "calls": 0}},
    ],
)
def test_numbers_out_of_bounds_are_refused(changes):
    assert refused(plan(**changes)) is Reason.MALFORMED


def test_an_unknown_field_is_refused():
    assert refused(plan(more=1)) is Reason.UNKNOWN_FIELD
    both = {"column": "age", "edges": [1], "values": ["1"]}
    assert refused(plan(subgroups=[both])) is Reason.UNKNOWN_FIELD


def test_the_tables_of_any_plan_fit_into_one_message():
    assert 8 * MAX_COUNTS < 1 << 18


@pytest.mark.parametrize(
    ("text", "cell"), [("17.9", 0), ("18", 1), ("65.4", 1), ("65.5", 2), ("-1e9", 0), ("", 3), ("nan", 3), ("x", 3)]
)
def test_a_band_holds_its_lower_edge_and_words_are_other(text, cell):
    assert Subgroup("age", edges=(18.0, 65.5)).cell_of(text) == cell


def test_cells_have_names_that_people_read():
    assert Subgroup("age", edges=(18.0, 65.5)).cells == ("under 18", "18 to under 65.5", "65.5 and over", "other")
    assert Subgroup("sex", values=("f", "m")).cells == ("f", "m", "other")


def test_a_metric_may_ask_for_rows():
    rule = MetricRule.read({"name": "auc", "min_sites": 2, "digits": 3, "min_rows": 50})
    assert MetricRule.read(rule.to_json()) == rule
    with pytest.raises(ProtocolError):
        MetricRule.read({"name": "auc", "min_sites": 2, "digits": 3, "min_rows": 0})


def test_a_signer_is_told_in_words():
    metrics = [{"name": "loss", "min_sites": 3, "digits": 3, "min_rows": 40}]
    document = Plan.from_json(c.plan_json(CHARTER, evaluation=TERMS, metrics=metrics))
    said = " ".join(explain_plan(document, CHARTER.document))
    assert "is visits at least 5?" in said
    assert "Judged apart by age: under 18, 18 to under 65.5, 65.5 and over, other." in said
    assert "fewer than 10 positive and 10 negative rows, or of fewer than 3 sites" in said
    assert "No figure of a single site becomes public." in said
    assert "with 4 shadow models" in said
    assert "at least 3 sites of at least 40 rows each" in said
    hidden = Plan.from_json(c.plan_json(CHARTER, evaluation={**TERMS, "unseen": ["age"]}))
    assert "The app does not see this column." in " ".join(explain_plan(hidden, CHARTER.document))
    assert Plan.parse(hidden.encode()) == hidden
    without = " ".join(explain_plan(Plan.from_json(c.plan_json(CHARTER)), CHARTER.document))
    assert "not judged inside" in without
    assert Evaluation.read(TERMS).to_json() == {**TERMS, "threshold": 0.25}
