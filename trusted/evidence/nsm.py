"""Evidence from the Nitro Security Module, ``/dev/nsm``, inside an AWS Nitro Enclave. Trust zone: every TEE.

One ioctl: a CBOR request in, a CBOR answer out, each in a buffer that an ``iovec`` names.
Sources: Linux ``include/uapi/linux/nsm.h``; aws-nitro-enclaves-nsm-api; attestation.md 5.2.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import cbor
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.wire import exactly

DEVICE = Path("/dev/nsm")
NSM_IOCTL_RAW = 0xC0200A00
MAX_REQUEST_BYTES = 0x1000
MAX_RESPONSE_BYTES = 0x3000
_MESSAGE = struct.Struct("=QQQQ")  # iovec of the request, iovec of the response: address and length

# (descriptor, request, argument, whether the kernel may write to it): ``fcntl.ioctl``, or a fake kernel.
Ioctl = Callable[[int, int, bytearray, bool], int]


class Nsm:
    """The module behind ``device``. One request for each call; calls do not share state."""

    def __init__(self, device: Path = DEVICE, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._device = device
        self._ioctl = ioctl

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh document that carries ``report_data``, exactly 64 bytes, as user data, and its short form as nonce.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_DEVICE_MISSING, no such device; TEE_REPORT, it refused or answered something else.
        """
        exactly(report_data, 64, "report_data")
        wanted: cbor.Value = {"user_data": report_data, "nonce": short_nonce(report_data), "public_key": None}
        answer = self._ask(cbor.encode({"Attestation": wanted}))
        return Evidence(EvidenceFormat.NITRO, _document(answer), ())

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: an enclave has no devices."""
        return ()

    def _ask(self, request: bytes) -> bytes:
        sent = ctypes.create_string_buffer(request, len(request))
        room = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        message = bytearray(
            _MESSAGE.pack(ctypes.addressof(sent), len(request), ctypes.addressof(room), MAX_RESPONSE_BYTES)
        )
        try:
            descriptor = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ioctl(descriptor, NSM_IOCTL_RAW, message, True)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _device_error(error, self._device) from None
        *_, length = _MESSAGE.unpack(message)
        if length > MAX_RESPONSE_BYTES:
            raise TeeError(Reason.TEE_REPORT, f"nsm answer: at most {MAX_RESPONSE_BYTES} bytes expected")
        return room.raw[:length]


def _device_error(error: OSError, device: Path) -> TeeError:
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        hint = "this is no Nitro Enclave, or its kernel has no nsm driver (CONFIG_NSM)"
        return TeeError(Reason.TEE_DEVICE_MISSING, f"no {device} ({name}): {hint}")
    return TeeError(Reason.TEE_REPORT, f"nsm request: {name}")


def _document(answer: bytes) -> bytes:
    """The document in ``{"Attestation": {"document": bytes}}``."""
    try:
        value = cbor.decode(answer, "nsm answer", max_bytes=MAX_RESPONSE_BYTES, streamed=True)
    except ProtocolError:
        raise TeeError(Reason.TEE_REPORT, "nsm answer: CBOR expected") from None
    if isinstance(value, dict) and isinstance(value.get("Error"), str):
        raise TeeError(Reason.TEE_REPORT, "nsm answer: the module refused the request")
    attestation = value.get("Attestation") if isinstance(value, dict) else None
    document = attestation.get("document") if isinstance(attestation, dict) else None
    if not isinstance(document, bytes):
        raise TeeError(Reason.TEE_REPORT, "nsm answer: an attestation document expected")
    return document
