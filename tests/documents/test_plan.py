"""A plan holds only under its charter, with everybody's signature whose data it touches, and within every bound."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.documents import consortium as c
from trusted.documents.charter import VerifiedCharter
from trusted.documents.plan import PAYLOAD_TYPE, Plan, verify_plan
from trusted.documents.terms import Change
from trusted.errors import DocumentError, ProtocolError, Reason
from trusted.wire import decode_json, encode_json

CHARTER = c.charter()
VALID = c.plan_json(CHARTER)


def reason_of(
    document: object, now: datetime = c.NOW, by: Iterable[str] = c.MEMBERS, charter: VerifiedCharter = CHARTER
) -> Reason:
    with pytest.raises(ProtocolError) as refused:
        verify_plan(c.signed(document, PAYLOAD_TYPE, by), charter, now)
    return refused.value.reason


def test_a_plan_signed_by_all_holds() -> None:
    plan = c.plan(CHARTER)
    assert plan.signers == set(c.MEMBERS)
    assert plan.document.layout.elements == 7
    assert plan.document.app.config == (("local-epochs", 1), ("lr", 0.1))


def test_a_plan_survives_encoding() -> None:
    payload = encode_json(VALID)
    assert Plan.parse(payload).encode() == payload


@pytest.mark.parametrize("absent", c.MEMBERS)
def test_a_cohort_member_that_did_not_sign_is_not_used(absent: str) -> None:
    assert reason_of(VALID, by=[member for member in c.MEMBERS if member != absent]) is Reason.THRESHOLD


def test_the_charter_threshold_counts_beyond_the_cohort() -> None:
    charter = c.charter(c.charter_json(thresholds={"charter": 2, "plan": 3}))
    cohort = {"members": ["hospital-a", "lab-b"], "minimum": 2, "size": 2}
    document = c.plan_json(charter, cohort=cohort, metrics=[])
    assert reason_of(document, by=["hospital-a", "lab-b"], charter=charter) is Reason.THRESHOLD
    assert c.plan(charter, document).document.cohort.size == 2


def test_a_plan_of_another_charter_is_refused() -> None:
    other = c.charter(c.charter_json(name="Other"))
    assert reason_of(VALID, charter=other) is Reason.DOCUMENT_DIGEST


def test_a_charter_in_a_plans_place_is_refused() -> None:
    with pytest.raises(DocumentError) as refused:
        verify_plan(CHARTER.envelope, CHARTER, c.NOW)
    assert refused.value.reason is Reason.PAYLOAD_TYPE


@pytest.mark.parametrize(
    ("days", "expected"), [(-2, Reason.DOCUMENT_NOT_YET_VALID), (31, Reason.DOCUMENT_EXPIRED)], ids=["early", "late"]
)
def test_a_plan_holds_only_between_its_dates(days: int, expected: Reason) -> None:
    assert reason_of(VALID, now=c.NOW + days * c.DAY) is expected


def test_a_plan_ends_with_its_charter() -> None:
    document = c.changed(VALID, "not_after", "2030-01-01T00:00:00Z")
    assert reason_of(document, now=c.NOW + 366 * c.DAY) is Reason.DOCUMENT_EXPIRED


@pytest.mark.parametrize("path", ["cohort.members.0", "release.recipients.0"])
def test_a_stranger_is_neither_trainer_nor_recipient(path: str) -> None:
    assert reason_of(c.changed(VALID, path, "stranger")) is Reason.UNKNOWN_MEMBER


def test_two_members_are_too_few_in_production() -> None:
    charter = c.charter(c.production_json())
    document = c.plan_json(charter, cohort={"members": list(c.MEMBERS), "minimum": 2, "size": 3})
    assert reason_of(document, charter=charter) is Reason.DOCUMENT_RULE
    assert c.plan(charter, c.plan_json(charter)).document.cohort.minimum == 3


def paths_of(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, list):
        return [path for place, entry in enumerate(value) for path in paths_of(entry, f"{prefix}{place}.")]
    if not isinstance(value, dict):
        return []
    inner = [path for key, entry in value.items() for path in paths_of(entry, f"{prefix}{key}.")]
    return [f"{prefix}{key}" for key in value] + inner


@pytest.mark.parametrize("path", [path for path in paths_of(VALID) if not path.startswith("app.config.")])
def test_a_plan_without_one_of_its_fields_is_refused(path: str) -> None:
    assert reason_of(c.without(VALID, path)) is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    "path",
    [f"{prefix}extra" for prefix in ("", "app.", "model.", "model.layout.0.", "cohort.", "deadlines.", "aggregation.")]
    + [f"{prefix}extra" for prefix in ("privacy.", "dataset.", "metrics.0.", "release.")],
)
def test_an_unknown_field_is_refused(path: str) -> None:
    assert reason_of(c.changed(VALID, path, 1)) is Reason.UNKNOWN_FIELD


METRIC = VALID["metrics"][0]
OUT_OF_BOUNDS = [
    ("name", ""),
    ("name", "x" * 101),
    ("name", "two\nlines"),
    ("purpose", "x" * 1001),
    ("purpose", "hidden \N{ZERO WIDTH SPACE}"),
    ("charter", "00" * 31),
    ("app.kind", "docker"),
    ("app.bundle_sha256", "00" * 33),
    ("app.config", {"bad key": 1}),
    ("app.config", {"key": None}),
    ("app.config", {"key": [1]}),
    ("app.config", {"key": "x" * 1025}),
    ("app.config", {f"k{place}": 1 for place in range(257)}),
    ("app.train_config", {}),  # another spelling of its absence
    ("app.train_config", {"lr": [0.1]}),
    ("app.train_config", {"server-round": 7}),  # an app would take it for the round's number
    ("app.evaluate_config", {"server_round": 7}),
    ("app.changes", []),
    ("app.changes", [{"from_round": 2}]),
    ("app.changes", [{"from_round": 1, "train_config": {"lr": 0.1}}]),  # that is app.train_config
    ("app.changes", [{"from_round": 10_001, "train_config": {"lr": 0.1}}]),
    ("app.changes", [{"from_round": 2, "train_config": {"server-round": 7}}]),
    ("app.changes", [{"from_round": 2, "train_config": {"lr": 0.1}}] * 2),
    ("app.changes", [{"from_round": number, "train_config": {"lr": number}} for number in (3, 2)]),
    ("app.evaluate_config", {f"k{place}": 1 for place in range(257)}),
    ("model.initial_sha256", "00"),
    ("model.layout", []),
    ("model.layout.0.name", "a b"),
    ("model.layout.0.name", "bn.num_batches_tracked"),
    ("model.layout.0.dtype", "float16"),
    ("model.layout.0.shape", [0]),
    ("model.layout.0.shape", [-1]),
    ("model.layout.0.shape", [True]),
    ("model.layout.0.shape", [1.5]),
    ("model.layout.0.shape", [1] * 9),
    ("model.layout.0.shape", [1 << 31]),  # one element more stands beside it
    ("model.layout.0.shape", [1 << 16, 1 << 16]),
    ("rounds", 0),
    ("rounds", 10_001),
    ("rounds", 1.5),
    ("rounds", True),
    ("rounds", "3"),
    ("cohort.members", ["hospital-a"]),
    ("cohort.members", ["hospital-a", "hospital-a", "lab-b"]),
    ("cohort.minimum", 1),
    ("cohort.minimum", 4),
    ("cohort.size", 2),  # under the minimum
    ("cohort.size", 4),  # over the members
    ("deadlines.round_s", 0),
    ("deadlines.lease_s", 0),
    ("deadlines.reattest_s", 0),
    ("deadlines.reattest_s", 60),  # as long as a lease, which nothing would renew
    ("deadlines.round_s", 30 * 86_400 + 1),
    ("aggregation.rule", "sum"),
    ("aggregation.max_weight", 0),
    ("aggregation.max_weight", 1e9 + 1),
    ("privacy.mechanism", "secret"),
    ("privacy.reason", ""),
    ("dataset.min_rows", 0),
    ("dataset.columns", []),
    ("dataset.columns", ["age", "age"]),
    ("dataset.columns", ["a\tb"]),
    ("dataset.columns", [1]),
    ("metrics.0.name", "Loss"),
    ("metrics.0.name", "loss/site"),
    ("metrics.0.name", "x" * 65),
    ("metrics", [METRIC, METRIC]),
    ("metrics.0.min_sites", 1),
    ("metrics.0.min_sites", 4),  # never reached by a cohort of three
    ("metrics.0.digits", -1),
    ("metrics.0.digits", 7),
    ("release.recipients", []),
    ("release.recipients", ["hospital-a", "hospital-a"]),
]


@pytest.mark.parametrize(("path", "value"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        Plan.parse(encode_json(c.changed(VALID, path, value)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rounds", 1),
        ("rounds", 10_000),
        ("model.layout", [{"name": "w", "dtype": "float32", "shape": [1 << 31]}]),
        ("cohort", {"members": ["lab-b", "bank-c"], "minimum": 2, "size": 2}),
        ("deadlines.round_s", 30 * 86_400),
        ("aggregation.max_weight", 1e9),
        ("dataset.min_rows", 1),
        ("metrics", []),
        ("app.config", {}),
        ("app.train_config", {"lr": 0.1}),
        ("app.evaluate_config", {f"k{place}": 1 for place in range(256)}),
        ("model.layout.0.dtype", "float64"),
    ],
)
def test_a_value_at_its_bound_holds(path: str, value: object) -> None:
    document = c.changed(c.changed(VALID, "metrics.0.min_sites", 2), path, value)
    assert Plan.parse(encode_json(document))


def test_what_every_message_says_survives_encoding_and_its_absence_changes_no_byte() -> None:
    said = {"batch-size": 8, "lr": 0.5}
    document = c.changed(c.changed(VALID, "app.train_config", said), "app.evaluate_config", {"full": True})
    plan = Plan.parse(encode_json(document))
    assert (dict(plan.app.train_config), dict(plan.app.evaluate_config)) == (said, {"full": True})
    assert plan.encode() == encode_json(document)
    assert Plan.parse(encode_json(VALID)).encode() == encode_json(VALID)


def test_messages_may_change_with_a_round_of_the_plan_and_no_later() -> None:
    rounds = VALID["rounds"]
    changes = [{"from_round": rounds, "evaluate_config": {"full": True}, "train_config": {"lr": 0.25}}]
    document = c.changed(VALID, "app.changes", changes)
    plan = Plan.parse(encode_json(document))
    assert plan.app.changes == (Change(rounds, (("lr", 0.25),), (("full", True),)),)
    assert plan.encode() == encode_json(document)
    late = c.changed(document, "app.changes.0.from_round", rounds + 1)
    with pytest.raises(DocumentError) as caught:
        Plan.parse(encode_json(late))
    assert caught.value.reason is Reason.DOCUMENT_RULE


def test_a_change_may_not_say_otherwise_what_the_aggregation_says() -> None:
    document = c.changed(VALID, "aggregation.proximal_mu", 0.1)
    document = c.changed(document, "app.changes", [{"from_round": 2, "train_config": {"proximal-mu": 0.2}}])
    with pytest.raises(DocumentError) as caught:
        Plan.parse(encode_json(document))
    assert caught.value.reason is Reason.DOCUMENT_RULE


def test_an_uncanonical_plan_is_refused() -> None:
    with pytest.raises(ProtocolError) as refused:
        Plan.parse(encode_json(VALID).replace(b":", b": ", 1))
    assert refused.value.reason is Reason.NOT_CANONICAL


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from(paths_of(VALID)), JSON)
def test_a_mutated_plan_parses_or_is_refused(path: str, value: Any) -> None:
    try:
        payload = encode_json(c.changed(VALID, path, value))
    except ValueError:
        return  # not even JSON that may be signed
    try:
        plan = Plan.parse(payload)
    except ProtocolError:
        return
    assert decode_json(plan.encode()) == decode_json(payload)


@settings(deadline=None)
@given(st.integers(min_value=0), st.integers(0, 255))
def test_a_plan_with_one_byte_changed_parses_or_is_refused(place: int, value: int) -> None:
    payload = bytearray(encode_json(VALID))
    payload[place % len(payload)] = value
    try:
        plan = Plan.parse(bytes(payload))
    except ProtocolError:
        return
    assert plan.encode() == bytes(payload)


def test_the_valid_plan_was_not_changed_by_these_tests() -> None:
    assert copy.deepcopy(VALID) == c.plan_json(CHARTER)


CLIPPING = {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 4, "epsilon": 8, "delta": 1e-05}
DP_SGD = {
    "mechanism": "dp-sgd",
    "unit": "person",
    "person_column": "age",
    "max_grad_norm": 1,
    "noise_multiplier": 2,
    "sample_rate": 0.1,
    "max_steps": 20,
    "epsilon": 1,
    "delta": 1e-05,
}
ALIKE = {"rule": "weighted-mean", "max_weight": 1}


def private(privacy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    columns = {"dataset": {"min_rows": 1, "columns": ["age", "visits"]}, "aggregation": ALIKE}
    return copy.deepcopy(VALID) | columns | {"privacy": privacy} | changes


@pytest.mark.parametrize("privacy", [CLIPPING, DP_SGD])
def test_a_privacy_mechanism_survives_encoding(privacy: dict[str, Any]) -> None:
    payload = encode_json(private(privacy))
    plan = Plan.parse(payload)
    assert plan.encode() == payload
    assert plan.privacy.budget is not None
    record = {key: value for key, value in DP_SGD.items() if key != "person_column"} | {"unit": "record"}
    assert Plan.parse(encode_json(private(record))).privacy.to_json() == record


@pytest.mark.parametrize(
    ("privacy", "key", "value"),
    [
        *((terms, key, value) for terms in (CLIPPING, DP_SGD) for key, value in (
            ("epsilon", 0), ("epsilon", 21), ("delta", 0), ("delta", 0.01), ("noise_multiplier", 0.01),
            ("noise_multiplier", 1001), ("reason", "none"), ("rounds", 1),
        )),
        *((CLIPPING, "clip_norm", value) for value in (0, 2e6, "1")),
        *((DP_SGD, "max_grad_norm", value) for value in (0, 2e6)),
        *((DP_SGD, "sample_rate", value) for value in (0, 1.01)),
        *((DP_SGD, "max_steps", value) for value in (0, 100_001, 1.5)),
        (DP_SGD, "unit", "member"),
        (DP_SGD, "unit", "record"),  # with a person_column, which a record has not
        (DP_SGD, "person_column", "zper"),  # that no worker reads
        (DP_SGD, "clip_norm", 1),
    ],
)  # fmt: skip
def test_privacy_terms_out_of_bounds_are_refused(privacy: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        Plan.parse(encode_json(private(privacy | {key: value})))


@pytest.mark.parametrize("privacy", [CLIPPING, DP_SGD])
@pytest.mark.parametrize("missing", ["epsilon", "delta", "noise_multiplier"])
def test_privacy_without_a_budget_or_noise_is_refused(privacy: dict[str, Any], missing: str) -> None:
    with pytest.raises(ProtocolError):
        Plan.parse(encode_json(private({key: value for key, value in privacy.items() if key != missing})))


@pytest.mark.parametrize("privacy", [CLIPPING, DP_SGD])
def test_weights_that_tell_how_many_rows_a_site_has_are_refused_under_privacy(privacy: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="max_weight"):
        Plan.parse(encode_json(private(privacy, aggregation={"rule": "weighted-mean", "max_weight": 2})))


def test_noise_is_added_to_means_alone_but_private_updates_fold_by_any_rule() -> None:
    median = {"rule": "median", "max_weight": 1}
    with pytest.raises(DocumentError, match="rule"):
        Plan.parse(encode_json(private(CLIPPING, aggregation=median)))
    assert Plan.parse(encode_json(private(DP_SGD, aggregation=median))).privacy.dp_sgd is not None
