"""GPU evidence: real reports of real GPUs, and forged ones with one thing wrong each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation import forge_gpu
from tests.attestation.forge_gpu import FWID, Gpu, GpuMaker, answer, answers, composite_id, issue, rim, tcb_info, tlv
from tests.attestation.vectors import folder, pem_chain
from trusted.attestation.appraise import verify
from trusted.attestation.claims import CrlStatus
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import spdm
from trusted.attestation.gpu_claims import DebugState, GpuClaims, GpuMode, RimKind
from trusted.attestation.roots import Assurance, nvidia_roots
from trusted.attestation.verify import ocsp as ocsp_verifier
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, ProtocolError, Reason
from trusted.wire import length_prefixed

NOW = datetime(2026, 11, 1, tzinfo=UTC)
IN_TIME = datetime(2024, 1, 1, tzinfo=UTC)
CHALLENGE = b"\x77" * 64
GENUINE = ("blackwell_575", "hopper_535_with_rims", "hopper_550_trustee", "hopper_570_cert_hold", "hopper_580_spt")
MAKER = GpuMaker()
MUTATED = MAKER.make().report(bytes(32))


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return MAKER.make()


@pytest.fixture(scope="module")
def vouched(gpu: Gpu) -> Gpu:
    return gpu.fully_vouched(NOW)


def real(name: str, **parts: str) -> Evidence:
    """A vendor's vector, with files of its folder as parts."""
    path = folder("nvidia", name)
    named = sorted((part.replace("_", "-"), (path / file).read_bytes()) for part, file in parts.items())
    chain = pem_chain(path / "cert_chain.pem")
    return Evidence(EvidenceFormat.NVIDIA_GPU, (path / "report.bin").read_bytes(), chain, parts=tuple(named))


def held(evidence: Evidence, now: datetime = NOW, maker: GpuMaker | None = MAKER) -> VerifiedEvidence:
    return verify(evidence, nvidia_roots() if maker is None else maker.roots, now)


def claims_of(gpu: Gpu, now: datetime = NOW) -> GpuClaims:
    claims = held(gpu.attest(CHALLENGE), now).claims
    assert isinstance(claims, GpuClaims)
    return claims


def refused(evidence: Evidence, now: datetime = NOW, maker: GpuMaker | None = MAKER) -> Reason:
    with pytest.raises(AttestationError) as error:
        held(evidence, now, maker)
    return error.value.reason


def flipped(data: bytes, place: int, mask: int = 0x01) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


# real GPUs


@pytest.mark.parametrize("name", GENUINE)
def test_a_real_report_holds_under_nvidias_root_and_no_other(name: str) -> None:
    verified = held(real(name), maker=None)
    assert verified.root.assurance is Assurance.HARDWARE
    assert verified.not_after.year == 9999
    assert refused(real(name)) is Reason.TRUST_ANCHOR


def test_what_real_reports_say() -> None:
    hopper, blackwell = (held(real(name), maker=None).claims for name in ("hopper_580_spt", "blackwell_575"))
    assert isinstance(hopper, GpuClaims)
    assert isinstance(blackwell, GpuClaims)
    assert (hopper.product, hopper.chip, hopper.mode) == ("Hopper", "GH100", GpuMode.SPT)
    assert (hopper.driver_version, hopper.vbios_version) == ("580.159.03", "96.00.74.00.20")
    assert (blackwell.product, blackwell.chip, blackwell.mode) == ("Blackwell", "GB100", GpuMode.UNSTATED)
    assert blackwell.vbios_version == "97.00.88.00.0F"
    assert hopper.measurement == sha384(b"".join(hopper.measurements)).digest()
    assert {len(hopper.hardware_id), len(blackwell.hardware_id)} == {32}
    assert hopper.hardware_id != blackwell.hardware_id
    assert hopper.debug is blackwell.debug is DebugState.UNKNOWN
    assert hopper.ocsp.status is CrlStatus.ABSENT


