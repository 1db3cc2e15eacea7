"""Every kind of leaf is read back as written, in one spelling, and nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.roots import Assurance
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.leaves import (
    Abandoned,
    Admitted,
    Closed,
    Committed,
    Counted,
    Ended,
    Evicted,
    Genesis,
    Left,
    Lost,
    Opened,
    Outcome,
    Recovered,
    Refused,
    Released,
    Spent,
    State,
)
from trusted.wire import encode_json

DIGEST, NAME = bytes(range(32)), bytes(range(16))
ONE_OF_EACH = [
    Genesis(DIGEST, DIGEST, DIGEST, ("a", "b", "c"), 2),
    Admitted("a", NAME, DIGEST, bytes(48), Assurance.HARDWARE, DIGEST, DIGEST),
    Refused(Reason.MEASUREMENT, "a"),
    Refused(Reason.EVIDENCE_FORMAT, None),
    Left("a", Reason.UNREACHABLE),
    Left("a", None),
    Evicted("a", Reason.LEASE_EXPIRED),
    Opened(7, ("a", "b", "c"), ("a", "c"), DIGEST),
    Counted(7, "a", DIGEST),
    Closed(7, ("a", "c"), (Lost("b", Reason.APP_FAILED),)),
    Closed(7, (), ()),
    Committed(7),
    Abandoned(7, Reason.COHORT_MINIMUM),
    State(3, NAME, DIGEST),
    Recovered(2, NAME, 41),
    Spent("gaussian, RDP accountant", (("delta", "1e-5"), ("epsilon", "0.75"))),
    Released(DIGEST, NAME, ("a",)),
    Ended(Outcome.FINISHED, DIGEST),
]
MANY = tuple(f"{'m' * 58}-{number:04}" for number in range(1024))


@pytest.mark.parametrize("leaf", ONE_OF_EACH, ids=lambda leaf: leaf.KIND)
def test_a_leaf_is_read_back_as_written(leaf):
    assert leaves.parse(leaves.encode(leaf)) == leaf


@pytest.mark.parametrize("leaf", ONE_OF_EACH, ids=lambda leaf: leaf.KIND)
def test_a_leaf_with_a_field_more_or_less_or_of_another_type_is_refused(leaf):
    document = json.loads(leaves.encode(leaf))
    changed = [document | {"more": 1}]
    changed += [{key: value for key, value in document.items() if key != name} for name in document]
    changed += [document | {name: [[]]} for name in document]
    for bad in changed:
        with pytest.raises(ProtocolError):
            leaves.parse(encode_json(bad))


@pytest.mark.parametrize("kind", ["", "Genesis", "weights", "state "])
def test_a_leaf_of_an_unknown_kind_is_refused(kind):
    with pytest.raises(ProtocolError) as caught:
        leaves.parse(encode_json({"kind": kind}))
    assert caught.value.reason is (Reason.LEDGER_LEAF if kind else Reason.MALFORMED)


@pytest.mark.parametrize("leaf", ONE_OF_EACH, ids=lambda leaf: leaf.KIND)
def test_a_leaf_has_one_spelling(leaf):
    data = leaves.encode(leaf)
    for other in (data + b" ", b" " + data, json.dumps(json.loads(data)).encode() + b"\n", data[:-1]):
        with pytest.raises(ProtocolError):
            leaves.parse(other)


@pytest.mark.parametrize(
    ("leaf", "field", "value"),
    [
        (Committed(1), "round", 0),
        (Committed(1), "round", (1 << 31) + 1),
        (Abandoned(1, Reason.WEIGHT), "reason", 1),
        (Evicted("a", Reason.WEIGHT), "reason", 0),
        (Evicted("a", Reason.WEIGHT), "member", "A Site"),
        (Refused(Reason.WEIGHT, None), "member", "../etc"),
        (Opened(1, ("a",), ("a",), DIGEST), "cohort", ["a", "a"]),
        (Opened(1, ("a",), ("a",), DIGEST), "cohort", []),
        (Opened(1, ("a",), ("a",), DIGEST), "present", [f"m{number}" for number in range(1025)]),
        (State(1, NAME, DIGEST), "sealed_sha256", "00" * 31),
        (State(1, NAME, DIGEST), "sequence", -1),
        (Admitted("a", NAME, DIGEST, b"m", Assurance.NONE, DIGEST, DIGEST), "assurance", "some"),
        (Admitted("a", NAME, DIGEST, b"m", Assurance.NONE, DIGEST, DIGEST), "measurement", ""),
        (Admitted("a", NAME, DIGEST, b"m", Assurance.NONE, DIGEST, DIGEST), "measurement", "00" * 65),
        (Counted(1, "a", DIGEST), "prefix_sha256", "00"),
        (Counted(1, "a", DIGEST), "member", "A"),
        (Counted(1, "a", DIGEST), "round", 0),
        (Closed(1, (), ()), "counted", {"a": "00" * 32}),
        (Closed(1, (), ()), "counted", ["A"]),
        (Closed(1, (), (Lost("a", Reason.WEIGHT),)), "counted", ["a"]),
        (Closed(1, (), ()), "lost", {f"m{number}": 601 for number in range(1025)}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {"epsilon": "01"}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {"epsilon": "NaN"}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {"epsilon": "-1"}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {"Epsilon": "1"}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {}),
        (Spent("x", (("epsilon", "1"),)), "cumulative", {f"e{number}": "1" for number in range(17)}),
        (Spent("x", (("epsilon", "1"),)), "mechanism", "two\nlines"),
        (Ended(Outcome.STOPPED, DIGEST), "outcome", "won"),
    ],
)
def test_a_value_outside_its_bounds_is_refused(leaf, field, value):
    document = json.loads(leaves.encode(leaf))
    assert field in document
    with pytest.raises(ProtocolError):
        leaves.parse(encode_json(document | {field: value}))


@pytest.mark.parametrize(("counted", "lost"), [(("b", "a"), ()), (("a", "a"), ()), (("a",), ("a",)), ((), ("b", "a"))])
def test_a_round_names_each_member_once_in_order(counted, lost):
    with pytest.raises(LedgerError) as caught:
        Closed(1, counted, tuple(Lost(one, Reason.WEIGHT) for one in lost))
    assert caught.value.reason is Reason.LEDGER_LEAF


@pytest.mark.parametrize(
    "leaf",
    [
        Genesis(DIGEST, DIGEST, DIGEST, MANY, 513),
        Opened(1, MANY, MANY, DIGEST),
        Closed(1, MANY, ()),
        Closed(1, (), tuple(Lost(member, Reason.LEASE_EXPIRED) for member in MANY)),
        Released(DIGEST, NAME, MANY),
    ],
    ids=lambda leaf: leaf.KIND,
)
def test_a_charter_of_a_thousand_members_fits(leaf):
    data = leaves.encode(leaf)
    assert len(data) <= leaves.MAX_LEAF_BYTES
    assert leaves.parse(data) == leaf


def test_a_leaf_is_bounded():
    too_much = Spent("x" * leaves.MAX_LEAF_BYTES, (("epsilon", "1"),))
    with pytest.raises(LedgerError) as caught:
        leaves.encode(too_much)
    assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(ProtocolError) as refusal:
        leaves.parse(b" " * (leaves.MAX_LEAF_BYTES + 1))
    assert refusal.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=200))
def test_bytes_are_a_leaf_or_are_refused(data):
    with pytest.raises(ProtocolError):
        leaves.parse(data)


def test_a_released_leaf_names_a_model_card_only_where_there_is_one():
    leaf = Released(DIGEST, NAME, ("a",), DIGEST)
    assert leaves.parse(leaves.encode(leaf)) == leaf
    document = json.loads(leaves.encode(leaf))
    assert b"card" not in leaves.encode(Released(DIGEST, NAME, ("a",)))
    for bad in (None, "", "00" * 31, [[]]):
        with pytest.raises(ProtocolError):
            leaves.parse(encode_json(document | {"card_sha256": bad}))
