"""A charter holds only as its members made it, and only production proves hardware."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.documents import consortium as c
from trusted.documents.charter import PAYLOAD_TYPE, Charter, VerifiedCharter, majority, verify_charter
from trusted.errors import DocumentError, ProtocolError, Reason
from trusted.wire import encode_json


def reason_of(
    document: object, now: datetime = c.NOW, by: Iterable[str] = c.MEMBERS, previous: VerifiedCharter | None = None
) -> Reason:
    with pytest.raises(ProtocolError) as refused:
        verify_charter(c.signed(document, PAYLOAD_TYPE, by), now, previous=previous)
    return refused.value.reason


def test_a_signed_charter_holds_and_says_who_signed() -> None:
    charter = c.charter(by=["hospital-a", "lab-b"])
    assert charter.signers == {"hospital-a", "lab-b"}
    assert charter.document.member("lab-b").name == "Lab B"


def test_a_charter_survives_encoding() -> None:
    payload = encode_json(c.charter_json())
    assert Charter.parse(payload).encode() == payload


def test_a_production_charter_holds() -> None:
    assert c.charter(c.production_json()).document.profile.value == "production"


def test_one_organisation_alone_signs_no_charter() -> None:
    assert reason_of(c.charter_json(), by=["hospital-a"]) is Reason.THRESHOLD


def test_two_keys_of_one_organisation_sign_no_charter() -> None:
    second = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
    document = c.charter_json()
    document["members"][1]["signing_keys"].append(c.public(second))
    envelope = c.signed_with(document, PAYLOAD_TYPE, [c.KEYS["hospital-a"], second])
    with pytest.raises(DocumentError) as refused:
        verify_charter(envelope, c.NOW)
    assert refused.value.reason is Reason.THRESHOLD


@pytest.mark.parametrize("place", ["members.0.signing_keys", "members.2.signing_keys"])
def test_a_key_that_two_members_share_is_refused(place: str) -> None:
    shared = [c.public(c.KEYS["hospital-a"])]
    assert reason_of(c.changed(c.charter_json(), place, shared)) is Reason.DUPLICATE_KEY


def test_a_shared_key_is_refused_before_anybody_signs() -> None:
    shared = [c.public(c.KEYS["hospital-a"])]
    with pytest.raises(DocumentError) as refused:
        Charter.parse(encode_json(c.changed(c.charter_json(), "members.0.signing_keys", shared)))
    assert refused.value.reason is Reason.DUPLICATE_KEY


def test_a_key_that_stands_twice_is_refused() -> None:
    twice = [c.public(c.KEYS["hospital-a"])] * 2
    assert reason_of(c.changed(c.charter_json(), "members.1.signing_keys", twice)) is Reason.DUPLICATE_KEY


def test_a_sealing_key_that_two_members_share_is_refused() -> None:
    shared = c.SEALING_KEYS["lab-b"].public.hex()
    assert reason_of(c.changed(c.charter_json(), "members.0.sealing_key", shared)) is Reason.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("days", "expected"), [(-2, Reason.DOCUMENT_NOT_YET_VALID), (366, Reason.DOCUMENT_EXPIRED)], ids=["early", "late"]
)
def test_a_charter_holds_only_between_its_dates(days: int, expected: Reason) -> None:
    assert reason_of(c.charter_json(), now=c.NOW + days * c.DAY) is expected


def test_the_first_and_the_last_second_count() -> None:
    envelope = c.signed(c.charter_json(), PAYLOAD_TYPE)
    for now in (c.NOW - c.DAY, c.NOW + 365 * c.DAY):
        assert verify_charter(envelope, now)


def test_a_time_without_a_zone_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify_charter(c.signed(c.charter_json(), PAYLOAD_TYPE), c.NOW.replace(tzinfo=None))


@pytest.mark.parametrize("field", list(c.charter_json()))
def test_a_charter_without_one_of_its_fields_is_refused(field: str) -> None:
    assert reason_of(c.without(c.charter_json(), field)) is Reason.MISSING_FIELD


@pytest.mark.parametrize("path", ["extra", "members.0.extra", "thresholds.extra", "roots.0.extra", "worker.extra"])
def test_an_unknown_field_is_refused(path: str) -> None:
    assert reason_of(c.changed(c.charter_json(), path, 1)) is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 0),
        ("version", 2),  # without a previous digest
        ("previous", "00" * 32),  # in version 1
        ("profile", "test"),
        ("members", []),
        ("members", [c.member_json("lab-b")]),
        ("members.0.id", "lab-b"),
        ("members.0.id", "Bank"),
        ("members.0.id", "../bank"),
        ("members.0.id", ""),
        ("members.0.name", "Bank\nMember evil: signs everything"),
        ("members.0.name", "Bank \N{RIGHT-TO-LEFT OVERRIDE}C"),
        ("members.0.name", " Bank"),
        ("members.0.signing_keys", []),
        ("members.0.signing_keys", ["00" * 31]),
        ("members.0.signing_keys", ["00" * 33]),
        ("members.0.signing_keys", ["AB" * 32]),
        ("members.0.sealing_key", "00" * 1215),
        ("members.0.sealing_key", "00" * 1217),
        ("thresholds.charter", 1),
        ("thresholds.charter", 4),
        ("thresholds.charter", True),
        ("thresholds.plan", 1),
        ("thresholds.plan", 4),
        ("roots", []),
        ("roots", [c.SOFTWARE_ROOT] * 2),
        ("roots.0.format", "sev"),
        ("roots.0.product", "Rome"),
        ("roots.0.sha256", "00" * 31),
        ("not_before", "2026-11-20"),
        ("not_before", "2026-13-20T00:00:00Z"),
        ("not_before", "2026-11-20T00:00:00+01"),
        ("not_after", "2020-01-01T00:00:00Z"),
        ("name", ""),
        ("name", "x" * 101),
        ("worker.debug", "maybe"),
        ("worker.measurements", []),
    ],
)
def test_a_value_out_of_bounds_is_refused(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        Charter.parse(encode_json(c.changed(c.charter_json(), path, value)))


@pytest.mark.parametrize("role", ["aggregator", "worker"])
def test_an_unset_knob_refuses(role: str) -> None:
    document = c.charter_json()
    for knob in document[role]["snp"]:
        with pytest.raises(ProtocolError):
            Charter.parse(encode_json(c.without(document, f"{role}.snp.{knob}")))


@pytest.mark.parametrize(("members", "expected"), [(2, 2), (3, 2), (4, 3), (5, 3), (100, 51)])
def test_a_majority_is_more_than_half(members: int, expected: int) -> None:
    assert majority(members) == expected


def test_a_software_root_in_production_is_refused() -> None:
    roots = [*c.production_json()["roots"], c.SOFTWARE_ROOT]
    assert reason_of(c.production_json(roots=roots)) is Reason.SOFTWARE_ROOT_IN_PRODUCTION


@pytest.mark.parametrize("role", ["aggregator", "worker"])
@pytest.mark.parametrize(
    ("knob", "value"),
    [("assurance", "none"), ("debug", "allow"), ("debug", {"skip": "why"}), ("migration", {"skip": "why"})],
)
def test_production_cannot_be_talked_down(role: str, knob: str, value: object) -> None:
    assert reason_of(c.changed(c.production_json(), f"{role}.snp.{knob}", value)) is Reason.DOCUMENT_RULE


@pytest.mark.parametrize("role", ["aggregator", "worker"])
@pytest.mark.parametrize("knob", ["assurance", "measurements"])
def test_assurance_and_measurements_are_never_skipped(role: str, knob: str) -> None:
    with pytest.raises(ProtocolError):
        Charter.parse(encode_json(c.changed(c.production_json(), f"{role}.snp.{knob}", {"skip": "why"})))


def successor(older: VerifiedCharter, **changes: object) -> dict[str, Any]:
    return c.charter_json(version=2, previous=older.digest.hex(), **changes)


def test_a_new_version_follows_the_old_one() -> None:
    older = c.charter()
    newer = verify_charter(c.signed(successor(older), PAYLOAD_TYPE), c.NOW, previous=older)
    assert newer.document.version == 2


def test_a_version_that_the_old_members_did_not_sign_is_refused() -> None:
    older = c.charter()
    usurpers = {member: Ed25519PrivateKey.from_private_bytes(member.encode().ljust(32, b"u")) for member in c.MEMBERS}
    members = [{**c.member_json(member), "signing_keys": [c.public(usurpers[member])]} for member in c.MEMBERS]
    document = successor(older, members=members)
    for old_signers in ([], ["hospital-a"]):
        keys = [*usurpers.values(), *(c.KEYS[member] for member in old_signers)]
        with pytest.raises(DocumentError) as refused:
            verify_charter(c.signed_with(document, PAYLOAD_TYPE, keys), c.NOW, previous=older)
        assert refused.value.reason is Reason.THRESHOLD
    keys = [*usurpers.values(), c.KEYS["hospital-a"], c.KEYS["lab-b"]]
    assert verify_charter(c.signed_with(document, PAYLOAD_TYPE, keys), c.NOW, previous=older)


def test_the_old_threshold_counts_even_when_the_new_one_is_lower() -> None:
    older = c.charter(c.charter_json(thresholds={"charter": 3, "plan": 2}))
    assert reason_of(successor(older), by=["hospital-a", "lab-b"], previous=older) is Reason.THRESHOLD
    assert verify_charter(c.signed(successor(older), PAYLOAD_TYPE), c.NOW, previous=older)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 3}, Reason.DOCUMENT_RULE),
        ({"name": "Another"}, Reason.DOCUMENT_RULE),
        ({"previous": "00" * 32}, Reason.DOCUMENT_DIGEST),
    ],
    ids=["version skipped", "another name", "another previous"],
)
def test_a_version_that_does_not_follow_is_refused(changes: dict[str, Any], expected: Reason) -> None:
    older = c.charter()
    assert reason_of(successor(older) | changes, previous=older) is expected


def test_an_old_version_does_not_replace_a_newer_one() -> None:
    older = c.charter()
    newer = verify_charter(c.signed(successor(older), PAYLOAD_TYPE), c.NOW, previous=older)
    assert reason_of(c.charter_json(), previous=newer) is Reason.DOCUMENT_RULE


def test_an_unknown_member_is_not_found() -> None:
    with pytest.raises(DocumentError) as refused:
        c.charter().document.member("nobody")
    assert refused.value.reason is Reason.UNKNOWN_MEMBER
