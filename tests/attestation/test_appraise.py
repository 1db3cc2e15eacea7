"""Appraisal: each knob below and above, the bindings, and what an affirming result says."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import EXPECTED, HOST_DATA, MEASUREMENT, REPORT_DATA, RootOf, Verified, attest_with
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.rules import ReferenceValue, Skip, TcbFloor, write_time
from trusted.attestation.policies.snp import KNOBS, SnpPolicy, development_snp_policy, strict_snp_policy
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import Assurance
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason, WireError

SECOND = timedelta(seconds=1)
TCB = {"bl": 10, "tee": 0, "snp": 25, "ucode": 84}
KEY = b"\x44" * 48


def refused(verified: VerifiedEvidence, policy: SnpPolicy, now: datetime, expected: Expected = EXPECTED) -> Reason:
    with pytest.raises(AttestationError) as error:
        appraise(verified, policy, expected, now)
    return error.value.reason


def with_knob(policy: SnpPolicy, name: str, value: Any) -> SnpPolicy:
    return SnpPolicy.from_json({**policy.to_json(), name: value})


def test_evidence_that_meets_the_policy_is_affirmed(
    verified: Verified, policy: SnpPolicy, now: datetime, chip: Chip
) -> None:
    evidence = verified()
    result = appraise(evidence, policy, EXPECTED, now)
    assert result.measurement == MEASUREMENT
    assert result.hardware_id == chip.chip_id
    assert result.product == "Genoa"
    assert result.policy_digest == policy.digest
    assert result.evidence_digest == evidence.evidence_digest
    assert result.issued == now


def test_software_evidence_is_seen_to_have_no_assurance(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    result = appraise(verified(), policy, EXPECTED, now)
    assert result.assurance is Assurance.NONE
    assert result.to_json()["assurance"] == "none"


def test_software_evidence_never_meets_a_demand_for_hardware(verified: Verified, now: datetime) -> None:
    strict = strict_snp_policy([MEASUREMENT])
    assert refused(verified(), strict, now) is Reason.ASSURANCE
    failed = [check.claim for check in examine(verified(), strict, EXPECTED, now) if check.verdict is Verdict.FAIL]
    assert failed == ["assurance"]


# name, a value that the evidence just meets, one that it just misses, the reason
THRESHOLDS: list[tuple[str, Any, Any, Reason]] = [
    ("products", ["Genoa"], ["Milan", "Turin"], Reason.PRODUCT),
    ("products", ["Turin", "Genoa"], [], Reason.PRODUCT),
    (
        "measurements",
        [{"value": "22" * 48, "until": None}, {"value": "11" * 48, "until": None}],
        [{"value": "11" * 47 + "10", "until": None}],
        Reason.MEASUREMENT,
    ),
    ("minimum_version", 4, 5, Reason.REPORT_VERSION),
    *[
        (knob, {"Genoa": TCB}, {"Genoa": {**TCB, component: TCB[component] + 1}}, Reason.TCB_FLOOR)
        for knob in ("minimum_tcb", "minimum_launch_tcb")
        for component in TCB
    ],
    ("minimum_tcb", {"Genoa": {**TCB, "snp": 0}}, {}, Reason.POLICY_UNSET),
    ("minimum_guest_svn", 3, 4, Reason.GUEST_SVN),
    (
        "minimum_firmware",
        {"major": 1, "minor": 55, "build": 43},
        {"major": 1, "minor": 55, "build": 44},
        Reason.FIRMWARE_VERSION,
    ),
    (
        "minimum_firmware",
        {"major": 1, "minor": 54, "build": 255},
        {"major": 1, "minor": 56, "build": 0},
        Reason.FIRMWARE_VERSION,
    ),
    (
        "minimum_firmware",
        {"major": 0, "minor": 255, "build": 0},
        {"major": 2, "minor": 0, "build": 0},
        Reason.FIRMWARE_VERSION,
    ),
    ("smt", "allow", "refuse", Reason.GUEST_POLICY),
    ("single_socket", "any", "require", Reason.GUEST_POLICY),
    ("vmpl", 1, 0, Reason.VMPL),
    ("vmpl", 1, 2, Reason.VMPL),
    (
        "platform_info",
        {"require": ["ecc", "smt"], "refuse": ["tsme"]},
        {"require": ["ecc", "tsme"], "refuse": []},
        Reason.PLATFORM_INFO,
    ),
    ("platform_info", {"require": [], "refuse": []}, {"require": [], "refuse": ["smt"]}, Reason.PLATFORM_INFO),
    ("author_keys", [KEY.hex()], ["45" * 48], Reason.AUTHOR_KEY),
    ("author_keys", [KEY.hex(), "45" * 48], [], Reason.AUTHOR_KEY),
    ("id_keys", [KEY.hex()], ["45" * 48], Reason.ID_KEY),
    ("family_id", "55" * 16, "55" * 15 + "54", Reason.IMAGE_ID),
    ("image_id", "66" * 16, "55" * 16, Reason.IMAGE_ID),
    ("minimum_abi", {"major": 1, "minor": 2}, {"major": 1, "minor": 3}, Reason.GUEST_POLICY),
    ("minimum_abi", {"major": 0, "minor": 9}, {"major": 2, "minor": 0}, Reason.GUEST_POLICY),
    ("mitigations", {"launch": [0], "current": [0, 2]}, {"launch": [1], "current": []}, Reason.MITIGATION),
    ("mitigations", {"launch": [], "current": []}, {"launch": [], "current": [1]}, Reason.MITIGATION),
    ("revocation", {"max_age_days": 366}, None, Reason.CRL_STALE),
    ("assurance", "none", "hardware", Reason.ASSURANCE),
]

RICH = {
    "version": 4,
    "guest_svn": 3,
    "policy": 0x30102,
    "vmpl": 1,
    "key_flags": 1,
    "author_key_digest": KEY,
    "id_key_digest": KEY,
    "family_id": b"\x55" * 16,
    "image_id": b"\x66" * 16,
}


@pytest.mark.parametrize(("name", "met", "missed", "reason"), THRESHOLDS)
def test_each_knob_admits_what_meets_it_and_refuses_what_misses_it(
    verified: Verified, now: datetime, name: str, met: Any, missed: Any, reason: Reason
) -> None:
    rich = dict(RICH)
    if name == "mitigations":
        rich |= {"version": 5, "launch_mitigations": 1, "current_mitigations": 5}
    policy = with_knob(development_snp_policy([MEASUREMENT]), "vmpl", 1)
    evidence = verified(**rich)
    appraise(evidence, with_knob(policy, name, met), EXPECTED, now)
    if missed is not None:
        assert refused(evidence, with_knob(policy, name, missed), now) is reason


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("debug", {"policy": 0xB0000}, Reason.DEBUG),
        ("migration", {"policy": 0x70000}, Reason.MIGRATABLE),
        ("migration", {"report_id_ma": b"\xff" * 31 + b"\xfe"}, Reason.MIGRATABLE),
        ("provisional_firmware", {"committed_tcb": bytes([10, 0, 0, 0, 0, 0, 25, 83])}, Reason.PROVISIONAL_FIRMWARE),
        ("provisional_firmware", {"committed_firmware": (1, 55, 42)}, Reason.PROVISIONAL_FIRMWARE),
        ("provisional_firmware", {"committed_firmware": (1, 54, 43)}, Reason.PROVISIONAL_FIRMWARE),
        ("provisional_firmware", {"committed_firmware": (0, 55, 43)}, Reason.PROVISIONAL_FIRMWARE),
    ],
)
def test_what_weakens_a_guest_is_refused_unless_allowed(
    verified: Verified, policy: SnpPolicy, now: datetime, name: str, changes: Any, reason: Reason
) -> None:
    assert refused(verified(**changes), policy, now) is reason
    result = appraise(verified(**changes), with_knob(policy, name, "allow"), EXPECTED, now)
    assert name not in {skip.knob for skip in result.skips}
    result = appraise(verified(**changes), with_knob(policy, name, {"skip": "a test"}), EXPECTED, now)
    assert name in {skip.knob for skip in result.skips}


def test_what_strengthens_a_guest_is_taken_when_demanded(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    demanding = with_knob(policy, "single_socket", "require")
    appraise(verified(policy=0x130000), demanding, EXPECTED, now)
    assert refused(verified(), demanding, now) is Reason.GUEST_POLICY
    appraise(verified(policy=0x20000), with_knob(policy, "smt", "refuse"), EXPECTED, now)


def test_memory_behind_cxl_is_refused_for_no_knob_allows_it(
    verified: Verified, policy: SnpPolicy, now: datetime
) -> None:
    assert refused(verified(policy=0x230000), policy, now) is Reason.GUEST_POLICY


def test_keys_count_only_when_the_report_says_that_they_signed(
    verified: Verified, policy: SnpPolicy, now: datetime
) -> None:
    unsigned = verified(author_key_digest=KEY)
    assert refused(unsigned, with_knob(policy, "author_keys", [KEY.hex()]), now) is Reason.AUTHOR_KEY
    assert refused(verified(), with_knob(policy, "id_keys", [KEY.hex()]), now) is Reason.ID_KEY


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_report_without_mitigation_vectors_never_meets_that_knob(
    verified: Verified, policy: SnpPolicy, now: datetime, version: int
) -> None:
    demanding = with_knob(policy, "mitigations", {"launch": [], "current": []})
    demanding = with_knob(demanding, "minimum_version", 2)
    assert refused(verified(version=version), demanding, now) is Reason.MITIGATION


def test_chips_are_allowed_and_denied_by_name(verified: Verified, policy: SnpPolicy, now: datetime, chip: Chip) -> None:
    mine, other = chip.chip_id.hex(), "77" * 64
    appraise(verified(), with_knob(policy, "chip_ids", [other, mine]), EXPECTED, now)
    appraise(verified(), with_knob(policy, "denied_chip_ids", [other]), EXPECTED, now)
    for name, chips in (("chip_ids", [other]), ("chip_ids", []), ("denied_chip_ids", [other, mine])):
        assert refused(verified(), with_knob(policy, name, chips), now) is Reason.HARDWARE_NOT_ALLOWED
    both = with_knob(with_knob(policy, "chip_ids", [mine]), "denied_chip_ids", [mine])
    assert refused(verified(), both, now) is Reason.HARDWARE_NOT_ALLOWED


@pytest.mark.parametrize("changed", [0, 31, 63])
def test_evidence_for_another_session_is_refused(
    verified: Verified, policy: SnpPolicy, now: datetime, changed: int
) -> None:
    other = bytearray(REPORT_DATA)
    other[changed] ^= 0x80
    assert refused(verified(), policy, now, Expected(bytes(other), HOST_DATA)) is Reason.REPORT_DATA
    assert refused(verified(report_data=bytes(other)), policy, now) is Reason.REPORT_DATA


def test_a_guest_launched_for_another_plan_is_refused(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    assert refused(verified(host_data=HOST_DATA[:-1] + b"\x32"), policy, now) is Reason.HOST_DATA
    assert refused(verified(), policy, now, Expected(REPORT_DATA, bytes(32))) is Reason.HOST_DATA


@pytest.mark.parametrize("sizes", [(63, 32), (65, 32), (0, 32), (64, 31), (64, 33), (64, 0)])
def test_bindings_are_compared_whole_or_not_at_all(sizes: tuple[int, int]) -> None:
    with pytest.raises(WireError):
        Expected(b"\x22" * sizes[0], b"\x33" * sizes[1])


def test_an_overlap_window_closes_to_the_second(verified: Verified, now: datetime) -> None:
    new = ReferenceValue(b"\x99" * 48)
    for until, admitted in ((now + SECOND, True), (now, False), (now - SECOND, False)):
        policy = development_snp_policy([new, ReferenceValue(MEASUREMENT, until)])
        if admitted:
            assert appraise(verified(), policy, EXPECTED, now).expires == until
        else:
            assert refused(verified(), policy, now) is Reason.MEASUREMENT


def test_a_revocation_list_is_required_and_fresh(
    chip: Chip, software_root: SoftwareRoot, policy: SnpPolicy, now: datetime
) -> None:
    roots = [software_root.trust_root]
    without = verify(replace(attest_with(chip), crl=b""), roots, now)
    assert refused(without, policy, now) is Reason.CRL_STALE
    skipping = with_knob(policy, "revocation", {"skip": "air-gapped site"})
    assert "revocation" in {skip.knob for skip in appraise(without, skipping, EXPECTED, now).skips}
    year = timedelta(days=365)
    assert (
        refused(verify(attest_with(chip), roots, now + year + SECOND), policy, now + year + SECOND) is Reason.CRL_STALE
    )
    young = with_knob(policy, "revocation", {"max_age_days": 7})
    last = now - timedelta(hours=1) + timedelta(days=7)
    appraise(verify(attest_with(chip), roots, last), young, EXPECTED, last)
    assert refused(verify(attest_with(chip), roots, last + SECOND), young, last + SECOND) is Reason.CRL_STALE


def test_a_result_ends_with_the_first_thing_that_it_stands_on(
    verified: Verified, policy: SnpPolicy, now: datetime
) -> None:
    evidence = verified()
    crl = evidence.claims.crl
    assert crl.this_update is not None
    assert appraise(evidence, policy, EXPECTED, now).expires == crl.next_update
    young = with_knob(policy, "revocation", {"max_age_days": 30})
    assert appraise(evidence, young, EXPECTED, now).expires == crl.this_update + timedelta(days=30)
    without = with_knob(policy, "revocation", {"skip": "a test"})
    result = appraise(evidence, without, EXPECTED, now)
    assert result.expires == evidence.not_after
    result.require_unexpired(result.expires)
    with pytest.raises(AttestationError) as error:
        result.require_unexpired(result.expires + SECOND)
    assert error.value.reason is Reason.CERT_EXPIRED


def test_verified_evidence_does_not_outlive_its_chain(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    evidence = replace(verified(), not_after=now)
    appraise(evidence, policy, EXPECTED, now)
    assert refused(evidence, policy, now + SECOND) is Reason.CERT_EXPIRED


def test_milan_is_refused_without_a_list_of_its_chips(root_of: RootOf, now: datetime) -> None:
    root = root_of("Milan")
    chip = root.issue_chip(now=now)
    evidence = verify(attest_with(chip), [root.trust_root], now)
    policy = development_snp_policy([MEASUREMENT], products=["Milan"])
    assert refused(evidence, policy, now) is Reason.HARDWARE_NOT_ALLOWED
    result = appraise(evidence, with_knob(policy, "chip_ids", [chip.chip_id.hex()]), EXPECTED, now)
    assert result.product == "Milan"


WEAKNESSES: list[dict[str, Any]] = [
    {},
    {"policy": 0xB0000},
    {"policy": 0x70000},
    {"vmpl": 3},
    {"version": 2},
    {"platform_info": 0},
    {"measurement": bytes(48)},
    {"committed_firmware": (1, 0, 0)},
    {"launch_tcb": bytes(8)},
    {"current_firmware": (1, 55, 0), "committed_firmware": (1, 55, 0)},
    {"report_data": bytes(64)},
    {"host_data": bytes(32)},
]


@pytest.mark.parametrize("changes", WEAKNESSES)
def test_a_policy_without_one_of_its_fields_never_affirms(
    verified: Verified, policy: SnpPolicy, now: datetime, changes: dict[str, Any]
) -> None:
    evidence = verified(**changes)
    for knob in KNOBS:
        document = policy.to_json()
        del document[knob.name]
        with pytest.raises(WireError) as error:
            appraise(evidence, SnpPolicy.from_json(document), EXPECTED, now)
        assert error.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("name", "nothing", "reason"),
    [
        ("products", (), Reason.PRODUCT),
        ("measurements", (), Reason.MEASUREMENT),
        ("minimum_tcb", TcbFloor(()), Reason.POLICY_UNSET),
        ("minimum_launch_tcb", TcbFloor(()), Reason.POLICY_UNSET),
    ],
)
def test_an_empty_list_allows_nothing(
    verified: Verified, policy: SnpPolicy, now: datetime, name: str, nothing: Any, reason: Reason
) -> None:
    assert refused(verified(), replace(policy, **{name: nothing}), now) is reason


def test_an_explanation_covers_every_knob_and_agrees_with_the_verdict(
    verified: Verified, policy: SnpPolicy, now: datetime
) -> None:
    checks = examine(verified(policy=0xB0000), policy, EXPECTED, now)
    assert [check.claim for check in checks[4:]] == [knob.name for knob in KNOBS]
    assert [check.claim for check in checks[:4]] == ["report_data", "host_data", "not_after", "cxl"]
    assert [check.claim for check in checks if check.verdict is Verdict.FAIL] == ["debug"]
    assert all(check.expected and check.actual and check.remedy for check in checks)
    skipped = {check.claim for check in checks if check.verdict is Verdict.SKIP}
    assert skipped == {field.name for field in fields(policy) if isinstance(getattr(policy, field.name), Skip)}


def test_each_skip_stands_in_the_result_with_its_reason(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    result = appraise(verified(), with_knob(policy, "smt", {"skip": "single tenant"}), EXPECTED, now)
    assert {"knob": "smt", "why": "single tenant"} in result.to_json()["skips"]  # type: ignore[operator]


def test_a_result_says_what_was_proved(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    result = appraise(verified(), policy, EXPECTED, now)
    document = result.to_json()
    assert document["status"] == "affirming"
    assert document["measurement"] == MEASUREMENT.hex()
    assert document["issued"] == write_time(now)
    assert document["expires"] == write_time(result.expires)
    assert document["policy"] == policy.digest.hex()


def test_nobody_but_appraise_makes_a_result(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    result = appraise(verified(), policy, EXPECTED, now)
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    with pytest.raises(RuntimeError, match="appraise"):
        AttestationResult(**values, token=object())
    with pytest.raises((TypeError, ValueError)):
        AttestationResult(**values)
    with pytest.raises((TypeError, ValueError)):
        replace(result, assurance=Assurance.HARDWARE)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        result.assurance = Assurance.HARDWARE  # type: ignore[misc]


def test_an_error_carries_no_value_of_the_evidence(verified: Verified, policy: SnpPolicy, now: datetime) -> None:
    with pytest.raises(AttestationError) as error:
        appraise(verified(measurement=b"\xab" * 48), policy, EXPECTED, now)
    assert "abab" not in str(error.value)
    assert "measurements" in error.value.detail
