"""``plan.aggregation``: a rule is refused where the smallest cohort gives it no meaning; old plans keep their bytes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.documents import consortium as c
from trusted.documents.plan import Plan
from trusted.documents.terms import MAX_COMPARED, Aggregation
from trusted.errors import ProtocolError, Reason
from trusted.wire import encode_json

CHARTER = c.charter(c.charter_json())
MEAN = {"rule": "weighted-mean", "max_weight": 1000}
ADAM = {"optimizer": "adam", "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}
LEAST: list[tuple[dict[str, Any], int]] = [
    ({"rule": "median"}, 3),
    ({"rule": "geometric-median", "iterations": 10, "smoothing": 1e-6}, 3),
    ({"rule": "trimmed-mean", "trim": 1}, 3),
    ({"rule": "trimmed-mean", "trim": 4}, 9),
    ({"rule": "krum", "byzantine": 1}, 5),
    ({"rule": "krum", "byzantine": 3}, 9),
    ({"rule": "multi-krum", "byzantine": 2, "kept": 1}, 7),
    ({"rule": "multi-krum", "byzantine": 2, "kept": 6}, 10),
]


def parsed(aggregation: dict[str, Any], minimum: int = 10, size: int = 0) -> Plan:
    members = [f"site-{place}" for place in range(max(minimum, size))]
    cohort = {"members": members, "minimum": minimum, "size": size or minimum}
    document = c.plan_json(CHARTER, aggregation={"max_weight": 1000} | aggregation, cohort=cohort)
    return Plan.parse(encode_json(document))


def refused(aggregation: dict[str, Any], minimum: int = 10, size: int = 0) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        parsed(aggregation, minimum, size)
    return caught.value.reason


def test_a_plan_of_before_keeps_its_bytes() -> None:
    document = c.plan_json(CHARTER)
    assert document["aggregation"] == MEAN
    assert Plan.parse(encode_json(document)).encode() == encode_json(document)
    assert Aggregation.read(MEAN).to_json() == MEAN


@pytest.mark.parametrize(("aggregation", "least"), LEAST)
def test_a_rule_holds_from_the_cohort_minimum_that_it_needs_and_not_below(aggregation, least) -> None:
    plan = parsed(aggregation, least)
    assert plan.aggregation.to_json() == {"max_weight": 1000} | aggregation
    assert refused(aggregation, least - 1) is Reason.DOCUMENT_RULE


def test_what_lies_side_by_side_is_bounded_and_a_mean_is_not() -> None:
    for aggregation, _ in LEAST:
        assert parsed(aggregation, size=MAX_COMPARED).cohort.size == MAX_COMPARED
        assert refused(aggregation, size=MAX_COMPARED + 1) is Reason.DOCUMENT_RULE
    assert parsed(MEAN, size=MAX_COMPARED + 1).cohort.size == MAX_COMPARED + 1


@pytest.mark.parametrize(
    ("aggregation", "reason"),
    [
        ({"rule": "trimmed-mean"}, Reason.MISSING_FIELD),
        ({"rule": "krum"}, Reason.MISSING_FIELD),
        ({"rule": "multi-krum", "byzantine": 1}, Reason.MISSING_FIELD),
        ({"rule": "geometric-median", "iterations": 3}, Reason.MISSING_FIELD),
        ({"rule": "median", "trim": 1}, Reason.UNKNOWN_FIELD),
        ({"rule": "krum", "byzantine": 1, "kept": 2}, Reason.UNKNOWN_FIELD),
        (MEAN | {"byzantine": 1}, Reason.UNKNOWN_FIELD),
        ({"rule": "trimmed-mean", "trim": 0}, Reason.MALFORMED),
        ({"rule": "trimmed-mean", "trim": 1.5}, Reason.WRONG_TYPE),
        ({"rule": "krum", "byzantine": 0}, Reason.MALFORMED),
        ({"rule": "multi-krum", "byzantine": 1, "kept": 0}, Reason.MALFORMED),
        ({"rule": "geometric-median", "iterations": 0, "smoothing": 1e-6}, Reason.MALFORMED),
        ({"rule": "geometric-median", "iterations": 1001, "smoothing": 1e-6}, Reason.MALFORMED),
        ({"rule": "geometric-median", "iterations": 3, "smoothing": 0}, Reason.MALFORMED),
        ({"rule": "bulyan"}, Reason.MALFORMED),
    ],
)
def test_parameters_that_a_rule_lacks_or_does_not_know_are_refused(aggregation, reason) -> None:
    assert refused(aggregation) is reason


@pytest.mark.parametrize("server", [ADAM, ADAM | {"optimizer": "yogi"}])
def test_a_server_optimizer_is_read_and_written_as_it_stands(server) -> None:
    for aggregation in (MEAN, {"rule": "median"}, {"rule": "krum", "byzantine": 2}):
        plan = parsed(aggregation | {"server": server})
        assert plan.aggregation.to_json() == {"max_weight": 1000} | aggregation | {"server": server}
        assert plan.aggregation.moments == 2
    assert parsed(MEAN).aggregation.moments == 0


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        ("momentum", ("learning_rate", "beta_1")),
        ("adagrad", ("learning_rate", "tau")),
        ("adam", ("learning_rate", "beta_1", "beta_2", "tau")),
    ],
)
def test_an_optimizer_takes_its_own_numbers_and_no_others(optimizer, names) -> None:
    server = {"optimizer": optimizer} | {name: ADAM[name] for name in names}
    assert parsed(MEAN | {"server": server}).aggregation.to_json()["server"] == server
    for name in names:
        assert refused(MEAN | {"server": {key: server[key] for key in server if key != name}}) is Reason.MISSING_FIELD
    for name in set(ADAM) - set(server):
        assert refused(MEAN | {"server": server | {name: 0.5}}) is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0},
        {"learning_rate": 1001},
        {"beta_1": 1},
        {"beta_1": -0.1},
        {"beta_2": 1},
        {"tau": 0},
        {"optimizer": "sgd"},
    ],
)
def test_numbers_that_no_optimizer_can_use_are_refused(change) -> None:
    assert refused(MEAN | {"server": ADAM | change}) is Reason.MALFORMED


def test_a_proximal_term_is_more_than_zero_or_absent() -> None:
    assert parsed(MEAN | {"proximal_mu": 0.25}).aggregation.to_json() == MEAN | {"proximal_mu": 0.25}
    assert refused(MEAN | {"proximal_mu": 0}) is Reason.DOCUMENT_RULE
    for value in (-1, 1e7):
        assert refused(MEAN | {"proximal_mu": value}) is Reason.MALFORMED
