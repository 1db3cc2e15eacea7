"""Evidence of Azure confidential VMs: each link from the nonce to the processor, in real evidence and in forged."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.azure_vm import CONFIGURATION, AzureVm, azure_root, hcl_report, jwk
from tests.attestation.conftest import MEASUREMENT, REPORT_DATA, refused
from tests.attestation.from_vector import Loaded
from tests.attestation.from_vector import azure_vtpm as vectors
from tests.attestation.quotes import Quote
from tests.attestation.vectors import folder
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import hcl
from trusted.attestation.policies.azure_vtpm import AzureVtpmPolicy, strict_azure_vtpm_policy
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.rules import Skip
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, ProtocolError, Reason
from trusted.wire import sha256

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
EXPECTED = Expected(REPORT_DATA, bytes(32))
SNP_VECTORS = ("snp_genoa", "snp_milan_v1")


@pytest.fixture(scope="module")
def vm(chip: Chip) -> AzureVm:
    """A machine on the shared chip."""
    return AzureVm(chip, rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="module")
def azure(software_root: SoftwareRoot) -> TrustRoot:
    """The shared root, for Azure's evidence."""
    return azure_root(software_root)


@pytest.fixture(scope="module")
def verified(vm: AzureVm, azure: TrustRoot, now: datetime) -> VerifiedEvidence:
    """The machine's evidence, verified."""
    return verify(vm.evidence(REPORT_DATA), [azure], now)


def with_part(evidence: Evidence, name: str, content: bytes) -> Evidence:
    return replace(evidence, parts=tuple(sorted((dict(evidence.parts) | {name: content}).items())))


def policy(**changes: Any) -> AzureVtpmPolicy:
    """The strict template for the machine of these tests, which has no log and software below."""
    strict = strict_azure_vtpm_policy(
        [Quote().hash.digest(b"".join(Quote().values))], selection=(4, 9, 11), paravisors=[MEASUREMENT]
    ).to_json()
    inner = {**strict["snp"], "assurance": "none"}  # type: ignore[dict-item]
    return AzureVtpmPolicy.from_json(
        {**strict, "snp": inner, "event_log": {"skip": "no log"}, "assurance": "none", **changes}
    )


def inner(**changes: Any) -> dict[str, Any]:
    found = policy().to_json()["snp"]
    assert isinstance(found, dict)
    return {**found, **changes}


def why(evidence: VerifiedEvidence, with_policy: AzureVtpmPolicy, now: datetime) -> Reason:
    with pytest.raises(AttestationError) as error:
        appraise(evidence, with_policy, EXPECTED, now)
    return error.value.reason


def test_a_machine_whose_links_hold_is_affirmed(vm: AzureVm, verified: VerifiedEvidence, now: datetime) -> None:
    claims = verified.claims
    assert claims.report_data == short_nonce(REPORT_DATA)
    assert claims.hardware_id == vm.chip.chip_id
    assert (claims.product, claims.format, claims.fresh_report) == ("Genoa", EvidenceFormat.AZURE_VTPM, True)
    result = appraise(verified, policy(), EXPECTED, now)
    assert result.measurement == claims.quote.pcr_digest
    assert result.assurance is Assurance.NONE


def test_evidence_for_another_session_is_refused(verified: VerifiedEvidence, now: datetime) -> None:
    with pytest.raises(AttestationError) as error:
        appraise(verified, policy(), Expected(b"\x23" * 64, bytes(32)), now)
    assert error.value.reason is Reason.REPORT_DATA


def test_a_quote_by_another_key_is_refused(vm: AzureVm, azure: TrustRoot, now: datetime) -> None:
    """Relay: another machine's quote under this machine's report."""
    other = AzureVm(vm.chip, rsa.generate_private_key(65537, 2048))
    mixed = vm.evidence(REPORT_DATA, report=other.report(REPORT_DATA))
    assert refused(mixed, azure, now) is Reason.EVIDENCE_SIGNATURE


def test_a_key_that_the_hardware_report_does_not_name_is_refused(vm: AzureVm, azure: TrustRoot, now: datetime) -> None:
    data = vm.variable_data(REPORT_DATA)
    others = vm.variable_data(b"\x01" * 64)
    swapped = hcl_report(vm.hardware_report(others), data)
    assert refused(vm.evidence(REPORT_DATA, report=swapped), azure, now) is Reason.KEY_BINDING
    for over in (sha256(data) + b"\x01" + bytes(31), bytes(64), b"\xff" * 64):
        report = hcl_report(vm.hardware_report(data, report_data=over), data)
        assert refused(vm.evidence(REPORT_DATA, report=report), azure, now) is Reason.KEY_BINDING


