"""The container and the bindings (docs/protocol.md §3.1 and §3.2)."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.binding import host_data, report_data
from trusted.attestation.evidence import (
    MAX_CERTIFICATE_BYTES,
    MAX_CRL_BYTES,
    MAX_REPORT_BYTES,
    Evidence,
    EvidenceFormat,
)
from trusted.errors import AttestationError, ProtocolError, Reason, WireError
from trusted.wire import length_prefixed, pack

EVIDENCE = Evidence(EvidenceFormat.SNP, b"r" * 1184, (b"leaf", b"ask", b"ark"), b"crl")
LABEL = "cloister/evidence/v1"


def test_evidence_survives_the_wire() -> None:
    assert Evidence.decode(EVIDENCE.encode()) == EVIDENCE


def test_the_record_is_what_the_protocol_says() -> None:
    certificates = length_prefixed(b"leaf", b"ask", b"ark")
    assert EVIDENCE.encode() == length_prefixed(LABEL.encode(), b"snp", b"r" * 1184, certificates, b"crl", b"")
    assert EVIDENCE.digest == hashlib.sha256(EVIDENCE.encode()).digest()


@pytest.mark.parametrize("cut", [1, 3, 4, 100])
def test_a_record_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(WireError):
        Evidence.decode(EVIDENCE.encode()[:-cut])


def test_a_record_with_a_byte_more_is_refused() -> None:
    with pytest.raises(WireError):
        Evidence.decode(EVIDENCE.encode() + b"\x00")


@pytest.mark.parametrize("name", [b"", b"SNP", b"sev", b"snp\x00", b"\xff"])
def test_an_unknown_format_is_refused(name: bytes) -> None:
    with pytest.raises(AttestationError) as error:
        Evidence.decode(pack(LABEL, name, b"", b"", b"", b""))
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "certificates", [b"\x00", b"\x00\x00\x00\x02a", length_prefixed(b"a") + b"\x00\x00\x00", b"\xff" * 8]
)
def test_a_certificate_cut_short_is_refused(certificates: bytes) -> None:
    with pytest.raises(WireError) as error:
        Evidence.decode(pack(LABEL, b"snp", b"", certificates, b"", b""))
    assert error.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("report", "certificates", "crl"),
    [
        (b"r" * (MAX_REPORT_BYTES + 1), (), b""),
        (b"", (b"",) * 9, b""),
        (b"", (b"c" * (MAX_CERTIFICATE_BYTES + 1),), b""),
        (b"", (), b"l" * (MAX_CRL_BYTES + 1)),
    ],
    ids=["report", "count", "certificate", "crl"],
)
def test_more_than_the_bounds_is_refused_on_both_sides(
    report: bytes, certificates: tuple[bytes, ...], crl: bytes
) -> None:
    with pytest.raises(WireError) as error:
        Evidence(EvidenceFormat.SNP, report, certificates, crl)
    assert error.value.reason is Reason.TOO_LARGE
    with pytest.raises(WireError) as error:
        Evidence.decode(pack(LABEL, b"snp", report, length_prefixed(*certificates), crl, b""))
    assert error.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=400))
def test_any_bytes_are_evidence_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert Evidence.decode(data).encode() == data


@given(st.binary(max_size=200))
def test_any_certificate_field_is_read_back_or_an_error(field: bytes) -> None:
    record = pack(LABEL, b"snp", b"report", field, b"", b"")
    with contextlib.suppress(ProtocolError):
        assert Evidence.decode(record).encode() == record


def test_report_data_is_the_labelled_hash_of_the_transcript() -> None:
    label = b"cloister/report-data/v1"
    expected = hashlib.sha512(len(label).to_bytes(4, "big") + label + b"\x00\x00\x00\x02T1").digest()
    assert report_data(b"T1") == expected
    assert len({report_data(transcript) for transcript in (b"", b"T1", b"T1\x00", b"T2")}) == 4


def test_host_data_names_role_charter_and_plan() -> None:
    charter, plan = b"c" * 32, b"p" * 32
    assert (
        host_data("worker", charter, plan)
        == hashlib.sha256(pack("cloister/config/v1", b"worker", charter, plan)).digest()
    )
    others = {host_data("aggregator", charter, plan), host_data("worker", plan, charter)}
    assert host_data("worker", charter, plan) not in others


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_host_data_takes_whole_digests_only(size: int) -> None:
    with pytest.raises(WireError):
        host_data("worker", b"c" * size, b"p" * 32)
    with pytest.raises(WireError):
        host_data("worker", b"c" * 32, b"p" * size)
