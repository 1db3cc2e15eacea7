"""What ties report, certificate and chip together, with one thing wrong at a time (attestation.md 4.5 and 7.1)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from softtee import certificates, report
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import REPORT_DATA, RootOf, attest_with, refused
from tests.attestation.forge import (
    links,
    reissue,
    renamed,
    with_chain,
)
from trusted.attestation.appraise import verify
from trusted.attestation.claims import CrlStatus
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import AttestationError, Reason

AMD = "1.3.6.1.4.1.3704.1"


def test_software_evidence_verifies_and_has_no_assurance(chip: Chip, root: TrustRoot, now: datetime) -> None:
    verified = verify(attest_with(chip), [root], now)
    assert verified.root.assurance is Assurance.NONE
    assert verified.claims.report_data == REPORT_DATA
    assert verified.claims.platform.hardware_id == chip.chip_id
    assert verified.claims.crl.status is CrlStatus.GOOD


def forged_cek(chip: Chip, root: SoftwareRoot, extensions: dict[str, bytes | None]) -> Evidence:
    cek = reissue(chip.certificate_chain[0], root.ask.key, extensions=extensions)
    return attest_with(with_chain(chip, cek=cek))


@pytest.mark.parametrize("component", ["3.1", "3.2", "3.3", "3.8"])
def test_a_tcb_that_the_certificate_does_not_name_is_refused(
    chip: Chip, software_root: SoftwareRoot, now: datetime, component: str
) -> None:
    root = software_root.trust_root
    evidence = forged_cek(chip, software_root, {f"{AMD}.{component}": b"\x02\x01\x07"})
    assert refused(evidence, root, now) is Reason.TCB_BINDING
    evidence = forged_cek(chip, software_root, {f"{AMD}.{component}": None})
    assert refused(evidence, root, now) is Reason.KEY_BINDING


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x02\x01", b"\x02\x02\x00\x0a", b"\x02\x01\x8a", b"\x04\x01\x0a"])
def test_a_misspelt_number_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime, value: bytes) -> None:
    evidence = forged_cek(chip, software_root, {f"{AMD}.3.1": value})
    assert refused(evidence, software_root.trust_root, now) in (Reason.KEY_BINDING, Reason.CHAIN)


def test_a_reserved_number_must_be_zero(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    root = software_root.trust_root
    verify(forged_cek(chip, software_root, {f"{AMD}.3.4": b"\x02\x01\x00"}), [root], now)
    assert refused(forged_cek(chip, software_root, {f"{AMD}.3.4": b"\x02\x01\x01"}), root, now) is Reason.TCB_BINDING
    assert refused(forged_cek(chip, software_root, {f"{AMD}.3.9": b"\x02\x01\x00"}), root, now) is Reason.TCB_BINDING


@pytest.mark.parametrize("field", ["reported_tcb", "committed_tcb"])
def test_no_tcb_lies_above_what_runs(chip: Chip, root: TrustRoot, now: datetime, field: str) -> None:
    current = bytearray(chip.fields().current_tcb)
    current[7] -= 1
    evidence = attest_with(chip, current_tcb=bytes(current), **{field: chip.fields().current_tcb})
    assert refused(evidence, root, now) is Reason.TCB_BINDING


def test_no_committed_version_lies_above_what_runs(chip: Chip, root: TrustRoot, now: datetime) -> None:
    evidence = attest_with(chip, committed_firmware=(1, 55, 44))
    assert refused(evidence, root, now) is Reason.TCB_BINDING


@pytest.mark.parametrize("chip_id", [bytes(64), b"\x01" * 64])
def test_a_report_of_another_or_no_chip_is_refused(chip: Chip, root: TrustRoot, now: datetime, chip_id: bytes) -> None:
    assert refused(attest_with(chip, chip_id=chip_id), root, now) is Reason.CHIP_BINDING


def test_the_chip_may_be_named_raw_or_as_an_octet_string(
    chip: Chip, software_root: SoftwareRoot, now: datetime
) -> None:
    root, oid = software_root.trust_root, f"{AMD}.4"
    verify(forged_cek(chip, software_root, {oid: b"\x04\x40" + chip.chip_id}), [root], now)
    for value in (chip.chip_id[:-1], chip.chip_id + b"\x00", b"\x04\x41" + chip.chip_id, b""):
        assert refused(forged_cek(chip, software_root, {oid: value}), root, now) is Reason.CHIP_BINDING
    assert refused(forged_cek(chip, software_root, {oid: None}), root, now) is Reason.KEY_BINDING


def test_a_chip_of_zeros_is_no_chip(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    cek = reissue(chip.certificate_chain[0], software_root.ask.key, extensions={f"{AMD}.4": bytes(64)})
    evidence = attest_with(with_chain(chip, cek=cek), chip_id=bytes(64))
    assert refused(evidence, software_root.trust_root, now) is Reason.CHIP_BINDING


def provider_evidence(chip: Chip, root: SoftwareRoot, extensions: dict[str, bytes | None]) -> Evidence:
    """Evidence by a provider's key (VLEK), in a chain of the shape that VLEKs have."""
    cek, ask, _ = chip.certificate_chain
    issuer = renamed(root.ask.certificate.subject, NameOID.COMMON_NAME, "SEV-VLEK-Genoa")
    subject = renamed(root.ask.certificate.subject, NameOID.COMMON_NAME, "SEV-VLEK")
    link = links("https://kdsintf.amd.com/vlek/v1/Genoa/crl")
    ask = reissue(ask, root.ark.key, changes={"subject_name": issuer}, extensions={"2.5.29.31": link})
    names = {"subject_name": subject, "issuer_name": issuer}
    cek = reissue(cek, root.ask.key, changes=names, extensions=extensions)
    return attest_with(with_chain(chip, cek=cek, ask=ask), key_flags=1 << 2, chip_id=bytes(64))


