"""Results as signed EARs: what raises each claim of the vector, and that a token has one spelling and one signer."""

from __future__ import annotations

import base64
import json
import tomllib
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.conftest import EXPECTED, Verified
from trusted.attestation.appraise import appraise, examine, with_devices
from trusted.attestation.claims import SnpClaims
from trusted.attestation.ear import PROFILE, RELEASE, Appraiser, Grant, open_ear, sign_ear, verify_ear
from trusted.attestation.policies.check import Check, Subject, Verdict
from trusted.attestation.policies.snp import SnpPolicy
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import Assurance
from trusted.attestation.trust_vector import Tier, TrustVector, trust_vector
from trusted.errors import AttestationError, ProtocolError, Reason, WireError
from trusted.wire import encode_json

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
APPRAISER = Appraiser("1.0", KEY)
NONCE = b"\x09" * 64
HARDWARE = {"instance-identity": 0, "configuration": 2, "executables": 3, "hardware": 2, "runtime-opaque": 2}
NO_CLAIM = {"file-system": 0, "storage-opaque": 0, "sourced-data": 0}


@pytest.fixture
def result(verified: Verified, policy: SnpPolicy, now: datetime) -> AttestationResult:
    return appraise(verified(), policy, EXPECTED, now)


@pytest.fixture
def token(result: AttestationResult) -> str:
    return sign_ear(result, Grant("", NONCE), APPRAISER)


@pytest.fixture
def checks(verified: Verified, policy: SnpPolicy, now: datetime) -> tuple[Check, ...]:
    return examine(verified(), policy, EXPECTED, now)


@pytest.fixture
def hardware(verified: Verified, now: datetime) -> Subject:
    """The same claims as if a vendor's root stood behind them."""
    return Subject(verified().claims, Assurance.HARDWARE, now)


LENIENT = frozenset({"smt", "single_socket"})


def changed(checks: tuple[Check, ...], verdict: Verdict, *claims: str) -> tuple[Check, ...]:
    return tuple(replace(check, verdict=verdict) if check.claim in claims else check for check in checks)


def rewritten(token: str, key: Ed25519PrivateKey = KEY, **changes: Any) -> str:
    """``token`` with some of its claims changed (None removes one), signed again."""
    header, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    signed = f"{header}.{encode(encode_json(claims))}"
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refusal(token: str, now: datetime, key: bytes = PUBLIC) -> Reason:
    with pytest.raises(ProtocolError) as error:
        verify_ear(token, key, now)
    return error.value.reason


def test_a_signed_result_says_under_which_policy_what_was_admitted_and_until_when(
    token: str, result: AttestationResult, now: datetime
) -> None:
    ear = verify_ear(token, PUBLIC, now)
    (part,) = ear.parts
    assert (part.name, part.policy_digest, part.evidence_digest) == (
        "cpu",
        result.policy_digest,
        result.evidence_digest,
    )
    assert (ear.build, ear.nonce, ear.issued) == ("1.0", NONCE, now)
    assert ear.expires == result.expires.replace(microsecond=0)
    assert part.vector == result.vector
    assert part.conclusions["skips"] == result.to_json()["skips"]


def test_the_claims_are_spelled_as_the_draft_spells_them(token: str, result: AttestationResult) -> None:
    header, payload, _ = token.split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "EdDSA", "typ": "eat+jwt"}
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert set(claims) == {"eat_profile", "iat", "exp", "eat_nonce", "ear_verifier_id", "submods"}
    assert claims["eat_profile"] == PROFILE
    assert claims["ear_verifier_id"] == {"developer": "Cloister", "build": "1.0"}
    cpu = claims["submods"]["cpu"]
    assert cpu["ear_status"] == result.vector.status.value
    assert set(cpu["ear_trustworthiness_vector"]) == set(HARDWARE | NO_CLAIM)
    assert cpu["ear_appraisal_policy_ids"] == [f"urn:cloister:policy:sha256:{result.policy_digest.hex()}"]


def test_a_software_root_is_contraindicated_whatever_admits_it(result: AttestationResult, token: str) -> None:
    assert result.assurance is Assurance.NONE
    assert result.vector == TrustVector(97, 2, 3, 0, 97, 96, 0, 0)
    assert result.vector.status is Tier.CONTRAINDICATED


def test_every_claim_is_raised_by_checks_that_hold(checks: tuple[Check, ...], hardware: Subject) -> None:
    vector = trust_vector(hardware, checks, LENIENT)
    # The strict template lists no chips, but denies some: an empty list of denied chips is a list.
    assert vector.to_json() == HARDWARE | NO_CLAIM | {"instance-identity": 2}
    assert vector.status is Tier.AFFIRMING


def test_without_any_check_nothing_is_trusted(hardware: Subject) -> None:
    software = replace(hardware, assurance=Assurance.NONE)
    assert trust_vector(software, (), frozenset()).status is Tier.CONTRAINDICATED


