"""``/dev/sev-guest``: a fake kernel that reads the request where it is told, and real bytes of a real guest."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.attestation.vectors import ROOTS, folder
from tests.softtee.test_configfs_tsm import ARK, ASK, CHAIN, VCEK, table
from trusted.attestation.appraise import verify
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.sev_guest import SevGuest

REPORT_DATA = bytes(range(64))
REPORT_BYTES = 1184
BUFFER_TOO_SMALL, BUSY = 1 << 32, 2 << 32  # the host's answer is the upper half of exitinfo2


class FakeKernel:
    """The ioctl, its two buffers, and the host's certificate table."""

    def __init__(self, *, report: bytes | None = None, certificates: bytes | None = None, vmpl: int = 0) -> None:
        self.report = report
        self.certificates = table(CHAIN) if certificates is None else certificates
        self.vmpl = vmpl
        self.busy = 0
        self.error: int | None = None
        self.status, self.size = 0, REPORT_BYTES
        self.calls = 0

    def ioctl(self, descriptor: int, request: int, argument: bytearray, mutate: bool) -> int:
        os.fstat(descriptor)  # an open file
        self.calls += 1
        assert (request, mutate, len(argument)) == (0xC0205302, True, 32)
        version, asked, answer, _ = struct.unpack("=B7xQQQ", argument)
        assert version == 1
        report_data, vmpl, certificates, room = struct.unpack("=64sI28xQI4x", ctypes.string_at(asked, 112))
        assert vmpl == self.vmpl
        assert room % 4096 == 0
        assert room <= 0x4000
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.busy:
            self.busy -= 1
            self._fail(argument, BUSY, errno.EIO)
        if len(self.certificates) > room:
            self._fail(argument, BUFFER_TOO_SMALL, errno.ENOSPC)
        ctypes.memmove(certificates, self.certificates, len(self.certificates))
        report = report_data.ljust(REPORT_BYTES, b"\0") if self.report is None else self.report
        head = struct.pack("=II24x", self.status, self.size)
        ctypes.memmove(answer, (head + report).ljust(4000, b"\0"), 4000)
        return 0

    def _fail(self, argument: bytearray, exit_info: int, error: int) -> None:
        argument[24:32] = struct.pack("=Q", exit_info)
        raise OSError(error, os.strerror(error))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sev-guest"
    path.touch()
    return path


def source(device: Path, kernel: FakeKernel, waited: list[float] | None = None) -> SevGuest:
    return SevGuest(device, vmpl=kernel.vmpl, ioctl=kernel.ioctl, pause=([] if waited is None else waited).append)


def why(device: Path, kernel: FakeKernel) -> Reason:
    with pytest.raises(TeeError) as error:
        source(device, kernel).evidence(REPORT_DATA)
    return error.value.reason


@pytest.mark.parametrize("vmpl", [0, 1, 3])
def test_evidence_carries_report_data_and_the_chain_leaf_first(device: Path, vmpl: int) -> None:
    evidence = source(device, FakeKernel(vmpl=vmpl)).evidence(REPORT_DATA)
    assert evidence.report[:64] == REPORT_DATA
    assert len(evidence.report) == REPORT_BYTES
    assert evidence.certificates == (b"vcek", b"ask", b"ark")


def test_real_bytes_of_a_real_guest_verify(device: Path) -> None:
    path = folder("snp", "genoa_v3_configfs_tsm")
    kernel = FakeKernel(report=(path / "outblob").read_bytes(), certificates=(path / "auxblob").read_bytes())
    evidence = source(device, kernel).evidence(REPORT_DATA)
    verify(evidence, ROOTS, datetime(2025, 6, 1, tzinfo=UTC))


def test_a_busy_host_is_asked_again(device: Path) -> None:
    kernel, waited = FakeKernel(), list[float]()
    kernel.busy = 2
    assert source(device, kernel, waited).evidence(REPORT_DATA).report[:64] == REPORT_DATA
    assert (kernel.calls, len(waited)) == (3, 2)


def test_a_host_that_stays_busy_is_an_error_after_bounded_attempts(device: Path) -> None:
    kernel = FakeKernel()
    kernel.busy = 1000
    assert why(device, kernel) is Reason.TEE_REPORT
    assert kernel.calls == 8


@pytest.mark.parametrize(
    ("error", "reason", "calls"),
    [
        (errno.ENODEV, Reason.TEE_DEVICE_MISSING, 1),
        (errno.EPERM, Reason.TEE_REPORT, 1),
        (errno.EIO, Reason.TEE_REPORT, 1),
        (errno.EAGAIN, Reason.TEE_REPORT, 8),
    ],
)
def test_a_refusing_kernel_is_an_error(device: Path, error: int, reason: Reason, calls: int) -> None:
    kernel = FakeKernel()
    kernel.error = error
    assert why(device, kernel) is reason
    assert kernel.calls == calls


def test_a_missing_device_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match="modprobe sev-guest") as error:
        SevGuest(tmp_path / "sev-guest").evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING


def test_another_answer_is_refused(device: Path) -> None:
    for status, size in ((0x16, REPORT_BYTES), (0, 0), (0, REPORT_BYTES - 1), (0, REPORT_BYTES + 1)):
        kernel = FakeKernel()
        kernel.status, kernel.size = status, size
        assert why(device, kernel) is Reason.TEE_REPORT


@pytest.mark.parametrize(
    "certificates", [b"", b"\0" * 24, table({VCEK: b"vcek"}), table({ASK: b"ask", ARK: b"ark"}), bytes(0x4001)]
)
def test_a_host_without_the_chain_is_an_error(device: Path, certificates: bytes) -> None:
    assert why(device, FakeKernel(certificates=certificates)) is Reason.TEE_REPORT


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_its_length(device: Path, size: int) -> None:
    kernel = FakeKernel()
    with pytest.raises(WireError):
        source(device, kernel).evidence(bytes(size))
    assert kernel.calls == 0
