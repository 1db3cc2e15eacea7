"""The policy for GPUs: strict as data, and each knob both ways."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.attestation.forge_gpu import Gpu, GpuMaker, ocsp_part, rim
from tests.attestation.test_nvidia import CHALLENGE, held
from trusted.attestation.appraise import Expected, appraise, examine
from trusted.attestation.binding import short_nonce
from trusted.attestation.device_policy import read_devices, write_devices
from trusted.attestation.gpu_claims import GpuClaims
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.nvidia import (
    KNOBS,
    NvidiaPolicy,
    OcspRule,
    Presence,
    VersionRule,
    strict_nvidia_policy,
)
from trusted.attestation.policies.nvidia_checks import KNOB_CHECKS
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import Assurance
from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import decode_json, encode_json

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NAMES = [knob.name for knob in KNOBS]
NO = Skip("a test")
EXPECTED = Expected(CHALLENGE, bytes(32))
MAKER = GpuMaker()


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return replace(MAKER.make(), feature_flag=0).fully_vouched(NOW)


def claims_of(gpu: Gpu) -> GpuClaims:
    claims = held(gpu.attest(CHALLENGE), NOW, MAKER).claims
    assert isinstance(claims, GpuClaims)
    return claims


def template(**changes: Any) -> NvidiaPolicy:
    return replace(strict_nvidia_policy(assurance=Assurance.NONE), **changes)


def affirmed(gpu: Gpu, policy: NvidiaPolicy, now: datetime = NOW) -> AttestationResult:
    return appraise(held(gpu.attest(CHALLENGE), now, MAKER), policy, EXPECTED, now)


def refused(gpu: Gpu, policy: NvidiaPolicy, now: datetime = NOW) -> Reason:
    with pytest.raises(AttestationError) as error:
        affirmed(gpu, policy, now)
    return error.value.reason


def test_the_strict_template_admits_a_gpu_that_nvidia_vouches_for(gpu: Gpu) -> None:
    result = affirmed(gpu, template())
    assert result.hardware_id == claims_of(gpu).hardware_id
    assert result.expires == NOW + timedelta(days=1)  # when the OCSP answers run out
    assert {skip.knob for skip in result.skips} == {"measurements", "vbios_versions", "device_ids"}


def test_the_binding_is_the_short_nonce_of_the_challenge(gpu: Gpu) -> None:
    assert claims_of(gpu).report_data == short_nonce(CHALLENGE)
    with pytest.raises(AttestationError) as error:
        appraise(held(gpu.attest(bytes(64)), NOW, MAKER), template(), EXPECTED, NOW)
    assert error.value.reason is Reason.REPORT_DATA


def test_each_knob_is_a_field_with_a_meaning_and_a_check() -> None:
    assert [field.name for field in fields(NvidiaPolicy)] == NAMES
    assert list(KNOB_CHECKS) == NAMES
    assert all(knob.meaning for knob in KNOBS)


def test_a_policy_survives_canonical_json() -> None:
    rule = VersionRule(allow=("96.00.AF.00.01",))
    policy = template(
        vbios_versions=rule, measurements=(ReferenceValue(b"\x11" * 48, NOW),), device_ids=(b"\x22" * 32,)
    )
    again = NvidiaPolicy.from_json(decode_json(encode_json(policy.to_json())))
    assert again == policy
    assert again.digest == policy.digest


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_without_a_knob_does_not_read(name: str) -> None:
    value = template().to_json()
    del value[name]
    with pytest.raises(WireError) as error:
        NvidiaPolicy.from_json(value)
    assert error.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architectures", ["Ampere"]),
        ("modes", ["devtools"]),
        ("driver_versions", {"allow": ["latest"]}),
        ("driver_versions", {"minimum": {}}),
        ("driver_versions", {"minimum": {"Ampere": "550.0"}}),
        ("driver_versions", {}),
        ("driver_versions", {"allow": ["550.90"], "minimum": {"Hopper": "550.90"}}),
        ("ocsp", {"presence": "maybe", "max_age_days": 7}),
        ("ocsp", {"presence": "require", "max_age_days": 0}),
        ("ocsp", {"presence": "require"}),
        ("device_ids", ["00" * 32]),
        ("assurance", {"skip": "no"}),
        ("debug", {"skip": ""}),
    ],
)
def test_a_value_that_means_nothing_does_not_read(name: str, value: Any) -> None:
    with pytest.raises(WireError):
        NvidiaPolicy.from_json({**template().to_json(), name: value})


def test_architectures(gpu: Gpu) -> None:
    affirmed(gpu, template(architectures=("Hopper",)))
    assert refused(gpu, template(architectures=("Blackwell",))) is Reason.PRODUCT
    assert refused(gpu, template(architectures=())) is Reason.PRODUCT


def test_measurements(gpu: Gpu) -> None:
    good = ReferenceValue(claims_of(gpu).measurement)
    affirmed(gpu, template(measurements=(good,)))
    assert refused(gpu, template(measurements=(ReferenceValue(bytes(48)),))) is Reason.MEASUREMENT
    assert refused(gpu, template(measurements=(replace(good, until=NOW),))) is Reason.MEASUREMENT


def test_without_reference_values_the_measurements_cannot_be_skipped(gpu: Gpu) -> None:
    bare = replace(gpu, parts=())
    lax = template(rims=NO, debug=Permission.ALLOW, ocsp=NO)
    assert refused(bare, lax) is Reason.MEASUREMENT
    affirmed(bare, replace(lax, measurements=(ReferenceValue(claims_of(bare).measurement),)))


@pytest.mark.parametrize("missing", ["rim-driver", "rim-vbios"])
def test_rims_are_both_or_refused(gpu: Gpu, missing: str) -> None:
    half = replace(gpu, parts=tuple(part for part in gpu.parts if part[0] != missing))
    pinned = template(measurements=(ReferenceValue(claims_of(half).measurement),))
    assert refused(half, pinned) is Reason.MEASUREMENT
    assert refused(half, replace(pinned, rims=Demand.ANY)) is Reason.DEBUG
    affirmed(half, replace(pinned, rims=Demand.ANY, debug=Permission.ALLOW))


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        (VersionRule(allow=("580.159.03",)), True),
        (VersionRule(allow=("580.159.04", "580.159.030")), False),
        (VersionRule(allow=()), False),
        (VersionRule(minimum=(("Hopper", "580.159.03"),)), True),
        (VersionRule(minimum=(("Hopper", "580.99.99"),)), True),
        (VersionRule(minimum=(("Hopper", "580.160"),)), False),
        (VersionRule(minimum=(("Hopper", "1000.0"),)), False),
    ],
)
def test_driver_versions(gpu: Gpu, rule: VersionRule, good: bool) -> None:
    if good:
        affirmed(gpu, template(driver_versions=rule))
    else:
        assert refused(gpu, template(driver_versions=rule)) is Reason.FIRMWARE_VERSION


def test_an_architecture_without_a_floor_is_refused(gpu: Gpu) -> None:
    rule = VersionRule(minimum=(("Blackwell", "1.0"),))
    assert refused(gpu, template(driver_versions=rule)) is Reason.POLICY_UNSET


def test_vbios_versions(gpu: Gpu) -> None:
    affirmed(gpu, template(vbios_versions=VersionRule(allow=("96.00.74.00.20",))))
    affirmed(gpu, template(vbios_versions=VersionRule(minimum=(("Hopper", "96.00.74.00.0F"),))))
    for rule in (VersionRule(allow=("96.00.74.00.21",)), VersionRule(minimum=(("Hopper", "96.00.A0.00.01"),))):
        assert refused(gpu, template(vbios_versions=rule)) is Reason.FIRMWARE_VERSION


@pytest.mark.parametrize(("flag", "mode"), [(0, "SPT"), (1, "MPT"), (2, "PPCIE"), (None, "unstated")])
def test_modes(gpu: Gpu, flag: int | None, mode: str) -> None:
    other = replace(gpu, feature_flag=flag)
    affirmed(other, template(modes=(mode,)))
    others = tuple(name for name in ("SPT", "MPT", "PPCIE", "unstated") if name != mode)
    assert refused(other, template(modes=others)) is Reason.PLATFORM_INFO


def test_debug_needs_to_be_ruled_out(gpu: Gpu) -> None:
    bare = replace(gpu, parts=())
    pinned = template(rims=NO, ocsp=NO, measurements=(ReferenceValue(claims_of(bare).measurement),))
    assert refused(bare, pinned) is Reason.DEBUG
    affirmed(bare, replace(pinned, debug=Permission.ALLOW))
    affirmed(bare, replace(pinned, debug=NO))


def test_ocsp_is_required_fresh_or_allowed_to_be_missing(gpu: Gpu) -> None:
    silent = replace(gpu, parts=tuple(part for part in gpu.parts if part[0] != "ocsp"))
    missing = OcspRule(Presence.ALLOW_MISSING, 7)
    assert refused(silent, template()) is Reason.CRL_STALE
    affirmed(silent, template(ocsp=missing))
    late = NOW + timedelta(days=1, seconds=1)
    assert refused(gpu, template(), late) is Reason.CRL_STALE
    assert refused(gpu, template(ocsp=missing), late) is Reason.CRL_STALE


def test_ocsp_answers_have_an_age(gpu: Gpu) -> None:
    verified = held(gpu.attest(CHALLENGE), NOW, MAKER)
    for hours, verdict in ((23, Verdict.PASS), (23.1, Verdict.FAIL)):  # issued an hour before NOW
        checks = examine(verified, template(ocsp=OcspRule(Presence.REQUIRE, 1)), EXPECTED, NOW + timedelta(hours=hours))
        assert next(check for check in checks if check.claim == "ocsp").verdict is verdict


def test_device_lists(gpu: Gpu) -> None:
    device = claims_of(gpu).hardware_id
    affirmed(gpu, template(device_ids=(device,)))
    assert refused(gpu, template(device_ids=(b"\x01" * 32,))) is Reason.HARDWARE_NOT_ALLOWED
    assert refused(gpu, template(device_ids=())) is Reason.HARDWARE_NOT_ALLOWED
    assert refused(gpu, template(denied_device_ids=(device,))) is Reason.HARDWARE_NOT_ALLOWED


def test_the_device_keeps_its_id_when_its_firmware_changes(gpu: Gpu) -> None:
    from tests.attestation.forge_gpu import tcb_info

    newer = gpu.with_leaf(tcb_info(b"\xf2" * 48), fwid=b"\xf2" * 48)
    assert claims_of(newer).hardware_id == claims_of(gpu).hardware_id
    assert claims_of(newer).ueid != claims_of(gpu).ueid


def test_a_forged_gpu_is_no_hardware(gpu: Gpu) -> None:
    assert refused(gpu, template(assurance=Assurance.HARDWARE)) is Reason.ASSURANCE


@pytest.mark.parametrize("knob", NAMES)
def test_a_failed_check_says_what_to_do(knob: str) -> None:
    assert len(KNOB_CHECKS[knob].remedy) > 10


def test_a_manifest_that_vouches_for_less_is_still_a_match(gpu: Gpu) -> None:
    """What the vendor does not name may be anything; that is the vendor's word, and the claim counts what it covers."""
    xml = rim(MAKER, gpu.driver, {7: [gpu.measurements[7]]})
    changed = tuple(bytes(48) if place == 30 else value for place, value in enumerate(gpu.measurements))
    other = replace(gpu.with_parts(rim_driver=xml, ocsp=ocsp_part(gpu, NOW)), measurements=changed)
    assert [claim.compared for claim in claims_of(other).rims] == [1, 1]


