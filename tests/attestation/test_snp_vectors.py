"""Real evidence of real processors, good and bad, through verify and appraise."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.attestation.vectors import ROOTS, SNP_NAMES, Vector, case_time, folder, load
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.claims import CrlStatus, InstanceKey
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.rules import ProviderRule, Skip
from trusted.attestation.policies.snp import SnpPolicy, strict_snp_policy
from trusted.attestation.roots import Assurance, amd_root
from trusted.errors import AttestationError, Reason

NOT_TODAY = Skip("the vector carries no revocation list of its time")
PROVIDER = "CN=cc-us-east-2.amazonaws.com"


def binding_of(vector: Vector) -> Expected:
    """The binding that the vector happens to have."""
    expected = vector.expected
    return Expected(bytes.fromhex(expected["report_data"]), bytes.fromhex(expected["host_data"]))


def policy_for(vector: Vector, product: str) -> SnpPolicy:
    """The strict template for what the vector measures, and for its chip."""
    measurement = bytes.fromhex(vector.expected["measurement"])
    chip_id = bytes.fromhex(vector.expected["chip_id"])
    chips = [chip_id] if any(chip_id) else None
    policy = strict_snp_policy([measurement], products=[product], chip_ids=chips)
    return replace(policy, revocation=NOT_TODAY)


def for_old_machines(vector: Vector) -> SnpPolicy:
    """The same policy without the floors that a machine of 2022 cannot meet."""
    old = Skip("an old machine")
    return replace(
        policy_for(vector, "Milan"),
        minimum_version=old,
        minimum_tcb=old,
        minimum_launch_tcb=old,
        minimum_firmware=old,
        platform_info=old,
    )


def changed(evidence: Evidence, offset: int, mask: int) -> Evidence:
    report = evidence.report
    return replace(evidence, report=report[:offset] + bytes([report[offset] ^ mask]) + report[offset + 1 :])


@pytest.mark.parametrize("name", SNP_NAMES)
def test_each_case_of_each_vector_comes_out_as_its_provenance_says(name: str) -> None:
    vector = load(name)
    for case in vector.cases:
        if case["expect"] == "valid":
            result = verify(vector.evidence, ROOTS, case_time(case))
            assert result.root.assurance is Assurance.HARDWARE
            assert result.claims.launch.measurement.hex() == vector.expected["measurement"]
        elif case.get("stage") == "appraise":
            verified = verify(vector.evidence, ROOTS, case_time(case))
            with pytest.raises(AttestationError):
                appraise(verified, policy_for(vector, "Milan"), binding_of(vector), case_time(case))
        else:
            with pytest.raises(AttestationError):
                verify(vector.evidence, ROOTS, case_time(case))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad_milan_v2_tampered_vcek_legacy", Reason.CHAIN),
        ("bad_milan_v2_tampered_vcek_new", Reason.CHAIN),
        ("bad_milan_virtee_report_with_gosev_vcek", Reason.EVIDENCE_SIGNATURE),
    ],
)
def test_bad_vectors_are_refused_for_what_is_wrong_with_them(name: str, reason: Reason) -> None:
    vector = load(name)
    with pytest.raises(AttestationError) as error:
        verify(vector.evidence, ROOTS, case_time(vector.cases[0]))
    assert error.value.reason is reason


@pytest.mark.parametrize("masks", [(0x10,), pytest.param((1, 2, 4, 8, 32, 64, 128, 255), marks=pytest.mark.slow)])
def test_every_bit_of_a_real_report_counts(masks: tuple[int, ...]) -> None:
    vector = load("genoa_v5_oak")
    verify(vector.evidence, ROOTS, vector.valid_at)
    for offset in range(len(vector.evidence.report)):
        for mask in masks:
            with pytest.raises(AttestationError):
                verify(changed(vector.evidence, offset, mask), ROOTS, vector.valid_at)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["cek", "ask", "ark"])
def test_every_byte_of_a_real_certificate_counts(place: int) -> None:
    vector = load("genoa_v5_oak")
    der = vector.evidence.certificates[place]
    for offset in range(len(der)):
        chain = list(vector.evidence.certificates)
        chain[place] = der[:offset] + bytes([der[offset] ^ 0x20]) + der[offset + 1 :]
        with pytest.raises(AttestationError):
            verify(replace(vector.evidence, certificates=tuple(chain)), ROOTS, vector.valid_at)


@pytest.mark.parametrize("name", ["genoa_v3_configfs_tsm", "genoa_v5_oak"])
def test_real_genoa_evidence_meets_the_strict_template(name: str) -> None:
    vector = load(name)
    result = appraise(
        verify(vector.evidence, ROOTS, vector.valid_at),
        policy_for(vector, "Genoa"),
        binding_of(vector),
        vector.valid_at,
    )
    assert result.assurance is Assurance.POSSESSION  # its chip stands on the list
    assert result.hardware_id.hex() == vector.expected["chip_id"]


def test_a_milan_chip_is_admitted_by_name_and_never_as_any_chip() -> None:
    vector = load("milan_v3_oak_containers")
    verified = verify(vector.evidence, ROOTS, vector.valid_at)
    policy = policy_for(vector, "Milan")
    appraise(verified, policy, binding_of(vector), vector.valid_at)
    for chips in (Skip("any chip"), (b"\x01" * 64,)):
        with pytest.raises(AttestationError) as error:
            appraise(verified, replace(policy, chip_ids=chips), binding_of(vector), vector.valid_at)
        assert error.value.reason is Reason.HARDWARE_NOT_ALLOWED


def test_a_real_machine_with_microcode_open_to_entrysign_is_refused() -> None:
    """Its microcode is 213; the first that AMD-SB-3019 names for Milan is 219."""
    vector = load("milan_v3_dstack_2026")
    verified = verify(vector.evidence, ROOTS, vector.valid_at)
    policy = policy_for(vector, "Milan")
    with pytest.raises(AttestationError) as error:
        appraise(verified, policy, binding_of(vector), vector.valid_at)
    assert error.value.reason is Reason.TCB_FLOOR
    known = Skip("known to be open")
    patched = replace(policy, minimum_tcb=known, minimum_launch_tcb=known)
    assert appraise(verified, patched, binding_of(vector), vector.valid_at).assurance is Assurance.POSSESSION


def test_a_real_debug_guest_is_refused() -> None:
    vector = load("milan_v2_debug")
    verified = verify(vector.evidence, ROOTS, vector.valid_at)
    with pytest.raises(AttestationError) as error:
        appraise(verified, for_old_machines(vector), binding_of(vector), vector.valid_at)
    assert error.value.reason is Reason.DEBUG


def test_provisional_firmware_of_a_real_machine_is_refused() -> None:
    vector = load("milan_v2")
    verified = verify(vector.evidence, ROOTS, vector.valid_at)
    with pytest.raises(AttestationError) as error:
        appraise(verified, for_old_machines(vector), binding_of(vector), vector.valid_at)
    assert error.value.reason is Reason.PROVISIONAL_FIRMWARE


def test_a_providers_key_is_admitted_only_for_a_listed_provider() -> None:
    vector = load("milan_v3_vlek_aws")
    verified = verify(vector.evidence, ROOTS, vector.valid_at)
    assert verified.claims.platform.instance_key is InstanceKey.PROVIDER
    assert verified.claims.platform.provider == PROVIDER
    policy = replace(
        policy_for(vector, "Milan"),
        vmpl=1,
        provisional_firmware=Skip("AWS stages its microcode"),
        minimum_tcb=Skip("its key is bound to the microcode before"),
        minimum_launch_tcb=Skip("its key is bound to the microcode before"),
        vlek=ProviderRule((PROVIDER,)),
    )
    assert appraise(verified, policy, binding_of(vector), vector.valid_at).provider == PROVIDER
    for providers in ((), ("CN=cc-us-east-1.amazonaws.com",), (PROVIDER + ".",)):
        with pytest.raises(AttestationError) as error:
            appraise(verified, replace(policy, vlek=ProviderRule(providers)), binding_of(vector), vector.valid_at)
        assert error.value.reason is Reason.HARDWARE_NOT_ALLOWED
    with pytest.raises(AttestationError) as error:  # a provider's key names no chip, so it is on no list of chips
        appraise(verified, replace(policy, chip_ids=(b"\x01" * 64,)), binding_of(vector), vector.valid_at)
    assert error.value.reason is Reason.HARDWARE_NOT_ALLOWED


def test_a_providers_report_does_not_verify_with_a_chips_chain() -> None:
    provider, chip = load("milan_v3_vlek_aws"), load("milan_v3_oak_containers")
    for mixed in (
        replace(provider.evidence, certificates=chip.evidence.certificates),
        replace(chip.evidence, certificates=provider.evidence.certificates),
        replace(provider.evidence, certificates=(provider.evidence.certificates[0], *chip.evidence.certificates[1:])),
    ):
        with pytest.raises(AttestationError) as error:
            verify(mixed, ROOTS, provider.valid_at)
        assert error.value.reason is Reason.CHAIN


def test_real_evidence_is_refused_under_another_products_root() -> None:
    vector = load("genoa_v5_oak")
    with pytest.raises(AttestationError) as error:
        verify(vector.evidence, [amd_root("Milan"), amd_root("Turin")], vector.valid_at)
    assert error.value.reason is Reason.TRUST_ANCHOR
    mislabelled = replace(amd_root("Genoa"), product="Milan")
    with pytest.raises(AttestationError) as error:
        verify(vector.evidence, [mislabelled], vector.valid_at)
    assert error.value.reason is Reason.PRODUCT


def test_a_real_list_is_good_in_its_year_and_stale_after() -> None:
    crl = (folder("anchors", "amd") / "crl_ark_milan_2022-05.der").read_bytes()
    vector = load("milan_v2_debug", crl=crl)
    last = datetime(2023, 5, 9, 23, tzinfo=UTC)
    assert verify(vector.evidence, ROOTS, last).claims.crl.status is CrlStatus.GOOD
    assert verify(vector.evidence, ROOTS, last + timedelta(seconds=1)).claims.crl.status is CrlStatus.STALE
    assert verify(vector.evidence, ROOTS, vector.valid_at).claims.crl.status is CrlStatus.STALE


def test_a_real_list_of_another_product_is_refused() -> None:
    crl = (folder("anchors", "amd") / "crl_ark_genoa_2022-10.der").read_bytes()
    vector = load("milan_v2", crl=crl)
    with pytest.raises(AttestationError) as error:
        verify(vector.evidence, ROOTS, vector.valid_at)
    assert error.value.reason is Reason.CHAIN
