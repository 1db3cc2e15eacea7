"""How commands reach a TPM 2.0: the kernel's device, or a socket. Trust zone: every TEE.

Whoever sits between may lie and cut: answers are read as claims, and what matters in them is signed by the TPM.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol

from trusted.errors import Reason, TeeError

DEVICE = Path("/dev/tpmrm0")
MAX_ANSWER_BYTES = 4096
_HEADER_BYTES = 10
_ANSWER_TIMEOUT_S = 60.0  # some TPMs take half a minute to draw an RSA key


class TpmTransport(Protocol):
    """One TPM, one exchange at a time."""

    def exchange(self, command: bytes) -> bytes:
        """The answer to ``command``, whole.

        Raises:
            TeeError: TEE_REPORT, no answer or a broken one.
        """
        ...


class DeviceTransport:
    """The kernel's resource manager: it gives each open file its own key slots, and frees them when it is closed."""

    def __init__(self, device: Path = DEVICE) -> None:
        """Open ``device``.

        Raises:
            TeeError: TEE_DEVICE_MISSING, and what to do.
        """
        try:
            self._descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise TeeError(
                Reason.TEE_DEVICE_MISSING,
                f"{device}: {error.strerror}; a TPM 2.0 with its resource manager is needed: give the machine a TPM, "
                "load the driver (tpm_crb or tpm_tis), and put this user into the group tss",
            ) from None

    def exchange(self, command: bytes) -> bytes:
        """The answer to ``command``, whole: the kernel takes and gives each in one call."""
        try:
            if os.write(self._descriptor, command) != len(command):
                raise TeeError(Reason.TEE_REPORT, "TPM: the command was not taken whole")
            answer = os.read(self._descriptor, MAX_ANSWER_BYTES)
        except OSError as error:
            raise TeeError(Reason.TEE_REPORT, f"TPM: {error.strerror}") from None
        if len(answer) < _HEADER_BYTES or int.from_bytes(answer[2:6], "big") != len(answer):
            raise TeeError(Reason.TEE_REPORT, "TPM: an answer of the length that it states expected")
        return answer

    def close(self) -> None:
        """Give the device back, with every key that was loaded through it."""
        os.close(self._descriptor)


class SocketTransport:
    """A stream socket to a software TPM (swtpm's data channel). It has no resource manager: callers flush keys."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._stream.settimeout(_ANSWER_TIMEOUT_S)

    def exchange(self, command: bytes) -> bytes:
        """The answer to ``command``, whole."""
        try:
            self._stream.sendall(command)
            header = self._receive(_HEADER_BYTES)
            size = int.from_bytes(header[2:6], "big")
            if not _HEADER_BYTES <= size <= MAX_ANSWER_BYTES:
                raise TeeError(Reason.TEE_REPORT, f"TPM: an answer of at most {MAX_ANSWER_BYTES} bytes expected")
            return header + self._receive(size - _HEADER_BYTES)
        except OSError:
            raise TeeError(Reason.TEE_REPORT, "TPM: no answer over the socket") from None

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def _receive(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            part = self._stream.recv(size - len(content))
            if not part:
                raise TeeError(Reason.TEE_REPORT, "TPM: hung up in the middle of an answer")
            content += part
        return content