def test_nvidias_own_bad_report_is_refused_for_its_signature() -> None:
    assert refused(real("bad_hopper_signature"), maker=None) is Reason.EVIDENCE_SIGNATURE


@pytest.mark.parametrize("name", ["hopper_580_spt", "blackwell_575"])
@pytest.mark.parametrize("masks", [(0x01,), pytest.param((2, 4, 8, 16, 32, 64, 128, 255), marks=pytest.mark.slow)])
def test_every_byte_of_a_real_report_counts(name: str, masks: tuple[int, ...]) -> None:
    evidence = real(name)
    for place in range(len(evidence.report)):
        for mask in masks:
            with pytest.raises(AttestationError):
                held(replace(evidence, report=flipped(evidence.report, place, mask)), maker=None)


@pytest.mark.parametrize("place", range(5), ids=["leaf", "device", "provisioner", "architecture", "root"])
def test_every_byte_of_a_real_chain_counts(place: int) -> None:
    evidence = real("hopper_580_spt")
    der = evidence.certificates[place]
    for offset in range(0, len(der), 1 if place in (0, 4) else 3):
        chain = list(evidence.certificates)
        chain[place] = flipped(der, offset, 0x20)
        with pytest.raises(AttestationError):
            held(replace(evidence, certificates=tuple(chain)), maker=None)


def test_a_real_report_with_the_chain_of_another_gpu_is_refused() -> None:
    one, other = real("hopper_580_spt"), real("hopper_550_trustee")
    assert refused(replace(one, certificates=other.certificates), maker=None) is Reason.EVIDENCE_SIGNATURE
    mixed = (one.certificates[0], *other.certificates[1:])
    assert refused(replace(one, certificates=mixed), maker=None) is Reason.CHAIN


def test_a_real_manifest_matches_every_measurement_it_names() -> None:
    verified = held(real("hopper_535_with_rims", rim_vbios="vbios_rim_match.swidtag"), IN_TIME, None)
    assert isinstance(verified.claims, GpuClaims)
    (claim,) = verified.claims.rims
    assert (claim.kind, claim.version, claim.compared) == (RimKind.VBIOS, "96.00.5E.00.01", 12)
    assert verified.not_after == claim.not_after == datetime(2025, 6, 22, 9, 30, 33, tzinfo=UTC)
    assert verified.claims.debug is DebugState.UNKNOWN  # the driver's manifest is missing


@pytest.mark.parametrize(
    ("part", "file", "now", "reason"),
    [
        ("rim_vbios", "vbios_rim_mismatch.swidtag", IN_TIME, Reason.FIRMWARE_VERSION),
        ("rim_driver", "driver_rim_mismatch.swidtag", IN_TIME, Reason.FIRMWARE_VERSION),
        ("rim_driver", "vbios_rim_match.swidtag", IN_TIME, Reason.FIRMWARE_VERSION),
        ("rim_vbios", "vbios_rim_match.swidtag", NOW, Reason.CERT_EXPIRED),
        ("rim_vbios", "vbios_rim_match.swidtag", datetime(2023, 6, 1, tzinfo=UTC), Reason.CERT_NOT_YET_VALID),
    ],
)
def test_a_real_manifest_that_does_not_fit_is_refused(part: str, file: str, now: datetime, reason: Reason) -> None:
    assert refused(real("hopper_535_with_rims", **{part: file}), now, None) is reason


def test_a_real_manifest_altered_anywhere_is_refused() -> None:
    evidence = real("hopper_535_with_rims", rim_vbios="vbios_rim_match.swidtag")
    xml = evidence.part("rim-vbios")
    for place in (*range(0, len(xml), 997), xml.index(b"active") + 8, xml.index(b"SignatureValue>") + 20):
        with pytest.raises(AttestationError):
            held(replace(evidence, parts=(("rim-vbios", flipped(xml, place)),)), IN_TIME, None)


