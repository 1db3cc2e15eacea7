"""SEV-SNP evidence through ``/dev/sev-guest``, for kernels before configfs-tsm. Trust zone: every TEE.

One ioctl, SNP_GET_EXT_REPORT: the report from the security processor, and the host's certificate table in a buffer
beside it. The host may lie about the table; peers verify the chain.
Sources: Linux ``include/uapi/linux/sev-guest.h``; AMD 56860, MSG_REPORT_RSP; attestation.md 5.2.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from trusted.attestation.evidence import Evidence
from trusted.errors import Reason, TeeError
from trusted.evidence.configfs_tsm import TsmReport, snp_evidence
from trusted.wire import exactly

DEVICE = Path("/dev/sev-guest")
SNP_GET_EXT_REPORT = 0xC0205302
_MESSAGE_VERSION = 1
_MESSAGE = struct.Struct("=B7xQQQ")  # version, address of the request, address of the response, exitinfo2
_REQUEST = struct.Struct("=64sI28xQI4x")  # report data, VMPL, address and length of the certificate buffer
_RESPONSE = struct.Struct("=II24x")  # status, size of the report that follows
_RESPONSE_BYTES = 4000
_REPORT_BYTES = 1184
_TABLE_BYTES = 0x4000  # the most that the kernel takes (SEV_FW_BLOB_MAX_SIZE), in whole pages
_VMM_BUFFER_TOO_SMALL = 1
_VMM_BUSY = 2
_ATTEMPTS = 8
_PAUSE_S = 0.05

Ioctl = Callable[[int, int, bytearray, bool], int]


class SevGuest:
    """The security processor behind ``device``, asked at privilege level ``vmpl``. Calls do not share state."""

    def __init__(
        self,
        device: Path = DEVICE,
        *,
        vmpl: int = 0,
        ioctl: Ioctl = fcntl.ioctl,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``pause`` waits between attempts, in seconds."""
        self._device = device
        self._vmpl = vmpl
        self._ioctl = ioctl
        self._pause = pause

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh report that carries ``report_data``, exactly 64 bytes, with the certificates that the host supplied.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_DEVICE_MISSING, no such device; TEE_REPORT, it stays busy, refuses, or the host supplied no
                certificates.
        """
        exactly(report_data, 64, "report_data")
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_PAUSE_S * attempt)
            found = self._attempt(report_data)
            if found is not None:
                return snp_evidence(found)
        raise TeeError(Reason.TEE_REPORT, f"sev-guest: busy in {_ATTEMPTS} attempts")

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def _attempt(self, report_data: bytes) -> TsmReport | None:
        """The report and the certificate table; None if the host was busy."""
        table = ctypes.create_string_buffer(_TABLE_BYTES)
        response = ctypes.create_string_buffer(_RESPONSE_BYTES)
        packed = _REQUEST.pack(report_data, self._vmpl, ctypes.addressof(table), _TABLE_BYTES)
        request = ctypes.create_string_buffer(packed, len(packed))
        message = bytearray(_MESSAGE.pack(_MESSAGE_VERSION, ctypes.addressof(request), ctypes.addressof(response), 0))
        try:
            self._call(message)
        except OSError as error:
            _only_busy(error, _MESSAGE.unpack(message)[3] >> 32)
            return None
        return TsmReport(_report(response.raw), table.raw)

    def _call(self, message: bytearray) -> None:
        descriptor = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ioctl(descriptor, SNP_GET_EXT_REPORT, message, True)
        finally:
            os.close(descriptor)


def _only_busy(error: OSError, vmm_error: int) -> None:
    """Return for a busy host; everything else is final.

    Raises:
        TeeError: TEE_DEVICE_MISSING if the device is not there, TEE_REPORT otherwise.
    """
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        hint = "this is no SEV-SNP guest, or its driver is not loaded (modprobe sev-guest)"
        raise TeeError(Reason.TEE_DEVICE_MISSING, f"no {DEVICE} ({name}): {hint}")
    if vmm_error == _VMM_BUFFER_TOO_SMALL:
        raise TeeError(Reason.TEE_REPORT, f"sev-guest: a certificate table of at most {_TABLE_BYTES} bytes expected")
    if vmm_error != _VMM_BUSY and error.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
        raise TeeError(Reason.TEE_REPORT, f"sev-guest report: {name}") from None


def _report(response: bytes) -> bytes:
    status, size = _RESPONSE.unpack_from(response)
    if status != 0 or size != _REPORT_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"sev-guest answer: status 0 and {_REPORT_BYTES} bytes expected")
    return response[_RESPONSE.size : _RESPONSE.size + _REPORT_BYTES]
