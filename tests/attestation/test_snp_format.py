"""The SNP report parser: fields, layouts, and every reserved bit (attestation.md 4.5 and 7.1)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtee import report as writer
from softtee.report import ReportFields
from tests.attestation.vectors import SNP_NAMES, load
from trusted.attestation.claims import FirmwareVersion, Tcb
from trusted.attestation.formats.snp import REPORT_BYTES, SigningKey, UnverifiedSnpReport, parse
from trusted.errors import AttestationError, ProtocolError, Reason


def report_of(**fields: Any) -> bytes:
    return writer.assemble(writer.encode(ReportFields(**fields)), 7, 9)


def refused(report: bytes) -> Reason:
    with pytest.raises(AttestationError) as error:
        parse(report)
    return error.value.reason


def changed(report: bytes, offset: int, mask: int) -> bytes:
    return report[:offset] + bytes([report[offset] ^ mask]) + report[offset + 1 :]


@pytest.mark.parametrize("name", SNP_NAMES)
def test_real_reports_have_the_fields_of_their_provenance(name: str) -> None:
    vector = load(name)
    report, expected = parse(vector.evidence.report), vector.expected
    assert report.version == expected["version"]
    assert report.guest_svn == expected["guest_svn"]
    assert report.vmpl == expected["vmpl"]
    assert ("debug" in report.guest_flags) is expected["policy_debug"]
    assert ("smt" in report.guest_flags) is expected["policy_smt"]
    assert ("migrate_ma" in report.guest_flags) is expected["policy_migrate_ma"]
    assert report.signing_key.name == expected["signing_key"]
    assert report.author_key_enabled is expected["author_key_en"]
    for field in ("measurement", "report_data", "host_data", "id_key_digest", "chip_id"):
        assert getattr(report, field).hex() == expected[field]
    for field in ("reported_tcb", "current_tcb", "committed_tcb", "launch_tcb"):
        assert dict(getattr(report, field).components) == expected[field]
    assert str(report.current_firmware) == expected["current_version"]
    assert str(report.committed_firmware) == expected["committed_version"]
    assert report.launch_mitigations == expected["launch_mit_vector"]
    assert report.current_mitigations == expected["current_mit_vector"]
    assert (report.product is None) is (expected["cpuid_fms"] is None)


@pytest.mark.parametrize("size", [0, 1, REPORT_BYTES - 1, REPORT_BYTES + 1, 2 * REPORT_BYTES])
def test_a_report_of_another_size_is_refused(size: int) -> None:
    assert refused(report_of().ljust(size, b"\x00")[:size]) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("version", [0, 1, 6, 0x10002, 0xFFFFFFFF])
def test_an_unknown_version_is_refused(version: int) -> None:
    assert refused(report_of(version=version)) is Reason.REPORT_VERSION


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_another_signature_algorithm_is_refused(algorithm: int) -> None:
    assert refused(report_of(signature_algo=algorithm)) is Reason.EVIDENCE_FORMAT


RESERVED = {
    2: [(0x4C, 0x50), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x2D0, 0x2E8), (0x318, 0x4A0)],
    3: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x2D0, 0x2E8), (0x318, 0x4A0)],
    4: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x2D0, 0x2E8), (0x318, 0x4A0)],
    5: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x2D0, 0x2E8), (0x318, 0x4A0)],
}


@pytest.mark.parametrize("version", RESERVED)
def test_every_reserved_bit_must_be_zero(version: int) -> None:
    report = report_of(version=version)
    parse(report)
    for start, end in RESERVED[version]:
        for offset in range(start, end):
            for bit in range(8):
                assert refused(changed(report, offset, 1 << bit)) is Reason.RESERVED_NOT_ZERO


def test_policy_bit_17_must_be_one() -> None:
    assert refused(report_of(policy=0x10000)) is Reason.GUEST_POLICY


@pytest.mark.parametrize("bit", range(26, 64))
def test_reserved_policy_bits_must_be_zero(bit: int) -> None:
    assert refused(report_of(policy=0x30000 | 1 << bit)) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("bit", range(8, 64))
def test_reserved_platform_bits_must_be_zero(bit: int, version: int) -> None:
    assert refused(report_of(version=version, platform_info=0x25 | 1 << bit)) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("version", [2, 3, 4])
def test_platform_bit_6_must_be_zero_before_version_5(version: int) -> None:
    assert refused(report_of(version=version, platform_info=0x25 | 1 << 6)) is Reason.RESERVED_NOT_ZERO


def test_a_turin_report_of_version_5_says_that_iommu_writes_are_safe() -> None:
    flags = parse(report_of(version=5, cpuid=(0x1A, 0x02, 1), platform_info=0x64)).platform_flags
    assert flags == {"ecc", "alias_check_complete", "iommu_write_safe"}


@pytest.mark.parametrize("bit", range(5, 32))
def test_reserved_key_flags_must_be_zero(bit: int) -> None:
    assert refused(report_of(key_flags=1 << bit)) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("flags", [2, 2 << 2, 3 << 2, 4 << 2, 5 << 2, 6 << 2, 7 << 2])
def test_a_masked_or_unknown_signing_key_is_refused(flags: int) -> None:
    assert refused(report_of(key_flags=flags)) is Reason.EVIDENCE_SIGNATURE


def test_key_flags_name_the_signing_key() -> None:
    assert parse(report_of(key_flags=0)).signing_key is SigningKey.VCEK
    assert parse(report_of(key_flags=4)).signing_key is SigningKey.VLEK
    assert parse(report_of(key_flags=1)).author_key_enabled


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_a_report_that_no_guest_asked_for_is_refused(vmpl: int) -> None:
    assert refused(report_of(vmpl=vmpl)) is Reason.VMPL


@pytest.mark.parametrize(
    ("family", "model", "name"),
    [
        (0x19, 0x00, "Milan"),
        (0x19, 0x0F, "Milan"),
        (0x19, 0x10, "Genoa"),
        (0x19, 0x1F, "Genoa"),
        (0x19, 0xA0, "Genoa"),
        (0x19, 0xAF, "Genoa"),
        (0x1A, 0x00, "Turin"),
        (0x1A, 0x11, "Turin"),
    ],
)
def test_cpuid_names_the_product(family: int, model: int, name: str) -> None:
    product = parse(report_of(cpuid=(family, model, 1))).product
    assert product is not None
    assert product.name == name


@pytest.mark.parametrize(
    ("cpuid", "line"),
    [
        ((0x19, 0x01, 1), "Milan"),
        ((0x19, 0x01, 2), "Milan-X"),
        ((0x19, 0x11, 1), "Genoa"),
        ((0x19, 0x11, 2), "Genoa-X"),
        ((0x19, 0xA0, 1), "Bergamo"),
        ((0x19, 0xA0, 2), "Bergamo"),
        ((0x1A, 0x02, 1), "Turin"),
        ((0x1A, 0x02, 2), "Turin"),
        ((0x1A, 0x11, 0), "Turin-Dense"),
    ],
)
def test_cpuid_names_the_silicon_line(cpuid: tuple[int, int, int], line: str) -> None:
    assert parse(report_of(version=3, cpuid=cpuid)).line == line
    assert parse(report_of(version=2, cpuid=cpuid)).line is None


@pytest.mark.parametrize("cpuid", [(0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x12), (0x18, 0x00), (0, 0)])
def test_an_unknown_product_is_refused(cpuid: tuple[int, int]) -> None:
    assert refused(report_of(cpuid=(*cpuid, 1))) is Reason.PRODUCT


def test_turin_has_its_own_tcb_layout() -> None:
    raw = bytes([1, 2, 3, 4, 0, 0, 0, 5])
    report = parse(report_of(cpuid=(0x1A, 0x02, 1), reported_tcb=raw))
    assert report.reported_tcb == Tcb((("fmc", 1), ("bl", 2), ("tee", 3), ("snp", 4), ("ucode", 5)))
    assert refused(report_of(cpuid=(0x19, 0x11, 1), reported_tcb=raw)) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("field", ["current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"])
@pytest.mark.parametrize(("cpuid", "reserved"), [((0x19, 0x11, 1), (2, 3, 4, 5)), ((0x1A, 0x02, 1), (4, 5, 6))])
def test_reserved_tcb_bytes_must_be_zero(field: str, cpuid: Any, reserved: tuple[int, ...]) -> None:
    for offset in reserved:
        raw = changed(bytes(8), offset, 1)
        assert refused(report_of(cpuid=cpuid, **{field: raw})) is Reason.RESERVED_NOT_ZERO


def test_the_parser_reads_what_the_writer_wrote() -> None:
    report = parse(
        report_of(
            guest_svn=3,
            policy=0x3F70203 | 1 << 17,
            vmpl=2,
            platform_info=0xBF,
            current_firmware=(1, 58, 3),
            committed_firmware=(1, 57, 2),
            launch_mitigations=5,
            current_mitigations=7,
            report_id_ma=bytes(32),
        )
    )
    assert report.guest_svn == 3
    assert (report.minimum_abi.major, report.minimum_abi.minor) == (2, 3)
    assert len(report.guest_flags) == 8  # all but debug
    assert len(report.platform_flags) == 7
    assert report.vmpl == 2
    assert report.current_firmware == FirmwareVersion(1, 58, 3)
    assert report.committed_firmware == FirmwareVersion(1, 57, 2)
    assert (report.launch_mitigations, report.current_mitigations) == (5, 7)
    assert report.has_migration_agent
    assert (report.signature_r, report.signature_s) == (7, 9)


def test_the_writer_refuses_fields_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="48 bytes"):
        writer.encode(replace(ReportFields(), measurement=bytes(47)))


@given(st.binary(min_size=REPORT_BYTES, max_size=REPORT_BYTES))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    _parsed_or_refused(data)


@given(st.lists(st.tuples(st.integers(0, REPORT_BYTES - 1), st.integers(0, 255)), max_size=6))
def test_any_change_to_a_good_report_parses_or_is_refused(changes: list[tuple[int, int]]) -> None:
    report = report_of()
    for offset, mask in changes:
        report = changed(report, offset, mask)
    _parsed_or_refused(report)


def _parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(parse(data), UnverifiedSnpReport)
