"""Run-time measurement: a fake kernel whose registers extend, and a log that leads to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.attestation.test_ccel import LOG
from trusted.attestation.formats.ccel import parse, replay
from trusted.errors import Reason, TeeError
from trusted.evidence.rtmr import KernelRegisters, RuntimeMeasurements


class FakeRegisters:
    """The kernel's registers: what is written extends, 48 bytes at a time. Others may measure in between."""

    def __init__(self) -> None:
        self.values = {register: bytes(48) for register in range(4)}
        self.intruder: int | None = None
        self.error: OSError | None = None

    def read(self, register: int) -> bytes:
        return self.values[register]

    def extend(self, register: int, digest: bytes) -> None:
        assert len(digest) == 48
        if self.error:
            raise self.error
        for _ in range(2 if self.intruder == register else 1):
            self.values[register] = hashlib.sha384(self.values[register] + digest).digest()


def test_what_is_measured_extends_the_register_and_stands_in_the_log() -> None:
    kernel = FakeRegisters()
    runtime = RuntimeMeasurements(kernel)
    assert runtime.measure(2, b"plan") == hashlib.sha384(b"plan").digest()
    runtime.measure(3, b"app")
    runtime.measure(3, b"data")
    assert kernel.values[0] == kernel.values[1] == bytes(48)
    replayed = replay(parse(runtime.log_after(lambda: LOG)()))
    before = replay(parse(LOG))
    assert replayed.digests[2] == (hashlib.sha384(b"plan").digest(),)
    assert replayed.rtmrs[2] == kernel.values[2]
    assert replayed.digests[3][len(before.digests[3]) :] == tuple(
        hashlib.sha384(data).digest() for data in (b"app", b"data")
    )


def test_without_a_firmware_log_there_is_none_to_continue() -> None:
    runtime = RuntimeMeasurements(FakeRegisters())
    runtime.measure(3, b"app")
    assert runtime.log_after(lambda: b"")() == b""


def test_a_measurement_of_somebody_else_is_noticed_and_not_logged() -> None:
    kernel = FakeRegisters()
    kernel.intruder = 3
    runtime = RuntimeMeasurements(kernel)
    with pytest.raises(TeeError) as error:
        runtime.measure(3, b"app")
    assert error.value.reason is Reason.TEE_REPORT
    assert runtime.log_after(lambda: LOG)() == LOG


@pytest.mark.parametrize("register", [-1, 0, 1, 4])
def test_the_firmwares_registers_are_left_alone(register: int) -> None:
    kernel = FakeRegisters()
    with pytest.raises(ValueError, match="2 or 3"):
        RuntimeMeasurements(kernel).measure(register, b"app")
    assert set(kernel.values.values()) == {bytes(48)}


@pytest.mark.parametrize("size", [0, 4097])
def test_what_is_measured_is_bounded(size: int) -> None:
    with pytest.raises(ValueError, match="4096"):
        RuntimeMeasurements(FakeRegisters()).measure(3, bytes(size))


def test_a_register_that_may_not_be_written_is_an_error() -> None:
    kernel = FakeRegisters()
    kernel.error = PermissionError("EACCES")
    with pytest.raises(TeeError) as error:
        RuntimeMeasurements(kernel).measure(3, b"app")
    assert error.value.reason is Reason.TEE_REPORT


def test_a_guest_without_registers_is_an_error_that_names_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match=r"rtmr3:sha384.*6\.16") as error:
        RuntimeMeasurements(KernelRegisters(tmp_path)).measure(3, b"app")
    assert error.value.reason is Reason.TEE_DEVICE_MISSING


def test_the_kernels_files_are_read_whole_and_written_at_once(tmp_path: Path) -> None:
    (tmp_path / "rtmr2:sha384").write_bytes(b"\x02" * 48)
    (tmp_path / "rtmr3:sha384").write_bytes(b"\x03" * 60)
    registers = KernelRegisters(tmp_path)
    assert registers.read(2) == b"\x02" * 48
    assert len(registers.read(3)) == 49
    registers.extend(2, b"\x09" * 48)
    assert (tmp_path / "rtmr2:sha384").read_bytes() == b"\x09" * 48
    with pytest.raises(TeeError):  # a plain file does not extend: what it holds then is not what it should
        RuntimeMeasurements(registers).measure(2, b"app")
