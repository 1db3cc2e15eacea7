"""``cloister privacy estimate``, and what ``plan new|explain`` say of a privacy mechanism."""

from __future__ import annotations

import math

import pytest

from coordinator.enclave.privacy.accountant import Accountant
from tests.console.conftest import Cloister, Consortium
from trusted.documents.explain_privacy import most_right
from trusted.documents.terms import Budget, MemberClipping

CLIPPING = "member-clipping,clip_norm=1,noise_multiplier=4,epsilon=3,delta=1e-5"


def test_an_estimate_says_what_rounds_cost_and_what_would_fit(cloister: Cloister) -> None:
    answer = cloister("privacy", "estimate", "--privacy", CLIPPING, "--rounds", "10")
    assert answer.code == 0
    found, costs = answer.data, Accountant(MemberClipping(1.0, 4.0), 1e-5)
    assert found["unit"] == "member"
    assert found["epsilon"] == costs.epsilon(10)
    assert not found["fits"]
    assert costs.epsilon(found["most_rounds"]) <= 3.0 < costs.epsilon(found["most_rounds"] + 1)
    least = found["least_noise_multiplier"]
    assert Accountant(MemberClipping(1.0, least), 1e-5).epsilon(10) <= 3.0
    assert Accountant(MemberClipping(1.0, least * 0.994), 1e-5).epsilon(10) > 3.0
    assert [entry["round"] for entry in found["epsilon_after"]] == list(range(1, 11))


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--privacy", CLIPPING],
        ["--privacy", "member-clipping,clip_norm", "--rounds", "1"],
        ["--privacy", "member-clipping,clip_norm=one", "--rounds", "1"],
        ["--privacy", "none,reason=1", "--rounds", "1"],
        ["--privacy", f"{CLIPPING},epsilon=2", "--rounds", "1"],
    ],
)
def test_what_does_not_read_is_said(cloister: Cloister, given: list[str]) -> None:
    answer = cloister("privacy", "estimate", *given)
    assert answer.code != 0
    assert answer.error["hint"]


def test_a_plan_with_a_mechanism_is_made_explained_and_estimated(chartered: Consortium, cloister: Cloister) -> None:
    options = [option for option in chartered.plan_options if option not in ("--no-privacy-because",)]
    options.remove("all recipients are members")
    plan = chartered / "plan.dsse.json"
    made = cloister("plan", "new", *options, "--privacy", CLIPPING, "--out", plan)
    assert made.code == 0
    assert made.data["plan"]["aggregation"]["max_weight"] == 1
    words = " ".join(cloister("plan", "explain", plan, "--charter", chartered / "charter.dsse.json").data["sentences"])
    assert "Privacy unit: the member" in words
    assert "right at most 95.26 % of the time" in words
    assert "All 5 round(s)" in words
    assert cloister("privacy", "estimate", "--plan", plan).data["fits"]
    assert cloister("plan", "new", *options, "--out", plan, "--force").code != 0  # neither a mechanism nor a reason


def test_a_plan_whose_budget_ends_before_its_rounds_says_so(chartered: Consortium, cloister: Cloister) -> None:
    options = [option for option in chartered.plan_options if option not in ("--no-privacy-because",)]
    options.remove("all recipients are members")
    plan = chartered / "plan.dsse.json"
    terms = CLIPPING.replace("epsilon=3", "epsilon=1.4")
    assert cloister("plan", "new", *options, "--privacy", terms, "--out", plan).code == 0
    words = cloister("plan", "explain", plan, "--charter", chartered / "charter.dsse.json").data["sentences"]
    assert any(sentence.startswith("WARNING: the budget pays for 2 of 5 round(s)") for sentence in words)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 1e-9), (1.0, 1e-5), (8.0, 1e-3)])
def test_the_best_guess_is_bounded_as_the_definition_says(epsilon: float, delta: float) -> None:
    """For every false-positive rate: a test of two neighbours is right half of TPR + (1 - FPR), within both bounds."""
    bound = most_right(Budget(epsilon, delta))
    best = 0.0
    for place in range(10_001):
        false = place / 10_000
        true = min(1.0, math.exp(epsilon) * false + delta, 1 - math.exp(-epsilon) * (1 - delta - false))
        best = max(best, (true + 1 - false) / 2)
    assert best <= bound + 1e-12
    assert bound - best < 1e-3