# forged GPUs: the chain


def test_a_forged_gpu_holds_under_its_makers_root_alone(gpu: Gpu) -> None:
    verified = held(gpu.attest(CHALLENGE))
    assert verified.root.assurance is Assurance.NONE
    assert refused(gpu.attest(CHALLENGE), maker=None) is Reason.TRUST_ANCHOR


def test_the_root_for_reference_values_stands_behind_no_device(gpu: Gpu) -> None:
    device, rims = MAKER.roots
    swapped = (replace(device, product=rims.product), replace(rims, product=device.product))
    with pytest.raises(AttestationError) as error:
        verify(gpu.attest(CHALLENGE), swapped, NOW)
    assert error.value.reason is Reason.TRUST_ANCHOR


def test_a_chain_with_one_certificate_too_few_too_many_or_twice_is_refused(gpu: Gpu) -> None:
    evidence = gpu.attest(CHALLENGE)
    leaf, device, *above = evidence.certificates
    for chain in ((leaf, *above), (leaf, device, device, *above), (), (leaf, above[0], device, *above[1:])):
        assert refused(replace(evidence, certificates=chain)) is Reason.CHAIN


def test_a_certificate_that_is_no_authority_issues_nothing(gpu: Gpu) -> None:
    device = issue("GH100 A01 GSP BROM", MAKER.provisioner, authority=False)
    leaf = issue("GH100 A01 GSP FMC LF", device, authority=False, extensions=[dice(device)])
    assert refused(replace(gpu, device=device, leaf=leaf).attest(CHALLENGE)) is Reason.CHAIN


def dice(device: forge_gpu.Signer, fwid: bytes = FWID) -> tuple[x509.ExtensionType, bool]:
    return composite_id(device.key.public_key(), fwid), False


def test_dates_are_compared_with_now(gpu: Gpu) -> None:
    end = NOW + timedelta(days=1)
    short = replace(gpu, leaf=issue("leaf", gpu.device, authority=False, extensions=[dice(gpu.device)], not_after=end))
    assert held(short.attest(CHALLENGE)).not_after == end
    assert held(short.attest(CHALLENGE), end).not_after == end
    assert refused(short.attest(CHALLENGE), end + timedelta(seconds=1)) is Reason.CERT_EXPIRED
    assert refused(short.attest(CHALLENGE), datetime(2020, 1, 1, tzinfo=UTC)) is Reason.CERT_NOT_YET_VALID


@pytest.mark.parametrize("chip", ["LS10", "GA100", "GH100 Evil", "GBX02", "GB20XX", "GR100"])
def test_a_switch_or_an_unknown_architecture_is_no_gpu(chip: str) -> None:
    maker = GpuMaker(chip)
    assert refused(maker.make().attest(CHALLENGE), maker=maker) is Reason.PRODUCT


@pytest.mark.parametrize(
    ("chip", "product"), [("GH100", "Hopper"), ("GB100", "Blackwell"), ("GB102", "Blackwell"), ("GB20X", "Blackwell")]
)
def test_the_chain_names_the_architecture(chip: str, product: str) -> None:
    """GB20X is how NVIDIA writes a family: RTX PRO 6000 Blackwell stands under it."""
    maker = GpuMaker(chip)
    claims = held(maker.make().attest(CHALLENGE), maker=maker).claims
    assert isinstance(claims, GpuClaims)
    assert (claims.chip, claims.product) == (chip, product)


@pytest.mark.parametrize("device", ["LS_10 A01 FSP BROM", "GB100 A01 GSP BROM", "GH1000 A01 GSP BROM", "GH100"])
def test_a_device_of_another_kind_under_a_gpus_architecture_is_no_gpu(device: str) -> None:
    """NVIDIA's NVSwitches (LS_10) stand under the GH100 architecture."""
    signer = issue(device, MAKER.provisioner)
    extension = composite_id(signer.key.public_key(), FWID)
    leaf = issue("GH100 A01 GSP FMC LF", signer, authority=False, extensions=[(extension, False)])
    assert refused(replace(MAKER.make(), device=signer, leaf=leaf).attest(CHALLENGE)) is Reason.PRODUCT