def test_a_providers_key_names_its_provider_and_no_chip(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    root, provider = software_root.trust_root, b"\x16\x04CN=x"
    good = provider_evidence(chip, software_root, {f"{AMD}.4": None, f"{AMD}.5": provider})
    assert verify(good, [root], now).claims.platform.provider == "CN=x"
    wrong: list[dict[str, bytes | None]] = [
        {f"{AMD}.5": provider},
        {f"{AMD}.4": None},
        {f"{AMD}.4": None, f"{AMD}.5": b"\x16\x00"},
        {f"{AMD}.4": None, f"{AMD}.5": b"\x0c\x04CN=x"},
        {f"{AMD}.4": None, f"{AMD}.5": b"\x16\x04CN=\xff"},
    ]
    for extensions in wrong:
        assert refused(provider_evidence(chip, software_root, extensions), root, now) is Reason.KEY_BINDING


def test_a_chips_key_names_no_provider(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    evidence = forged_cek(chip, software_root, {f"{AMD}.5": b"\x16\x04CN=x"})
    assert refused(evidence, software_root.trust_root, now) is Reason.KEY_BINDING


def test_a_certificate_for_another_product_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    root, oid = software_root.trust_root, f"{AMD}.2"
    verify(forged_cek(chip, software_root, {oid: b"\x16\x08Genoa-B1"}), [root], now)
    for value in (b"\x16\x05Milan", b"\x16\x06GenoaX"):
        assert refused(forged_cek(chip, software_root, {oid: value}), root, now) is Reason.PRODUCT
    for value in (b"", b"\x16\x06Genoa", b"\x0c\x05Genoa", b"\x16\x00"):
        assert refused(forged_cek(chip, software_root, {oid: value}), root, now) is Reason.KEY_BINDING


def test_a_report_that_claims_a_providers_key_needs_one(chip: Chip, root: TrustRoot, now: datetime) -> None:
    assert refused(attest_with(chip, key_flags=1 << 2), root, now) is Reason.CHAIN


def test_a_report_signed_by_another_chip_is_refused(
    chip: Chip, software_root: SoftwareRoot, root: TrustRoot, now: datetime
) -> None:
    other = software_root.issue_chip(now=now)
    assert refused(chip.evidence(attest_with(other).report), root, now) is Reason.EVIDENCE_SIGNATURE


@pytest.mark.parametrize(("r", "s"), [(0, 0), (1, 1), ((1 << 384) - 1, 1)])
def test_a_made_up_signature_is_refused(chip: Chip, root: TrustRoot, now: datetime, r: int, s: int) -> None:
    body = attest_with(chip).report[: report.SIGNED_BYTES]
    evidence = chip.evidence(report.assemble(body, r, s))
    assert refused(evidence, root, now) is Reason.EVIDENCE_SIGNATURE


def test_every_byte_of_a_report_counts(chip: Chip, root: TrustRoot, now: datetime) -> None:
    evidence = attest_with(chip)
    for offset in range(len(evidence.report)):
        flipped = bytearray(evidence.report)
        flipped[offset] ^= 0x01
        with pytest.raises(AttestationError):
            verify(replace(evidence, report=bytes(flipped)), [root], now)


@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_other_products_verify_with_their_own_layouts(root_of: RootOf, product: str, now: datetime) -> None:
    root = root_of(product)
    chip = root.issue_chip(now=now)
    verified = verify(attest_with(chip), [root.trust_root], now)
    assert verified.claims.platform.product == product
    assert verified.claims.platform.hardware_id == chip.chip_id
    names = [name for name, _ in verified.claims.platform.tcb.reported.components]
    assert ("fmc" in names) is (product == "Turin")
    if product == "Turin":
        cek = reissue(chip.certificate_chain[0], root.ask.key, extensions={f"{AMD}.3.9": b"\x02\x01\x01"})
        assert refused(attest_with(with_chain(chip, cek=cek)), root.trust_root, now) is Reason.TCB_BINDING
        other = chip.chip_id[:-1] + bytes([chip.chip_id[-1] ^ 1])
        assert refused(attest_with(chip, chip_id=other), root.trust_root, now) is Reason.CHIP_BINDING


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, 3),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_damaged_endorsements_are_refused(
    chip: Chip, root: TrustRoot, now: datetime, place: int, edits: list[tuple[int, int]]
) -> None:
    evidence = attest_with(chip)
    parts = [bytearray(part) for part in (*evidence.certificates, evidence.crl)]
    for offset, mask in edits:
        parts[place][offset % len(parts[place])] ^= mask
    *chain, crl = (bytes(part) for part in parts)
    damaged = Evidence(EvidenceFormat.SNP, evidence.report, tuple(chain), crl)
    if damaged != evidence:  # edits may undo each other
        with pytest.raises(AttestationError):
            verify(damaged, [root], now)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4), st.binary(max_size=200))
def test_any_endorsements_are_refused(
    chip: Chip, root: TrustRoot, now: datetime, chain: list[bytes], crl: bytes
) -> None:
    ark = chip.certificate_chain[2]
    for certificates_ in (tuple(chain), (*chain[:2], ark)):
        with pytest.raises(AttestationError):
            verify(Evidence(EvidenceFormat.SNP, attest_with(chip).report, certificates_, crl), [root], now)


def test_no_warning_escapes_for_the_serial_number_zero(
    chip: Chip, root: TrustRoot, recwarn: pytest.WarningsRecorder
) -> None:
    assert certificates.load_certificate(chip.certificate_chain[0]).version is x509.Version.v3
    verify(attest_with(chip), [root], datetime.now(UTC))
    assert not recwarn.list