@pytest.mark.parametrize("verdict", [Verdict.SKIP, Verdict.FAIL])
@pytest.mark.parametrize(
    ("knob", "claim", "code"),
    [
        ("debug", "runtime-opaque", 96),
        ("debug", "configuration", 96),
        ("migration", "configuration", 32),
        ("measurements", "executables", 33),
        ("minimum_tcb", "hardware", 32),
        ("provisional_firmware", "hardware", 32),
        ("revocation", "hardware", 32),
    ],
)
def test_what_was_not_enforced_raises_nothing(
    checks: tuple[Check, ...], hardware: Subject, verdict: Verdict, knob: str, claim: str, code: int
) -> None:
    assert trust_vector(hardware, changed(checks, verdict, knob), LENIENT).to_json()[claim] == code


@pytest.mark.parametrize("knob", ["debug", "migration", "provisional_firmware"])
def test_a_knob_that_allows_what_weakens_raises_nothing(
    checks: tuple[Check, ...], hardware: Subject, knob: str
) -> None:
    strict = trust_vector(hardware, checks, LENIENT)
    assert trust_vector(hardware, checks, LENIENT | {knob}).status is not strict.status


def test_appraise_counts_a_knob_that_allows(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    loose = SnpPolicy.from_json({**policy.to_json(), "debug": "allow"})
    assert appraise(verified(), loose, EXPECTED, now).vector.configuration == 96


def test_a_machine_that_no_list_knows_and_a_key_that_names_none_have_no_identity(
    checks: tuple[Check, ...], hardware: Subject
) -> None:
    lists = ("chip_ids", "denied_chip_ids", "vlek")
    unlisted = changed(checks, Verdict.SKIP, *lists)
    assert trust_vector(hardware, unlisted, LENIENT).instance_identity == 0
    assert isinstance(hardware.claims, SnpClaims)
    masked = replace(hardware.claims, platform=replace(hardware.claims.platform, hardware_id=bytes(64)))
    assert trust_vector(replace(hardware, claims=masked), checks, LENIENT).instance_identity == 0


def test_a_configuration_that_nothing_binds_is_not_the_approved_one(
    checks: tuple[Check, ...], hardware: Subject
) -> None:
    unbound = tuple(check for check in checks if check.claim != "host_data")
    assert trust_vector(hardware, unbound, LENIENT).configuration == 3


@pytest.mark.parametrize(
    ("code", "tier"),
    [
        (-1, Tier.NONE),
        (0, Tier.NONE),
        (1, Tier.NONE),
        (2, Tier.AFFIRMING),
        (31, Tier.AFFIRMING),
        (32, Tier.WARNING),
        (95, Tier.WARNING),
        (96, Tier.CONTRAINDICATED),
        (99, Tier.CONTRAINDICATED),
    ],
)
def test_tiers_begin_at_their_numbers(code: int, tier: Tier) -> None:
    assert Tier.of(code) is tier
    assert TrustVector(hardware=code).status is tier


def test_devices_stand_beside_the_cpu_and_the_worst_counts(result: AttestationResult, now: datetime) -> None:
    ear = verify_ear(sign_ear(with_devices(result, (result, result)), Grant("", NONCE), APPRAISER), PUBLIC, now)
    assert [part.name for part in ear.parts] == ["cpu", "snp-0", "snp-1"]
    assert ear.status is Tier.CONTRAINDICATED


@pytest.mark.parametrize("size", [0, 7, 65])
def test_a_nonce_of_another_size_is_a_bug_of_its_caller(result: AttestationResult, size: int) -> None:
    with pytest.raises(ValueError, match="nonce"):
        sign_ear(result, Grant("", bytes(size)), APPRAISER)


def test_another_signer_is_refused(token: str, now: datetime) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert refusal(token, now, other) is Reason.EVIDENCE_SIGNATURE
    assert refusal(token, now, PUBLIC[:-1]) is Reason.EVIDENCE_SIGNATURE


def test_a_token_is_good_to_its_last_second_and_not_before_it_was_made(
    token: str, result: AttestationResult, now: datetime
) -> None:
    last = result.expires.replace(microsecond=0)
    verify_ear(token, PUBLIC, last)
    assert refusal(token, last + timedelta(seconds=1)) is Reason.CERT_EXPIRED
    verify_ear(token, PUBLIC, now - timedelta(seconds=60))
    assert refusal(token, now - timedelta(seconds=61)) is Reason.CERT_NOT_YET_VALID


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "EdDSA"}, {"alg": "HS256", "typ": "eat+jwt"}])
def test_no_header_chooses_how_the_token_is_verified(token: str, now: datetime, header: dict[str, str]) -> None:
    _, payload, _ = token.split(".")
    signed = f"{encode(encode_json(header))}.{payload}"
    assert refusal(f"{signed}.{encode(KEY.sign(signed.encode()))}", now) is Reason.UNSUPPORTED_VERSION
    assert refusal(f"{signed}.", now) is Reason.UNSUPPORTED_VERSION


