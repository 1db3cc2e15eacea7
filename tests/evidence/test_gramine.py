"""SGX evidence through Gramine's files, which plain files imitate faithfully but for the quote's making."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.attestation.intel_quotes import REPORT_DATA, enclave_body, sgx_quote
from trusted.attestation.evidence import EvidenceFormat
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.gramine import Gramine, detect


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """``/dev/attestation`` of an enclave that is set up for DCAP; its quote is over :data:`REPORT_DATA`."""
    (tmp_path / "attestation_type").write_bytes(b"dcap")
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    (tmp_path / "quote").write_bytes(sgx_quote())
    return tmp_path


def refused(device: Path, report_data: bytes = REPORT_DATA) -> TeeError:
    with pytest.raises(TeeError) as error:
        Gramine(lambda quote: b"{}", device).evidence(report_data)
    return error.value


def test_the_report_data_is_written_and_the_quote_over_it_read(device: Path) -> None:
    evidence = detect(lambda quote: b"{}", device).evidence(REPORT_DATA)
    assert (device / "user_report_data").read_bytes() == REPORT_DATA
    assert evidence.format is EvidenceFormat.SGX
    assert evidence.report == sgx_quote()
    assert evidence.parts == (("collateral", b"{}"),)


def test_a_quote_over_something_else_is_never_returned(device: Path) -> None:
    body = bytearray(enclave_body())
    body[320:384] = bytes(64)
    (device / "quote").write_bytes(sgx_quote(bytes(body)))
    assert refused(device).reason is Reason.TEE_REPORT
    assert "over the report data" in refused(device).detail


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_report_data_is_never_cut_or_padded(device: Path, size: int) -> None:
    with pytest.raises(WireError):
        Gramine(lambda quote: b"{}", device).evidence(bytes(size))
    assert (device / "user_report_data").read_bytes() == bytes(64)


@pytest.mark.parametrize("kind", [b"none", b"epid", b"", b"dcap2", b"d" * 100])
def test_an_enclave_without_dcap_is_told_what_to_set(device: Path, kind: bytes) -> None:
    (device / "attestation_type").write_bytes(kind)
    error = refused(device)
    assert error.reason is Reason.TEE_REPORT
    assert "sgx.remote_attestation" in error.detail


def test_a_process_outside_of_gramine_is_an_error_that_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match=r"attestation_type.*gramine-sgx") as error:
        detect(lambda quote: b"{}", tmp_path)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    assert refused(tmp_path).reason is Reason.TEE_DEVICE_MISSING


@pytest.mark.parametrize("name", ["quote", "user_report_data"])
def test_a_file_that_is_not_there_is_an_error(device: Path, name: str) -> None:
    (device / name).unlink()
    assert refused(device).reason is Reason.TEE_REPORT


@pytest.mark.parametrize("content", [b"", b"short", sgx_quote()[:-1], sgx_quote() + bytes(33 << 10)])
def test_what_is_no_quote_is_an_error(device: Path, content: bytes) -> None:
    (device / "quote").write_bytes(content)
    assert refused(device).reason is Reason.TEE_REPORT


def test_without_collateral_there_is_no_evidence(device: Path) -> None:
    with pytest.raises(TeeError, match="collateral"):
        Gramine(lambda quote: b"", device).evidence(REPORT_DATA)


def test_a_write_is_one_write_of_all_bytes(device: Path) -> None:
    """Gramine takes each write for the whole value, so the file is a pipe here: what arrives is one message."""
    (device / "user_report_data").unlink()
    os.mkfifo(device / "user_report_data")
    arrived: list[bytes] = []

    descriptor = os.open(device / "user_report_data", os.O_RDWR)  # both ends: neither side waits for the other to come
    reader = threading.Thread(target=lambda: arrived.append(os.read(descriptor, 4096)))
    reader.start()
    Gramine(lambda quote: b"{}", device).evidence(REPORT_DATA)
    reader.join()
    os.close(descriptor)
    assert arrived == [REPORT_DATA]