def test_a_report_that_the_guest_asked_for_itself_is_refused(vm: AzureVm, azure: TrustRoot, now: datetime) -> None:
    """Only the paravisor at VMPL 0 may say which key the vTPM has."""
    data = vm.variable_data(REPORT_DATA)
    for level in (1, 2, 3):
        hardware = vm.hardware_report(data, fields=replace(vm.chip.fields(), vmpl=level))
        report = hcl_report(hardware, data)
        assert refused(vm.evidence(REPORT_DATA, report=report), azure, now) is Reason.VMPL


def test_the_hardware_report_needs_its_root(vm: AzureVm, now: datetime, root: TrustRoot) -> None:
    evidence = vm.evidence(REPORT_DATA)
    assert refused(evidence, root, now) is Reason.TRUST_ANCHOR  # the same root, but for another format
    assert refused(replace(evidence, certificates=()), root, now) is Reason.CHAIN


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 3},
        {"size": 1},
        {"request": 1},
        {"status": 1},
        {"data_size": 1},
        {"data_version": 2},
        {"type": 3},
        {"hash": 2},
        {"hash": 3},
        {"variable_size": 9000},
        {"variable_size": 4},
    ],
)
def test_a_layout_with_another_number_is_refused(vm: AzureVm, changes: dict[str, int]) -> None:
    data = vm.variable_data(REPORT_DATA)
    with pytest.raises(AttestationError):
        hcl.parse(hcl_report(bytes(1184), data, **changes))
    assert hcl.parse(hcl_report(bytes(1184), data)).user_data == REPORT_DATA


def test_bytes_around_the_signed_parts_must_be_zero(vm: AzureVm) -> None:
    data = vm.variable_data(REPORT_DATA)
    whole = hcl_report(bytes(1184), data)
    for offset in (20, 31, 1236 + len(data), 2599):
        changed = bytearray(whole)
        changed[offset] = 1
        with pytest.raises(AttestationError) as error:
            hcl.parse(bytes(changed))
        assert error.value.reason is Reason.RESERVED_NOT_ZERO
    with pytest.raises(AttestationError) as error:
        hcl.parse(hcl_report(bytes(1024) + b"\x01", data, type=4))
    assert error.value.reason is Reason.RESERVED_NOT_ZERO


KEY = rsa.generate_private_key(65537, 2048).public_key()


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": []},
        {"keys": {}},
        {"keys": ["HCLAkPub"]},
        {"keys": [jwk(KEY, "HCLAkPub"), jwk(KEY, "HCLAkPub")]},
        {"keys": [jwk(KEY, "HCLEkPub")]},
        {"keys": [jwk(KEY, "HCLAkPub", key_ops=["encrypt"])]},
        {"keys": [jwk(KEY, "HCLAkPub", key_ops=["sign", "encrypt"])]},
        {"keys": [jwk(KEY, "HCLAkPub", e="Aw")]},
        {"keys": [jwk(KEY, "HCLAkPub", kty="EC")]},
        {"keys": [jwk(KEY, "HCLAkPub", n="AQAB")]},
        {"keys": [jwk(KEY, "HCLAkPub", n=jwk(KEY, "")["n"] + "=")]},
        {"keys": [jwk(KEY, "HCLAkPub", n=None)]},
        {"keys": [jwk(KEY, f"k{index}") for index in range(9)]},
        {"user-data": "00" * 63},
        {"user-data": "00" * 65},
        {"user-data": "0 " * 64},
        {"user-data": None},
        {"vm-configuration": None},
        {"vm-configuration": {**CONFIGURATION, "secure-boot": "yes"}},
        {"vm-configuration": {**CONFIGURATION, "secure-boot": 1}},
        {"vm-configuration": {**CONFIGURATION, "tpm-persisted": None}},
        {"vm-configuration": {key: value for key, value in CONFIGURATION.items() if key != "console-enabled"}},
    ],
)
def test_json_that_names_no_key_or_no_machine_is_refused(vm: AzureVm, changes: dict[str, Any]) -> None:
    with pytest.raises(AttestationError) as error:
        hcl.parse(hcl_report(bytes(1184), vm.variable_data(REPORT_DATA, **changes)))
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"keys":[],"keys":[]}', b"\xff", b'{"a":NaN}', b"[" * 40])
def test_variable_data_that_is_no_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(AttestationError) as error:
        hcl.parse(hcl_report(bytes(1184), data))
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@given(st.binary(max_size=1400))
def test_any_bytes_read_or_are_refused(content: bytes) -> None:
    for report in (content, hcl_report(bytes(1184), content)[:2600]):
        try:
            hcl.parse(report)
        except ProtocolError:
            continue


