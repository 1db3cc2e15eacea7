"""Only a member speaks for its worker, and only a member orders a run, now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest

from tests.documents import consortium as c
from trusted.documents import credential, order
from trusted.documents.credential import verify_credential
from trusted.documents.order import Action, verify_order
from trusted.errors import ProtocolError, Reason

CHARTER = c.charter()
CREDENTIAL = c.credential_json(CHARTER)
ORDER = c.order_json()


def credential_refusal(document: object, now: datetime = c.NOW, by: Iterable[str] = ("hospital-a",)) -> Reason:
    with pytest.raises(ProtocolError) as refused:
        verify_credential(c.signed(document, credential.PAYLOAD_TYPE, by), CHARTER, now)
    return refused.value.reason


def order_refusal(document: object, now: datetime = c.NOW, by: Iterable[str] = ("hospital-a",)) -> Reason:
    with pytest.raises(ProtocolError) as refused:
        verify_order(c.signed(document, order.PAYLOAD_TYPE, by), CHARTER, now)
    return refused.value.reason


def test_a_credential_holds() -> None:
    verified = verify_credential(c.signed(CREDENTIAL, credential.PAYLOAD_TYPE, ["hospital-a"]), CHARTER, c.NOW)
    assert verified.document.worker_key.hex() == c.public(c.OUTSIDER)
    assert verified.signers == {"hospital-a"}


@pytest.mark.parametrize("by", [(), ("lab-b",), ("lab-b", "bank-c")])
def test_others_cannot_speak_for_a_members_worker(by: tuple[str, ...]) -> None:
    assert credential_refusal(CREDENTIAL, by=by) is Reason.CREDENTIAL


def test_a_credential_of_another_charter_is_refused() -> None:
    assert credential_refusal(CREDENTIAL | {"charter": "00" * 32}) is Reason.CREDENTIAL


def test_a_credential_of_a_stranger_is_refused() -> None:
    assert credential_refusal(CREDENTIAL | {"member": "stranger"}) is Reason.UNKNOWN_MEMBER


@pytest.mark.parametrize("member", c.MEMBERS)
def test_a_signing_key_is_no_worker_key(member: str) -> None:
    assert credential_refusal(CREDENTIAL | {"worker_key": c.public(c.KEYS[member])}) is Reason.CREDENTIAL


@pytest.mark.parametrize(
    ("days", "expected"), [(-2, Reason.DOCUMENT_NOT_YET_VALID), (2, Reason.DOCUMENT_EXPIRED)], ids=["early", "late"]
)
def test_a_credential_holds_only_between_its_dates(days: int, expected: Reason) -> None:
    assert credential_refusal(CREDENTIAL, now=c.NOW + days * c.DAY) is expected


@pytest.mark.parametrize("field", list(CREDENTIAL))
def test_a_credential_without_one_of_its_fields_is_refused(field: str) -> None:
    assert credential_refusal(c.without(CREDENTIAL, field)) is Reason.MISSING_FIELD


def test_a_credential_with_an_unknown_field_is_refused() -> None:
    assert credential_refusal(CREDENTIAL | {"extra": 1}) is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize("size", [31, 33])
def test_a_worker_key_of_another_length_is_refused(size: int) -> None:
    assert credential_refusal(CREDENTIAL | {"worker_key": "00" * size}) is Reason.MALFORMED


def test_an_oversized_credential_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProtocolError) as refused:
        verify_credential(b"[" * (credential.MAX_ENVELOPE_BYTES + 1), CHARTER, c.NOW)
    assert refused.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_an_order_holds_for_five_minutes(action: Action, seconds: int) -> None:
    envelope = c.signed(ORDER | {"action": action.value}, order.PAYLOAD_TYPE, ["hospital-a"])
    assert verify_order(envelope, CHARTER, c.NOW + timedelta(seconds=seconds)).document.action is action


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-301, Reason.DOCUMENT_NOT_YET_VALID), (301, Reason.DOCUMENT_EXPIRED)]
)
def test_an_order_from_another_time_is_refused(seconds: int, expected: Reason) -> None:
    assert order_refusal(ORDER, now=c.NOW + timedelta(seconds=seconds)) is expected


@pytest.mark.parametrize("by", [(), ("lab-b",)])
def test_others_cannot_order_in_a_members_name(by: tuple[str, ...]) -> None:
    assert order_refusal(ORDER, by=by) is Reason.THRESHOLD


def test_only_the_member_itself_counts_as_signer() -> None:
    assert verify_order(c.signed(ORDER, order.PAYLOAD_TYPE), CHARTER, c.NOW).signers == {"hospital-a"}


@pytest.mark.parametrize("field", list(ORDER))
def test_an_order_without_one_of_its_fields_is_refused(field: str) -> None:
    assert order_refusal(c.without(ORDER, field)) is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("field", "value"), [("action", "erase"), ("nonce", "00" * 15), ("nonce", "00" * 17), ("extra", 1), ("plan", "")]
)
def test_an_order_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        verify_order(c.signed(ORDER | {field: value}, order.PAYLOAD_TYPE, ["hospital-a"]), CHARTER, c.NOW)


def test_a_credential_does_not_pass_for_an_order() -> None:
    with pytest.raises(ProtocolError) as refused:
        verify_order(c.signed(CREDENTIAL, credential.PAYLOAD_TYPE, ["hospital-a"]), CHARTER, c.NOW)
    assert refused.value.reason is Reason.PAYLOAD_TYPE
