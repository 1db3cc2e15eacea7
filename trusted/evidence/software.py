"""Evidence and a sealing key from the platform over an inherited descriptor. Trust zone: every TEE.

Despite the file's name nothing here knows whether the platform is software: the launcher of ``softtee`` left one end
of a socket pair open, and only the process that it started can ask there. What comes back is verified by peers.
"""

from __future__ import annotations

import socket
import threading

from trusted.attestation.evidence import Evidence
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.evidence.sealing import KEY_BYTES, derived_key
from trusted.wire import exactly

MAX_ANSWER_BYTES = 64 << 10
SEALING_REQUEST = b"cloister/platform/sealing-key/v1"  # not 64 bytes, so it is no request for evidence
_ANSWER_TIMEOUT_S = 30.0


class PlatformEvidence:
    """Asks the platform: 64 bytes of report data out, one length-prefixed evidence container in; or the request for a
    sealing key out, 32 length-prefixed bytes in. Thread-safe."""

    def __init__(self, platform: socket.socket) -> None:
        self._platform = platform
        self._platform.settimeout(_ANSWER_TIMEOUT_S)
        self._one_at_a_time = threading.Lock()

    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence whose report carries ``report_data``, exactly 64 bytes.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: the platform is gone, or answered with something else.
        """
        exactly(report_data, 64, "report_data")
        try:
            return Evidence.decode(self._answer(report_data))
        except ProtocolError:
            raise TeeError(Reason.TEE_REPORT, "platform: the answer is no evidence container") from None

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def sealing_key(self, label: bytes) -> bytes:
        """A key from what the platform derives for this machine, measurement and role, 32 secret bytes.

        Raises:
            TeeError: TEE_REPORT: the platform is gone, or answered with something else.
        """
        root = self._answer(SEALING_REQUEST)
        if len(root) != KEY_BYTES:
            raise TeeError(Reason.TEE_REPORT, f"platform: a sealing key of {KEY_BYTES} bytes expected")
        return derived_key(root, label)

    def _answer(self, request: bytes) -> bytes:
        try:
            with self._one_at_a_time:
                self._platform.sendall(request)
                answer = self._platform.recv(MAX_ANSWER_BYTES)
        except OSError:
            raise TeeError(Reason.TEE_REPORT, "platform: no answer over the inherited descriptor") from None
        if len(answer) < 4 or int.from_bytes(answer[:4], "big") != len(answer) - 4:
            raise TeeError(Reason.TEE_REPORT, "platform: the answer is cut short, or it refused")
        return answer[4:]

    def close(self) -> None:
        """Give up the descriptor. A forked child that must not speak for this enclave (a trainer) calls this first."""
        self._platform.close()
