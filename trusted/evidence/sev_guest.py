"""SEV-SNP through ``/dev/sev-guest``: evidence for kernels before configfs-tsm, and the sealing key. Zone: every TEE.

SNP_GET_EXT_REPORT: the report from the security processor, and the host's certificate table in a buffer beside it. The
host may lie about the table; peers verify the chain. SNP_GET_DERIVED_KEY: a key that the host never sees, because guest
and processor talk under keys of their own.
Sources: Linux ``include/uapi/linux/sev-guest.h``; AMD 56860, MSG_REPORT_RSP, MSG_KEY_REQ, MSG_KEY_RSP;
attestation.md 5.2.
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
from trusted.evidence.sealing import derived_key
from trusted.wire import exactly

DEVICE = Path("/dev/sev-guest")
SNP_GET_EXT_REPORT = 0xC0205302
SNP_GET_DERIVED_KEY = 0xC0205301
_MESSAGE_VERSION = 1
_MESSAGE = struct.Struct("=B7xQQQ")  # version, address of the request, address of the response, exitinfo2
_REQUEST = struct.Struct("=64sI28xQI4x")  # report data, VMPL, address and length of the certificate buffer
_RESPONSE = struct.Struct("=II24x")  # status, size of the report that follows
_RESPONSE_BYTES = 4000
_REPORT_BYTES = 1184
# MSG_KEY_REQ: root key, reserved, fields to mix in, VMPL, guest SVN, TCB. MSG_KEY_RSP: status, reserved, key.
_KEY_REQUEST = struct.Struct("=I4xQIIQ")
_KEY_RESPONSE = struct.Struct("=I28x32s")
_STATUS_INVALID_KEY = 0x27
# ROOT_KEY_SELECT 0 and KEY_SEL 1: the VCEK. A VMRK lives as long as its guest; a VLEK is a cloud's, not a machine's.
_ROOT_VCEK = 1 << 1
# GUEST_POLICY, or the host could start the same image with debugging allowed and read the key; IMAGE_ID and FAMILY_ID
# of the launch; MEASUREMENT. Not GUEST_SVN, which the measurement covers. Not TCB_VERSION, or each update of firmware
# would lose the state; what an older firmware could do with it stands in docs/threat-model.md.
_MIXED_FIELDS = 0b001111
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
        table = ctypes.create_string_buffer(_TABLE_BYTES)
        request = _REQUEST.pack(report_data, self._vmpl, ctypes.addressof(table), _TABLE_BYTES)
        response = self._answer(SNP_GET_EXT_REPORT, request, bytes(_RESPONSE_BYTES))
        return snp_evidence(TsmReport(_report(response), table.raw))

    def sealing_key(self, label: bytes) -> bytes:
        """A key that only this chip derives, for this guest's policy, ids and measurement, 32 secret bytes.

        Raises:
            TeeError: TEE_DEVICE_MISSING, no such device; TEE_NO_SEALING, the VCEK is not to be had here (a cloud that
                installed a VLEK may withhold it); TEE_REPORT, it stays busy or refuses.
        """
        request = _KEY_REQUEST.pack(_ROOT_VCEK, _MIXED_FIELDS, self._vmpl, 0, 0)
        # All ones first: an answer that nobody wrote is none.
        response = self._answer(SNP_GET_DERIVED_KEY, request, b"\xff" * _KEY_RESPONSE.size)
        return derived_key(_key(response), label)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def _answer(self, command: int, packed: bytes, blank: bytes) -> bytes:
        """What the processor answers to the request ``packed``, written over ``blank``; a busy host is asked again."""
        request = ctypes.create_string_buffer(packed, len(packed))
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_PAUSE_S * attempt)
            response = ctypes.create_string_buffer(blank, len(blank))
            addresses = ctypes.addressof(request), ctypes.addressof(response)
            message = bytearray(_MESSAGE.pack(_MESSAGE_VERSION, *addresses, 0))
            try:
                self._call(command, message)
            except OSError as error:
                _only_busy(error, _MESSAGE.unpack(message)[3] >> 32)
                continue
            return response.raw
        raise TeeError(Reason.TEE_REPORT, f"sev-guest: busy in {_ATTEMPTS} attempts")

    def _call(self, command: int, message: bytearray) -> None:
        descriptor = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ioctl(descriptor, command, message, True)
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
        raise TeeError(Reason.TEE_REPORT, f"sev-guest: {name}") from None


def _report(response: bytes) -> bytes:
    status, size = _RESPONSE.unpack_from(response)
    if status != 0 or size != _REPORT_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"sev-guest answer: status 0 and {_REPORT_BYTES} bytes expected")
    return response[_RESPONSE.size : _RESPONSE.size + _REPORT_BYTES]


def _key(response: bytes) -> bytes:
    status, key = _KEY_RESPONSE.unpack(response)
    if status == _STATUS_INVALID_KEY:
        raise TeeError(Reason.TEE_NO_SEALING, "sev-guest derived key: the firmware withholds this machine's VCEK")
    if status != 0 or not any(key):
        raise TeeError(Reason.TEE_REPORT, "sev-guest derived key: status 0 and a key expected")
    return bytes(key)
