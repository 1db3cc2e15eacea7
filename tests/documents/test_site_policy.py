"""A site can always refuse: the effective rule is what all three documents allow, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest

from tests.documents import consortium as c
from trusted.documents.plan import VerifiedPlan
from trusted.documents.site_policy import PAYLOAD_TYPE, EffectiveRule, SitePolicy, effective, verify_site_policy
from trusted.errors import ProtocolError, Reason
from trusted.wire import encode_json

CHARTER = c.charter()
PLAN = c.plan(CHARTER)
VALID = c.site_policy_json(CHARTER, PLAN)


def rule_of(
    document: object, now: datetime = c.NOW, by: Iterable[str] = ("hospital-a",), plan: VerifiedPlan = PLAN
) -> EffectiveRule:
    policy = verify_site_policy(c.signed(document, PAYLOAD_TYPE, by), CHARTER, now)
    return effective(CHARTER, plan, policy)


def refusal_of(document: object, **options: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as refused:
        rule_of(document, **options)
    return refused.value


def test_the_effective_rule_is_what_all_allow() -> None:
    rule = rule_of(VALID)
    assert (rule.member, rule.plan, rule.bundle_sha256) == ("hospital-a", PLAN.digest, c.BUNDLE)
    assert (rule.rounds, rule.columns, rule.min_rows) == (5, ("age", "visits"), 100)
    assert rule.not_after == c.NOW + 10 * c.DAY


def test_the_effective_rule_ends_with_the_first_document() -> None:
    assert rule_of(c.changed(VALID, "not_after", "2030-01-01T00:00:00Z")).not_after == c.NOW + 30 * c.DAY


def test_a_site_may_allow_more_than_one_plan_asks_for() -> None:
    generous = VALID | {
        "max_rounds": 10_000,
        "columns": ["visits", "name", "age"],
        "bundles": ["00" * 32, c.BUNDLE.hex()],
    }
    assert rule_of(generous).columns == ("age", "visits")


@pytest.mark.parametrize(
    ("bound", "value"),
    [
        ("plans", []),
        ("plans", ["00" * 32]),
        ("bundles", []),
        ("bundles", ["00" * 32]),
        ("max_rounds", 4),
        ("max_rounds", 0),
        ("columns", ["age"]),
        ("columns", []),
    ],
)
def test_each_bound_of_the_site_refuses_by_name(bound: str, value: object) -> None:
    refused = refusal_of(VALID | {bound: value})
    assert refused.reason is Reason.SITE_REFUSES
    assert bound in refused.detail


def test_a_site_outside_the_cohort_refuses() -> None:
    cohort = {"members": ["bank-c", "lab-b"], "minimum": 2, "size": 2}
    plan = c.plan(CHARTER, c.plan_json(CHARTER, cohort=cohort, metrics=[]))
    refused = refusal_of(c.site_policy_json(CHARTER, plan), plan=plan)
    assert refused.reason is Reason.SITE_REFUSES
    assert "member" in refused.detail


@pytest.mark.parametrize("by", [(), ("lab-b",), ("lab-b", "bank-c")])
def test_others_cannot_write_a_sites_policy(by: tuple[str, ...]) -> None:
    assert refusal_of(VALID, by=by).reason is Reason.THRESHOLD


def test_only_the_site_itself_counts_as_signer() -> None:
    assert verify_site_policy(c.signed(VALID, PAYLOAD_TYPE), CHARTER, c.NOW).signers == {"hospital-a"}


def test_a_policy_under_another_charter_is_refused() -> None:
    assert refusal_of(VALID | {"charter": "00" * 32}).reason is Reason.DOCUMENT_DIGEST


def test_a_plan_under_another_charter_is_refused() -> None:
    other = c.charter(c.charter_json(name="Other"))
    foreign = c.plan(other)
    assert refusal_of(VALID | {"plans": [foreign.digest.hex()]}, plan=foreign).reason is Reason.DOCUMENT_DIGEST


def test_a_policy_of_a_stranger_is_refused() -> None:
    assert refusal_of(VALID | {"member": "stranger"}).reason is Reason.UNKNOWN_MEMBER


def test_a_policy_ends_with_its_last_second() -> None:
    assert rule_of(VALID, now=c.NOW + 10 * c.DAY)
    assert refusal_of(VALID, now=c.NOW + 10 * c.DAY + c.DAY / 86_400).reason is Reason.DOCUMENT_EXPIRED


@pytest.mark.parametrize("field", list(VALID))
def test_a_policy_without_one_of_its_fields_is_refused(field: str) -> None:
    assert refusal_of(c.without(VALID, field)).reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plans", ["00" * 31]),
        ("plans", ["00" * 32] * 2),
        ("plans", [1]),
        ("max_rounds", -1),
        ("max_rounds", 10_001),
        ("columns", ["age", "age"]),
        ("extra", 1),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        SitePolicy.parse(encode_json(VALID | {field: value}))
