"""A running enclave as its launcher sees it: a handle, its status, its requests. Trust zone: the platform."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable

from softtee.measure import Measurement
from trusted.attestation.evidence import Evidence
from trusted.confinement import Feature
from trusted.errors import ProtocolError
from trusted.evidence.software import SEALING_REQUEST
from trusted.wire import length_prefixed

_START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 5.0
_MAX_STATUS_BYTES = 4096
_REPORT_DATA_BYTES = 64


class Enclave:
    """A running enclave: the handle of whoever started it."""

    def __init__(
        self, process: subprocess.Popen[bytes], measurement: Measurement, features: tuple[Feature, ...]
    ) -> None:
        """For :func:`launch` alone."""
        self._process = process
        self.measurement = measurement
        self.features = features
        """What truly limits this process. A limit that is not named does not hold."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status (negative: the signal that ended it).

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout_s``.
        """
        return self._process.wait(timeout_s)

    def terminate(self) -> int:
        """End this process, and no other: SIGTERM, and SIGKILL after a grace of 5 s. Its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                return self._process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


def await_features(status: int) -> tuple[Feature, ...] | None:
    """What the shim reports on descriptor ``status`` once confinement is complete; None if it ended before that."""
    deadline, report = time.monotonic() + _START_TIMEOUT_S, b""
    while len(report) < _MAX_STATUS_BYTES:
        ready, _, _ = select.select([status], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(status, _MAX_STATUS_BYTES) if ready else b""
        if not part:
            break
        report += part
    try:
        return tuple(Feature(name) for name in json.loads(report))
    except ValueError:
        return None


def answer(ours: socket.socket, attest: Callable[[bytes], Evidence], seal: Callable[[], bytes]) -> None:
    """Evidence for 64 bytes of report data and the sealing key for its request, until the enclave closes its end.
    Anything else ends the conversation."""
    while True:
        try:
            request = ours.recv(_REPORT_DATA_BYTES + 1)
            if request == SEALING_REQUEST:
                ours.sendall(length_prefixed(seal()))
            elif len(request) == _REPORT_DATA_BYTES:
                ours.sendall(length_prefixed(attest(request).encode()))
            else:
                break
        except (OSError, ProtocolError):
            break
    ours.close()