# the rule for devices in a role's policy


def role(devices: Any) -> dict[str, Any]:
    return {**AppraisalPolicy.of(snp=development_snp_policy([b"\x11" * 48])).to_json(), "devices": devices}


def rule(**count: int) -> dict[str, Any]:
    return {"nvidia-gpu": {"count": count, **template().to_json()}}


def test_a_rule_for_devices_survives_canonical_json() -> None:
    value = role(rule(min=1, max=8))
    policy = AppraisalPolicy.from_json(value)
    assert policy.to_json() == value
    assert read_devices(write_devices(policy.devices), "devices") == policy.devices
    assert policy.digest != AppraisalPolicy(policy.platforms).digest


def test_a_role_without_the_rule_has_no_devices() -> None:
    policy = AppraisalPolicy.of(snp=development_snp_policy([b"\x11" * 48]))
    assert "devices" not in policy.to_json()
    assert not AppraisalPolicy.from_json(policy.to_json()).devices


@pytest.mark.parametrize(
    "devices",
    [
        {},
        None,
        {"skip": "no"},
        {"snp": {}},
        {"nvidia-gpu": {}},
        {"nvidia-gpu": template().to_json()},
        rule(min=1),
        rule(max=1),
        rule(min=2, max=1),
        rule(min=0, max=0),
        rule(min=-1, max=1),
        rule(min=1, max=17),
        {"nvidia-gpu": {"count": {"min": 1, "max": 1}}},
        {"nvidia-gpu": {"count": {"min": 1, "max": 1}, "skip": "no"}},
        {**rule(min=1, max=1), "other": {}},
    ],
)
def test_a_rule_that_says_too_little_does_not_read(devices: Any) -> None:
    with pytest.raises(WireError):
        AppraisalPolicy.from_json(role(devices))


def test_a_gpu_is_no_tee() -> None:
    """A policy that named a GPU as a platform would admit an enclave that nothing measures."""
    value = {"nvidia-gpu": template().to_json()}
    with pytest.raises(WireError):
        AppraisalPolicy.from_json(value)
