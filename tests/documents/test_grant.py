"""Grants and withdrawals: signed by the one member whose key it is, and by nobody else (docs/protocol.md §15.1)."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.keys.conftest import world as world
from tests.keys.holdings import KEY_ID, grant_of, signed_grant
from tests.world import NOW, World, envelope
from trusted.blob import ContentKey
from trusted.documents.grant import (
    WITHDRAWAL_TYPE,
    Grant,
    Withdrawal,
    Withdrawn,
    commitment,
    verify_grant,
    verify_withdrawal,
)
from trusted.errors import KeyReleaseError, ProtocolError, Reason
from trusted.wire import encode_json

KEY = ContentKey(b"\x42" * 32)


def reason_of(action, *arguments: Any) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        action(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("measurements", [None, (b"\x01" * 48,), (b"\x01" * 48, b"\x02" * 48)])
def test_a_grant_is_read_as_it_was_written(world, measurements):
    grant = grant_of(world, KEY, measurements=measurements)
    assert verify_grant(signed_grant(world, grant), world.charter).document == grant


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("releases", 0, Reason.MALFORMED),
        ("releases", 1_000_001, Reason.MALFORMED),
        ("releases", True, Reason.WRONG_TYPE),
        ("role", "aggregator", Reason.MALFORMED),
        ("assurance", "trust me", Reason.MALFORMED),
        ("measurements", [], Reason.DOCUMENT_RULE),
        ("measurements", ["01" * 48, "01" * 48], Reason.DOCUMENT_RULE),
        ("measurements", ["01" * 32], Reason.MALFORMED),
        ("measurements", "any", Reason.WRONG_TYPE),
        ("key", "5d" * 31, Reason.MALFORMED),
        ("holder", "Site 1", Reason.DOCUMENT_RULE),
        ("not_after", "2020-01-01T00:00:00Z", Reason.DOCUMENT_RULE),
        ("extra", 1, Reason.UNKNOWN_FIELD),
        ("commitment", None, Reason.WRONG_TYPE),
    ],
)
def test_a_grant_out_of_bounds_is_refused(world, field, value, reason):
    document = grant_of(world, KEY).to_json() | {field: value}
    assert reason_of(Grant.parse, encode_json(document)) is reason


@pytest.mark.parametrize("field", [field.name for field in fields(Grant) if field.name not in ("validity", "scoring")])
def test_no_field_of_a_grant_may_be_left_away(world, field):
    document = grant_of(world, KEY).to_json()
    del document[field]
    assert reason_of(Grant.parse, encode_json(document)) is Reason.MISSING_FIELD


def test_only_the_member_whose_key_it_is_grants_it(world):
    grant = grant_of(world, KEY)
    assert reason_of(verify_grant, signed_grant(world, grant, by="site-2"), world.charter) is Reason.THRESHOLD


@pytest.mark.parametrize("change", [{"member": "stranger"}, {"holder": "stranger"}], ids=["member", "holder"])
def test_a_grant_names_members(world, change):
    grant = grant_of(world, KEY, **change)
    assert reason_of(verify_grant, signed_grant(world, grant, by="site-1"), world.charter) is Reason.UNKNOWN_MEMBER


def test_a_grant_under_another_charter_is_refused(world, software_root, chip):
    other = World(software_root, chip)
    assert reason_of(verify_grant, signed_grant(world, grant_of(world, KEY)), other.charter) is Reason.DOCUMENT_DIGEST


def test_a_grant_is_no_withdrawal(world):
    signed = signed_grant(world, grant_of(world, KEY))
    assert reason_of(verify_withdrawal, signed, world.charter) is Reason.PAYLOAD_TYPE


def test_a_grant_is_open_in_its_time_with_reasons_of_its_own(world):
    grant = grant_of(world, KEY)
    grant.require_open(NOW)
    for moment, reason in (
        (grant.validity.not_before - timedelta(seconds=1), Reason.GRANT_NOT_YET_VALID),
        (grant.validity.not_after + timedelta(seconds=1), Reason.GRANT_EXPIRED),
    ):
        with pytest.raises(KeyReleaseError) as caught:
            grant.require_open(moment)
        assert caught.value.reason is reason


@pytest.mark.parametrize("what", list(Withdrawn))
def test_a_withdrawal_is_its_members_alone(world, what):
    document = Withdrawal("site-1", world.charter.digest, what, KEY_ID, NOW)
    signed = envelope(document, WITHDRAWAL_TYPE, [world.signing["site-1"]])
    assert verify_withdrawal(signed, world.charter).document == document
    forged = envelope(document, WITHDRAWAL_TYPE, [world.signing["site-2"]])
    assert reason_of(verify_withdrawal, forged, world.charter) is Reason.THRESHOLD
    elsewhere = envelope(replace(document, charter=bytes(32)), WITHDRAWAL_TYPE, [world.signing["site-1"]])
    assert reason_of(verify_withdrawal, elsewhere, world.charter) is Reason.DOCUMENT_DIGEST


def test_a_commitment_is_to_one_key_under_one_id():
    assert commitment(KEY_ID, KEY.secret) == commitment(KEY_ID, KEY.secret)
    assert commitment(KEY_ID, KEY.secret) != commitment(KEY_ID, b"\x43" * 32)
    assert commitment(KEY_ID, KEY.secret) != commitment(b"\x5e" * 32, KEY.secret)


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_a_grant_or_refused(payload):
    for parse in (Grant.parse, Withdrawal.parse):
        try:
            parse(payload)
        except ProtocolError:
            continue