# The policy.


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        ({}, {"pcrs": {"bank": "sha256", "selection": [4, 9], "values": {}}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"pcrs": {"bank": "sha384", "selection": [4, 9, 11], "values": {}}}, Reason.RUNTIME_MEASUREMENT),
        (
            {"pcrs": {"bank": "sha256", "selection": [4, 9, 11], "values": {"9": ["09" * 32]}}},
            {"pcrs": {"bank": "sha256", "selection": [4, 9, 11], "values": {"9": ["04" * 32]}}},
            Reason.RUNTIME_MEASUREMENT,
        ),
        ({}, {"measurements": [{"value": "11" * 32, "until": None}]}, Reason.MEASUREMENT),
        ({}, {"event_log": {"pcrs": [4]}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"snp": "measurement"}, Reason.MEASUREMENT),
        ({}, {"snp": "chip"}, Reason.HARDWARE_NOT_ALLOWED),
        ({}, {"snp": "assurance"}, Reason.ASSURANCE),
        ({"vm_ids": [CONFIGURATION["vmUniqueId"]]}, {"vm_ids": ["another"]}, Reason.HARDWARE_NOT_ALLOWED),
        (
            {"restarts": {"max_resets": 3, "max_restarts": 1}},
            {"restarts": {"max_resets": 2, "max_restarts": 1}},
            Reason.PLATFORM_INFO,
        ),
        ({}, {"restarts": {"max_resets": 3, "max_restarts": 0}}, Reason.PLATFORM_INFO),
        ({}, {"assurance": "hardware"}, Reason.ASSURANCE),
    ],
)
def test_each_knob_admits_and_refuses(
    verified: VerifiedEvidence, now: datetime, good: dict[str, Any], bad: dict[str, Any], reason: Reason
) -> None:
    nested = {
        "measurement": inner(measurements=[{"value": "77" * 48, "until": None}]),
        "chip": inner(chip_ids=["01" * 64]),
        "assurance": inner(assurance="hardware"),
    }
    appraise(verified, policy(**good), EXPECTED, now)
    if isinstance(bad.get("snp"), str):
        bad = {"snp": nested[bad["snp"]]}
    assert why(verified, policy(**bad), now) is reason


@pytest.mark.parametrize(
    ("name", "setting", "loose", "reason"),
    [
        ("secure_boot", {"secure-boot": False}, "any", Reason.PLATFORM_INFO),
        ("console", {"console-enabled": True}, "allow", Reason.DEBUG),
    ],
)
def test_a_machine_with_other_settings_is_refused(
    vm: AzureVm, azure: TrustRoot, now: datetime, name: str, setting: dict[str, Any], loose: str, reason: Reason
) -> None:
    changed = replace(vm, configuration={**CONFIGURATION, **setting})
    other = verify(changed.evidence(REPORT_DATA), [azure], now)
    assert why(other, policy(), now) is reason
    appraise(other, policy(**{name: loose}), EXPECTED, now)
    appraise(other, policy(**{name: {"skip": "known"}}), EXPECTED, now)


def test_an_old_hardware_report_is_seen(vm: AzureVm, azure: TrustRoot, now: datetime) -> None:
    """The quote is fresh, the report was made at boot: allowed only where the policy says so."""
    old = verify(vm.evidence(REPORT_DATA, report=vm.report()), [azure], now)
    assert not old.claims.fresh_report
    assert why(old, policy(), now) is Reason.REPORT_DATA
    appraise(old, policy(fresh_report="any"), EXPECTED, now)


def test_what_the_snp_policy_leaves_out_is_told(verified: VerifiedEvidence, now: datetime) -> None:
    checks = {check.claim: check for check in examine(verified, policy(), EXPECTED, now)}
    assert checks["snp"].verdict is Verdict.PASS
    assert "author_keys" in checks["snp"].expected
    bad = policy(snp=inner(vmpl=1, minimum_version=5, measurements=[{"value": "77" * 48, "until": None}]))
    failed = {check.claim: check for check in examine(verified, bad, EXPECTED, now)}["snp"]
    assert "vmpl: 0, 1 expected" in failed.actual
    assert "measurements" in failed.actual