# forged GPUs: what the certificate says of the firmware


def test_both_dice_extensions_are_read(gpu: Gpu) -> None:
    assert claims_of(gpu).fwid == FWID
    newer = gpu.with_leaf(tcb_info(FWID))
    assert claims_of(newer).fwid == FWID
    assert claims_of(newer).debug is DebugState.UNKNOWN
    assert claims_of(replace(gpu, fwid=None)).fwid is None  # drivers before 550


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10], ids=["not secure", "recovery", "debug"])
def test_a_certificate_that_calls_its_firmware_insecure_shows_as_debug(gpu: Gpu, bit: int) -> None:
    insecure = gpu.with_leaf(tcb_info(FWID, bytes([0x80 | bit, 0, 0, 1]))).fully_vouched(NOW)
    assert claims_of(insecure).debug is DebugState.ON


def test_firmware_other_than_the_certificates_is_refused(gpu: Gpu) -> None:
    assert refused(replace(gpu, fwid=b"\xf2" * 48).attest(CHALLENGE)) is Reason.KEY_BINDING
    assert refused(gpu.with_leaf(tcb_info(b"\xf2" * 48)).attest(CHALLENGE)) is Reason.KEY_BINDING


@pytest.mark.parametrize(
    "value",
    [b"", b"\x30\x00", b"\x30\x80", b"\x30\x81\x01", b"\x31\x03\x02\x01\x01", b"\x30\x05\xa6\x03\x30\x01\x00"],
)
def test_a_dice_extension_that_does_not_read_is_refused(gpu: Gpu, value: bytes) -> None:
    broken = x509.UnrecognizedExtension(forge_gpu.TCB_INFO, value)
    assert refused(gpu.with_leaf(broken).attest(CHALLENGE)) is Reason.KEY_BINDING


def test_a_certificate_with_no_or_with_two_dice_extensions_is_refused(gpu: Gpu) -> None:
    assert refused(gpu.with_leaf().attest(CHALLENGE)) is Reason.KEY_BINDING
    both = gpu.with_leaf(tcb_info(FWID), composite_id(gpu.device.key.public_key(), FWID))
    assert refused(both.attest(CHALLENGE)) is Reason.KEY_BINDING


# forged GPUs: the report's form


def report_of(gpu: Gpu, old: bytes, new: bytes) -> Evidence:
    """A report signed with ``new`` in the place of ``old``: well signed, and wrong."""
    signed = gpu.report(bytes(32))[: -spdm.SIGNATURE_BYTES]
    assert old in signed
    return gpu.evidence(gpu.sign(signed.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x11\xe0\x01\xff", b"\x12\xe0\x01\xff"),
        (b"\x11\xe0\x01\xff", b"\x11\xe0\x00\xff"),
        (b"\x11\xe0\x01\xff", b"\x11\xe0\x01\x01"),
        (b"\x11\x60\x00\x00", b"\x11\x7f\x00\x00"),
        (b"\x11\x60\x00\x00", b"\x11\x60\x00\x01"),
        (b"\x01\x01\x33\x00\x01\x30\x00", b"\x02\x01\x33\x00\x01\x30\x00"),
        (b"\x01\x01\x33\x00\x01\x30\x00", b"\x01\x02\x33\x00\x01\x30\x00"),
        (b"\x01\x01\x33\x00\x01\x30\x00", b"\x01\x01\x33\x00\x81\x30\x00"),
        (b"\x01\x01\x33\x00\x01\x30\x00", b"\x01\x01\x33\x00\x01\x2f\x00"),
        (bytes([64]) + (64 * 55).to_bytes(3, "little"), bytes([63]) + (64 * 55).to_bytes(3, "little")),
        (tlv(17, b"1010\0"), tlv(18, b"1010\0")),
        (tlv(17, b"1010\0"), tlv(17, b"10 0\0")),
        (tlv(6, bytes.fromhex("0074009620000000")), tlv(7, bytes.fromhex("0074009620000000"))),
        (tlv(3, b"580.159.03\0"), tlv(3, b"\0" * 11)),
        (tlv(20, FWID), tlv(20, FWID)[:2] + b"\x2f\x00" + FWID),
        (tlv(36, b"\0\0"), tlv(36, b"\x09\0")),
    ],
)  # fmt: skip
def test_a_signed_report_of_another_form_is_refused(gpu: Gpu, old: bytes, new: bytes) -> None:
    assert refused(report_of(gpu, old, new)) is Reason.EVIDENCE_FORMAT


