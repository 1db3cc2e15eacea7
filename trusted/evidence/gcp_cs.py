"""Evidence from the launcher of Google's Confidential Space. Trust zone: every TEE.

The launcher answers HTTP on a Unix socket inside the machine and gives a token that Google signed over our nonce.
Google's keys change; the set that the charter pins travels with the token.
Source: Confidential Space documentation, "custom attestation tokens".
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.gcp_token import MAX_TOKEN_BYTES, parse
from trusted.attestation.policies.gcp_cs import AUDIENCE
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.wire import exactly

LAUNCHER = Path("/run/container_launcher/teeserver.sock")
_TIMEOUT_S = 30.0


def detect(jwks: bytes, *, launcher: Path = LAUNCHER) -> GcpConfidentialSpace:
    """The evidence source of this workload.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what was looked for.
    """
    if not launcher.exists():
        raise TeeError(
            Reason.TEE_DEVICE_MISSING,
            f"no {launcher}: this is no workload of Confidential Space; start it from the image family "
            "confidential-space",
        )
    return GcpConfidentialSpace(jwks, launcher=launcher)


class GcpConfidentialSpace:
    """Tokens of one workload. Thread-safe: each call has its own connection."""

    def __init__(self, jwks: bytes, *, launcher: Path = LAUNCHER, audience: str = AUDIENCE) -> None:
        """``jwks``: the key set that the charter pins, byte for byte. ``audience``: as the charter's policy says."""
        self._jwks = jwks
        self._launcher = launcher
        self._audience = audience

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh token over the short nonce of ``report_data``, exactly 64 bytes.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_REPORT, the launcher does not answer, refuses, or answers with something else.
        """
        nonce = short_nonce(exactly(report_data, 64, "report_data")).hex()
        request = {"audience": self._audience, "token_type": "OIDC", "nonces": [nonce]}
        token = self._post("/v1/token", json.dumps(request).encode("ascii")).strip()
        try:
            parse(token)
        except ProtocolError as error:
            raise TeeError(Reason.TEE_REPORT, f"launcher: no token, or a part of one: {error.detail}") from None
        return Evidence(EvidenceFormat.GCP_CS, token, (), b"", (("jwks", self._jwks),))

    def _post(self, path: str, body: bytes) -> bytes:
        connection = _UnixConnection(self._launcher)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read(MAX_TOKEN_BYTES + 1)
        except (OSError, http.client.HTTPException):
            raise TeeError(Reason.TEE_REPORT, f"launcher: no answer on {self._launcher}") from None
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise TeeError(
                Reason.TEE_REPORT,
                f"launcher: status {answer.status}; the machine's service account needs "
                "roles/confidentialcomputing.workloadUser",
            )
        return content


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Reach the launcher."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))