def test_a_skipped_list_of_milan_chips_does_not_hold_below_either() -> None:
    """The one skip of SNP's that does not hold (attestation.md 6.5), on real evidence."""
    vector = loaded("snp_milan_v1")
    verified = verify(vector.evidence, vector.roots, NOVEMBER)
    value = vector.policy.to_json()
    assert isinstance(value["snp"], dict)
    value["snp"] = {**value["snp"], "chip_ids": {"skip": "any chip"}}
    checks = examine(verified, AzureVtpmPolicy.from_json(value), EXPECTED, NOVEMBER)
    failed = next(check for check in checks if check.claim == "snp")
    assert (failed.verdict, failed.reason) == (Verdict.FAIL, Reason.HARDWARE_NOT_ALLOWED)


def test_a_result_ends_when_what_lies_below_does(verified: VerifiedEvidence, now: datetime) -> None:
    soon = now.replace(year=now.year + 1)
    until = soon.strftime("%Y-%m-%dT%H:%M:%SZ")
    windowed = policy(snp=inner(measurements=[{"value": MEASUREMENT.hex(), "until": until}], revocation={"skip": "no"}))
    assert appraise(verified, windowed, EXPECTED, now).expires == min(soon, verified.not_after)


# Real evidence.


def loaded(name: str) -> Loaded:
    path = folder("azure_vtpm", name)
    return vectors.load(path, json.loads((path / "provenance.json").read_text()))


@pytest.mark.parametrize("name", SNP_VECTORS)
def test_real_evidence_of_azure_holds_and_meets_the_strict_template(name: str) -> None:
    vector = loaded(name)
    verified = verify(vector.evidence, vector.roots, NOVEMBER)
    assert verified.root.assurance is Assurance.HARDWARE
    checks = examine(verified, vector.policy, EXPECTED, NOVEMBER)
    assert [check.claim for check in checks if check.verdict is Verdict.FAIL] == ["report_data"]


def test_azures_tdx_is_refused_and_says_why() -> None:
    vector = loaded("tdx_v1")
    for stage in vector.stages.values():
        stage(NOVEMBER)
    with pytest.raises(AttestationError, match="SEPT_VE_DISABLE=0") as error:
        verify(vector.evidence, vector.roots, NOVEMBER)
    assert error.value.reason is Reason.GUEST_POLICY


def test_a_tdx_report_that_would_be_in_order_is_not_supported_either() -> None:
    vector = loaded("tdx_v1")
    report = bytearray(vector.evidence.report)
    report[32 + 512 + 3] |= 0x10
    with pytest.raises(AttestationError) as error:
        verify(replace(vector.evidence, report=bytes(report)), vector.roots, NOVEMBER)
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "masks", [(0x10,), pytest.param((1, 2, 4, 8, 32, 64, 128), marks=pytest.mark.slow)], ids=["a bit", "the others"]
)
@pytest.mark.parametrize("name", SNP_VECTORS)
def test_every_bit_of_a_real_report_counts(name: str, masks: tuple[int, ...]) -> None:
    vector = loaded(name)
    verify(vector.evidence, vector.roots, NOVEMBER)
    for offset in range(len(vector.evidence.report)):
        for mask in masks:
            changed = bytearray(vector.evidence.report)
            changed[offset] ^= mask
            with pytest.raises(AttestationError):
                verify(replace(vector.evidence, report=bytes(changed)), vector.roots, NOVEMBER)


@pytest.mark.parametrize("part", ["quote", "signature", "pcrs"])
def test_every_bit_of_a_real_quote_counts(part: str) -> None:
    vector = loaded("snp_genoa")
    content = vector.evidence.part(part)
    for position in range(8 * len(content)):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(AttestationError):
            verify(with_part(vector.evidence, part, bytes(changed)), vector.roots, NOVEMBER)


def test_parts_of_two_real_machines_do_not_mix() -> None:
    genoa, milan = loaded("snp_genoa"), loaded("snp_milan_v1")
    for name in ("quote", "signature", "pcrs"):
        mixed = with_part(genoa.evidence, name, milan.evidence.part(name))
        with pytest.raises(AttestationError):
            verify(mixed, genoa.roots, NOVEMBER)
    with pytest.raises(AttestationError):
        verify(replace(genoa.evidence, certificates=milan.evidence.certificates), genoa.roots, NOVEMBER)


def test_unset_nested_knobs_are_refused() -> None:
    for name in inner():
        value = policy().to_json()
        value["snp"] = {key: knob for key, knob in inner().items() if key != name}
        with pytest.raises(ProtocolError):
            AzureVtpmPolicy.from_json(value)
    with pytest.raises(ProtocolError) as error:
        policy(snp={"skip": "no"})
    assert error.value.reason is Reason.POLICY_UNSET
    assert isinstance(policy(secure_boot={"skip": "no"}).secure_boot, Skip)