@pytest.mark.parametrize("extra", ["=", ".", "\n", " ", "A"])
def test_a_token_has_one_spelling(token: str, now: datetime, extra: str) -> None:
    with pytest.raises(ProtocolError):
        verify_ear(token + extra, PUBLIC, now)
    with pytest.raises(ProtocolError):
        verify_ear(extra + token, PUBLIC, now)


def test_a_token_that_is_too_long_is_not_parsed(now: datetime) -> None:
    assert refusal("A" * ((1 << 17) + 1), now) is Reason.TOO_LARGE


def test_every_character_of_a_token_counts(token: str, now: datetime) -> None:
    for place, letter in enumerate(token):
        other = "A" if letter != "A" else "B"
        with pytest.raises(ProtocolError):
            verify_ear(token[:place] + other + token[place + 1 :], PUBLIC, now)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eat_profile": "tag:ietf.org,2026:rats/ear#03"}, Reason.MALFORMED),
        ({"exp": None}, Reason.MISSING_FIELD),
        ({"exp": "never"}, Reason.WRONG_TYPE),
        ({"iat": -1}, Reason.MALFORMED),
        ({"eat_nonce": None}, Reason.MISSING_FIELD),
        ({"eat_nonce": "="}, Reason.MALFORMED),
        ({"extra": 1}, Reason.UNKNOWN_FIELD),
        ({"submods": {}}, Reason.MALFORMED),
        ({"submods": {"CPU": {}}}, Reason.MALFORMED),
        ({"submods": {"cpu": {}}}, Reason.MISSING_FIELD),
        ({"ear_verifier_id": {"developer": "Else", "build": "1"}}, Reason.MALFORMED),
    ],
)
def test_a_signed_token_of_another_form_is_refused(
    token: str, now: datetime, changes: dict[str, Any], reason: Reason
) -> None:
    verify_ear(rewritten(token), PUBLIC, now)
    assert refusal(rewritten(token, **changes), now) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"ear_status": "affirming"},
        {"ear_appraisal_policy_ids": []},
        {"ear_appraisal_policy_ids": [7]},
        {"ear_appraisal_policy_ids": ["urn:cloister:policy:sha256:00"]},
        {"ear_trustworthiness_vector": {"hardware": 2}},
        {"ear_verifier_claims": {}},
    ],
)
def test_a_part_that_contradicts_itself_is_refused(token: str, now: datetime, changes: dict[str, Any]) -> None:
    payload = token.split(".")[1]
    cpu = json.loads(base64.urlsafe_b64decode(payload + "=="))["submods"]["cpu"]
    with pytest.raises(WireError):
        verify_ear(rewritten(token, submods={"cpu": {**cpu, **changes}}), PUBLIC, now)


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda data: f"{encode(data)}.{encode(data)}.AA"))
def test_anything_else_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises((WireError, AttestationError)):
        verify_ear(text, PUBLIC, datetime.fromisoformat("2026-11-01T00:00:00+00:00"))


def test_a_chips_id_is_not_in_a_token(token: str, result: AttestationResult) -> None:
    assert any(result.hardware_id)
    payload = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    assert result.hardware_id.hex().encode() not in payload
    assert b"hardware_id" not in payload


def test_the_subject_is_signed_and_the_grant_ends_with_the_lease(result: AttestationResult, now: datetime) -> None:
    until = now + timedelta(seconds=30)
    ear = verify_ear(sign_ear(result, Grant("worker-1", NONCE, until), APPRAISER), PUBLIC, now)
    assert (ear.subject, ear.expires) == ("worker-1", until.replace(microsecond=0))
    late = sign_ear(result, Grant("worker-1", NONCE, result.expires + timedelta(days=1)), APPRAISER)
    assert verify_ear(late, PUBLIC, now).expires == result.expires.replace(microsecond=0)
    with pytest.raises(ValueError, match="subject"):
        sign_ear(result, Grant("x" * 257, NONCE), APPRAISER)


def test_an_ended_token_can_still_be_opened_and_says_that_it_ended(token: str, result: AttestationResult) -> None:
    ear = open_ear(token, PUBLIC)
    for when, reason in (
        (ear.expires + timedelta(seconds=1), Reason.CERT_EXPIRED),
        (ear.issued - timedelta(seconds=61), Reason.CERT_NOT_YET_VALID),
    ):
        with pytest.raises(AttestationError) as error:
            ear.require_current(when)
        assert error.value.reason is reason
    ear.require_current(ear.expires)


@pytest.mark.parametrize("other", [NONCE[:-1], NONCE + b"\0", b"\x08" + NONCE[1:], b""])
def test_a_token_for_another_question_is_refused(token: str, other: bytes) -> None:
    ear = open_ear(token, PUBLIC)
    ear.require_nonce(NONCE)
    with pytest.raises(AttestationError) as error:
        ear.require_nonce(other)
    assert error.value.reason is Reason.NONCE


def test_tokens_name_the_release_that_made_them() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == RELEASE
