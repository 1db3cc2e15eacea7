"""Measuring at run time into a TD's RTMR2 and RTMR3 (Linux >= 6.16), with a log to replay. Trust zone: every TEE.

Writing 48 bytes to a register's file extends it, for good: only a new launch makes it zeros again. What is measured
here is listed in the form of the firmware's log, so that one log explains all registers. SEV-SNP has nothing like it.
Source: Linux ``Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest``.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Protocol

from trusted.attestation.formats import ccel
from trusted.errors import Reason, TeeError
from trusted.evidence.dcap import LogSource, ccel_file

MEASUREMENTS_DIRECTORY = Path("/sys/class/misc/tdx_guest/measurements")
REGISTERS = (2, 3)  # the others belong to firmware and boot loader, and the kernel does not let them be written
_MAX_DATA_BYTES = 4096


class Registers(Protocol):
    """The kernel's registers, so that a fake kernel can stand in their place."""

    def read(self, register: int) -> bytes:
        """What RTMR ``register`` holds, 48 bytes."""
        ...

    def extend(self, register: int, digest: bytes) -> None:
        """Measure ``digest``, 48 bytes, into RTMR ``register``."""
        ...


class KernelRegisters:
    """The kernel's own files, ``rtmr2:sha384`` and ``rtmr3:sha384``."""

    def __init__(self, directory: Path = MEASUREMENTS_DIRECTORY) -> None:
        """Registers below ``directory``."""
        self._directory = directory

    def read(self, register: int) -> bytes:
        """What the register holds; one byte more than it should at most."""
        with open(self._path(register), "rb", buffering=0) as file:
            return file.read(ccel.RTMR_BYTES + 1)

    def extend(self, register: int, digest: bytes) -> None:
        """One write of the whole digest, which the kernel takes for one measurement."""
        with open(self._path(register), "r+b", buffering=0) as file:
            if file.write(digest) != len(digest):
                raise OSError("not taken whole")

    def _path(self, register: int) -> Path:
        return self._directory / f"rtmr{register}:sha384"


class RuntimeMeasurements:
    """Measures into ``registers`` and keeps the log. Thread-safe; other processes that measure are noticed."""

    def __init__(self, registers: Registers | None = None) -> None:
        """Without ``registers``, the kernel's."""
        self._registers: Registers = KernelRegisters() if registers is None else registers
        self._one_at_a_time = threading.Lock()
        self._log = b""

    def measure(self, register: int, data: bytes) -> bytes:
        """SHA-384 of ``data``, 1 to 4096 bytes, is measured into RTMR ``register`` (2 or 3) and in the log.

        Raises:
            ValueError: another register, or too much data.
            TeeError: TEE_DEVICE_MISSING, there are no such registers; TEE_REPORT, it was not measured as it should be,
                or somebody else measured at the same time: the log no longer explains the register.
        """
        if register not in REGISTERS or not 0 < len(data) <= _MAX_DATA_BYTES:
            raise ValueError(f"register: 2 or 3, with 1 to {_MAX_DATA_BYTES} bytes of data, expected")
        digest = hashlib.sha384(data).digest()
        with self._one_at_a_time:
            try:
                before = self._registers.read(register)
                self._registers.extend(register, digest)
                after = self._registers.read(register)
            except FileNotFoundError:
                raise TeeError(
                    Reason.TEE_DEVICE_MISSING,
                    f"no rtmr{register}:sha384 in {MEASUREMENTS_DIRECTORY}: a TDX guest with Linux 6.16 has it",
                ) from None
            except OSError:
                raise TeeError(Reason.TEE_REPORT, f"rtmr{register}: not measured; may this process write it?") from None
            if after != ccel.extend(before, digest):
                raise TeeError(Reason.TEE_REPORT, f"rtmr{register}: not extended by this measurement alone")
            self._log += ccel.encode_event(register, ccel.EV_EVENT_TAG, digest, data)
        return digest

    def log_after(self, firmware: LogSource = ccel_file()) -> LogSource:  # noqa: B008
        """The firmware's log and then what was measured here: for ``dcap.tdx_maker``. Empty if there is no firmware
        log, for its first entry says how the rest is to be read."""

        def read() -> bytes:
            log = firmware()
            with self._one_at_a_time:
                return log + self._log if log else b""

        return read