def test_bytes_after_the_signature_are_refused_but_for_one_zero(gpu: Gpu) -> None:
    report = gpu.report(bytes(32))
    assert spdm.parse(report + b"\0") == spdm.parse(report)
    for more in (b"\x01", b"\0\0", b"\0" * 64, report):
        assert refused(gpu.evidence(report + more)) is Reason.RESERVED_NOT_ZERO
    for cut in range(0, len(report), 7):
        assert refused(gpu.evidence(report[:cut])) is Reason.EVIDENCE_FORMAT


def test_reserved_bytes_of_the_vbios_version_are_zero(gpu: Gpu) -> None:
    odd = replace(gpu, vbios=bytes.fromhex("0074009620000001"))
    assert refused(odd.attest(CHALLENGE)) is Reason.RESERVED_NOT_ZERO


def test_parts_and_lists_that_nobody_reads_are_refused(gpu: Gpu) -> None:
    evidence = gpu.attest(CHALLENGE)
    assert refused(replace(evidence, parts=(("rim-other", b"x"),))) is Reason.EVIDENCE_FORMAT
    assert refused(replace(evidence, crl=b"x")) is Reason.EVIDENCE_FORMAT


@given(st.binary(max_size=600))
def test_other_bytes_are_refused(data: bytes) -> None:
    for report in (data, b"\x11\xe0\x01\xff" + data):
        with pytest.raises(ProtocolError):
            spdm.parse(report)


