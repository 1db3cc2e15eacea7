"""How updates are folded, as a person asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from console.folding import Folding, describe
from console.options import FoldingRule
from console.output import UserError
from tests.console.conftest import Cloister, Consortium
from trusted.documents.terms import Aggregation, Rule


def asked(minimum: int = 9, **options: Any) -> dict[str, Any]:
    return Folding(**options).to_json(1000, minimum)


def test_the_rules_that_can_be_asked_for_are_those_that_plans_have() -> None:
    assert [rule.value for rule in FoldingRule] == [rule.value for rule in Rule]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {"rule": "weighted-mean"}),
        ({"rule": "median"}, {"rule": "median"}),
        ({"rule": "trimmed-mean", "false_sites": 2}, {"rule": "trimmed-mean", "trim": 2}),
        ({"rule": "krum", "false_sites": 2}, {"rule": "krum", "byzantine": 2}),
        ({"rule": "multi-krum", "false_sites": 2}, {"rule": "multi-krum", "byzantine": 2, "kept": 5}),
        ({"rule": "multi-krum", "false_sites": 2, "kept": 3}, {"rule": "multi-krum", "byzantine": 2, "kept": 3}),
        ({"rule": "geometric-median"}, {"rule": "geometric-median", "iterations": 100, "smoothing": 1e-6}),
        (
            {"server": "adam:learning_rate=0.01"},
            {
                "rule": "weighted-mean",
                "server": {"optimizer": "adam", "learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001},
            },
        ),
        ({"proximal_mu": 0.5}, {"rule": "weighted-mean", "proximal_mu": 0.5}),
    ],
)
def test_options_become_the_terms_of_the_plan(options: dict[str, Any], found: dict[str, Any]) -> None:
    document = asked(**options)
    assert document == {"max_weight": 1000} | found
    assert Aggregation.read(document).to_json() == document
    assert describe(Aggregation.read(document)).startswith(document["rule"])


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"rule": "krum"}, "Give --false-sites."),
        ({"rule": "trimmed-mean"}, "Give --false-sites."),
        ({"rule": "median", "false_sites": 1}, "Leave --false-sites out."),
        ({"rule": "krum", "false_sites": 1, "kept": 2}, "Leave --kept out."),
        ({"rule": "krum", "false_sites": 4}, "Give --minimum 11 or more"),
        ({"rule": "multi-krum", "false_sites": 2, "kept": 6}, "Give --minimum 10 or more"),
        ({"server": "sgd"}, "One of momentum, adam, yogi, adagrad."),
        ({"server": "momentum:tau=1"}, "--server momentum:learning_rate=1,beta_1=0.9"),
        ({"server": "adam:tau=much"}, "--server adam:learning_rate=0.1"),
        ({"server": "adam:"}, "--server adam:learning_rate=0.1"),
    ],
)
def test_an_option_that_does_not_fit_is_told_with_what_to_do(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        asked(**options)
    assert hint in caught.value.hint


def test_plan_new_writes_shows_and_explains_the_rule(chartered: Consortium, cloister: Cloister) -> None:
    plan, charter = chartered / "robust.dsse.json", ["--charter", chartered / "charter.dsse.json"]
    options = ["--rule", "trimmed-mean", "--false-sites", "1", "--minimum", "3", "--server", "yogi"]
    made = cloister("plan", "new", *chartered.plan_options, *options, "--proximal-mu", "0.1", "--out", plan)
    aggregation = made.data["plan"]["aggregation"]
    assert (aggregation["rule"], aggregation["trim"], aggregation["proximal_mu"]) == ("trimmed-mean", 1, 0.1)
    said = cloister("plan", "explain", plan, *charter, json=False).stdout
    assert "FedYogi" in said
    shown = cloister("plan", "show", plan, *charter, json=False).stdout
    assert "trimmed-mean, then yogi; proximal term 0.1" in shown
    refused = cloister("plan", "new", *chartered.plan_options, "--rule", "krum", "--false-sites", "1", "--force")
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert "--minimum 5" in refused.error["hint"]