@given(st.data())
def test_any_change_to_a_report_parses_or_is_refused(data: Any) -> None:
    report = bytearray(MUTATED)
    for _ in range(data.draw(st.integers(1, 4))):
        report[data.draw(st.integers(0, len(report) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        spdm.parse(bytes(report))


# forged GPUs: reference values


def test_both_manifests_rule_out_a_developer_mode(vouched: Gpu) -> None:
    claims = claims_of(vouched)
    assert claims.debug is DebugState.OFF
    assert claims.has_rims()
    assert claims.ocsp.status is CrlStatus.GOOD


def bad_manifests(gpu: Gpu) -> Iterator[tuple[str, bytes, Reason]]:
    good = {7: [gpu.measurements[7]]}
    stranger = GpuMaker()
    expired = issue(
        "signer", MAKER.rim_root, authority=False, not_after=NOW - timedelta(days=1), not_before=forge_gpu.LONG_AGO
    )
    authority = issue("signer", MAKER.rim_root)
    yield "another measurement", rim(MAKER, gpu.driver, {7: [bytes(48)]}), Reason.MEASUREMENT
    yield "a measurement that is not there", rim(MAKER, gpu.driver, {8: [bytes(48)]}), Reason.MEASUREMENT
    yield "another version", rim(MAKER, "580.159.04", good), Reason.FIRMWARE_VERSION
    yield "another chip", rim(MAKER, gpu.driver, good, chip="GB100"), Reason.PRODUCT
    yield "another root", rim(stranger, gpu.driver, good), Reason.TRUST_ANCHOR
    stolen = [stranger.rim_signer, MAKER.rim_root]
    yield "another's signer", rim(MAKER, gpu.driver, good, signer=stranger.rim_signer, chain=stolen), Reason.CHAIN
    yield "an expired signer", rim(MAKER, gpu.driver, good, signer=expired), Reason.CERT_EXPIRED
    yield "an authority as signer", rim(MAKER, gpu.driver, good, signer=authority), Reason.CHAIN
    yield "no active measurement", rim(MAKER, gpu.driver, {}), Reason.EVIDENCE_FORMAT
    yield "no XML", b"<SoftwareIdentity", Reason.EVIDENCE_FORMAT
    xml = rim(MAKER, gpu.driver, good)
    yield "a declared entity", b'<!DOCTYPE x [<!ENTITY a "b">]>' + xml, Reason.EVIDENCE_FORMAT
    yield "a processing instruction", xml + b"<?x y?>", Reason.EVIDENCE_FORMAT
    yield "a comment", xml.replace(b"<Meta", b"<!-- --><Meta"), Reason.EVIDENCE_FORMAT
    yield (
        "altered",
        xml.replace(gpu.measurements[7].hex().encode(), bytes(48).hex().encode()),
        Reason.EVIDENCE_SIGNATURE,
    )
    wrapped = xml.replace(b"</SoftwareIdentity>", b'<Payload xmlns="x"/></SoftwareIdentity>')
    yield "something added", wrapped, Reason.EVIDENCE_SIGNATURE
    yield "unsigned", xml[: xml.index(b"<ds:Signature")] + b"</SoftwareIdentity>", Reason.CHAIN


CASES = list(bad_manifests(Gpu(MAKER, MAKER.root, MAKER.root)))


@pytest.mark.parametrize(("xml", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_manifest_that_does_not_hold_is_refused(gpu: Gpu, xml: bytes, reason: Reason) -> None:
    assert refused(gpu.with_parts(rim_driver=xml).attest(CHALLENGE)) is reason


def test_a_manifest_under_a_software_root_lowers_the_assurance() -> None:
    """Genuine hardware with reference values that anybody may have written proves no more than those."""
    evidence = real("hopper_550_trustee")
    claims = held(evidence, maker=None).claims
    assert isinstance(claims, GpuClaims)
    xml = rim(MAKER, claims.driver_version, {1: [claims.measurements[1]]})
    roots = (*nvidia_roots(), MAKER.roots[1])
    verified = verify(replace(evidence, parts=(("rim-driver", xml),)), roots, NOW)
    assert verified.root.assurance is Assurance.NONE


# forged GPUs: revocation


def with_answers(gpu: Gpu, *responses: bytes) -> Evidence:
    return gpu.with_parts(ocsp=length_prefixed(*responses)).attest(CHALLENGE)


@pytest.mark.parametrize("reason", [x509.ReasonFlags.certificate_hold, x509.ReasonFlags.key_compromise, None])
@pytest.mark.parametrize("place", [1, 2, 3], ids=["device", "provisioner", "architecture"])
def test_a_certificate_on_hold_or_revoked_is_refused(gpu: Gpu, place: int, reason: x509.ReasonFlags | None) -> None:
    chain = gpu.chain
    revoked = ocsp.OCSPCertStatus.REVOKED
    bad = answer(chain[place].certificate, chain[place + 1], NOW, status=revoked, reason=reason)
    assert refused(with_answers(gpu, bad)) is Reason.REVOKED
    others = answers(gpu, NOW)
    assert refused(with_answers(gpu, *others[: place - 1], bad, *others[place:])) is Reason.REVOKED


def test_an_unknown_certificate_is_refused_like_a_revoked_one(gpu: Gpu) -> None:
    chain = gpu.chain
    unknown = answer(chain[1].certificate, chain[2], NOW, status=ocsp.OCSPCertStatus.UNKNOWN)
    assert refused(with_answers(gpu, unknown)) is Reason.REVOKED


def test_answers_are_good_for_their_time_and_for_the_whole_chain(gpu: Gpu) -> None:
    good = answers(gpu, NOW)
    for responses, now, status in (
        (good, NOW, CrlStatus.GOOD),
        (good, NOW + timedelta(days=1), CrlStatus.GOOD),
        (good, NOW + timedelta(days=1, seconds=1), CrlStatus.STALE),
        (good[:2], NOW, CrlStatus.ABSENT),
    ):
        claims = held(with_answers(gpu, *responses), now).claims
        assert isinstance(claims, GpuClaims)
        assert claims.ocsp.status is status
    assert refused(with_answers(gpu, *good), NOW - timedelta(days=2)) is Reason.CERT_NOT_YET_VALID


def test_a_responder_needs_the_issuers_word(gpu: Gpu) -> None:
    chain, use = gpu.chain, x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.OCSP_SIGNING])  # type: ignore[attr-defined]
    named = issue("responder", chain[2], authority=False, extensions=[(use, False)])
    unnamed = issue("responder", chain[2], authority=False)
    elsewhere = issue("responder", chain[3], authority=False, extensions=[(use, False)])
    responses = answers(gpu, NOW)
    for responder, reason in ((named, None), (unnamed, Reason.CHAIN), (elsewhere, Reason.CHAIN)):
        first = answer(chain[1].certificate, chain[2], NOW, responder=responder)
        evidence = with_answers(gpu, first, *responses[1:])
        if reason is None:
            assert held(evidence).claims is not None
        else:
            assert refused(evidence) is reason


def test_answers_that_are_not_about_this_chain_are_refused(gpu: Gpu) -> None:
    other = MAKER.make()
    good = answers(gpu, NOW)
    assert refused(with_answers(gpu, answers(other, NOW)[0])) is Reason.CHAIN
    assert refused(with_answers(gpu, good[0], good[0])) is Reason.CHAIN
    assert refused(with_answers(gpu, flipped(good[0], len(good[0]) - 3))) in (
        Reason.EVIDENCE_SIGNATURE,
        Reason.EVIDENCE_FORMAT,
    )
    assert refused(with_answers(gpu, b"\x30\x00")) is Reason.EVIDENCE_FORMAT
    assert refused(with_answers(gpu, good[0] + b"\0")) is Reason.EVIDENCE_FORMAT
    assert refused(gpu.with_parts(ocsp=length_prefixed(good[0])[:-1]).attest(CHALLENGE)) is Reason.EVIDENCE_FORMAT


@given(st.binary(max_size=300))
def test_any_part_splits_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert length_prefixed(*ocsp_verifier.split(data)) == data


def test_a_key_on_another_curve_is_refused(gpu: Gpu) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateBuilder().subject_name(forge_gpu.name("leaf")).serial_number(5)
    builder = builder.issuer_name(gpu.device.certificate.subject).not_valid_before(forge_gpu.LONG_AGO)
    builder = builder.not_valid_after(forge_gpu.FOREVER)
    builder = builder.public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    leaf = builder.sign(gpu.device.key, hashes.SHA384()).public_bytes(Encoding.DER)
    evidence = gpu.attest(CHALLENGE)
    assert refused(replace(evidence, certificates=(leaf, *evidence.certificates[1:]))) is Reason.CHAIN


def test_an_image_without_the_extra_says_which_to_install(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = rim(MAKER, gpu.driver, {5: [gpu.measurements[5]]})
    evidence = gpu.with_parts(rim_driver=xml).attest(CHALLENGE)
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(AttestationError) as error:
        held(evidence)
    assert error.value.reason is Reason.EVIDENCE_FORMAT
    assert "gpu-rim" in error.value.detail
    monkeypatch.undo()
    held(evidence)
