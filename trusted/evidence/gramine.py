"""Evidence from Gramine's ``/dev/attestation`` inside an SGX enclave. Trust zone: every TEE.

Gramine's library OS, which is measured with the enclave, offers plain files: 64 bytes are written to
``user_report_data``, and ``quote`` then reads as a DCAP quote over them. Source: Gramine documentation, Attestation and
Secret Provisioning.
"""

from __future__ import annotations

import threading
from pathlib import Path

from trusted.attestation.evidence import MAX_REPORT_BYTES, Evidence, EvidenceFormat
from trusted.attestation.formats.dcap import parse_sgx
from trusted.attestation.verify.dcap import COLLATERAL
from trusted.errors import AttestationError, Reason, TeeError
from trusted.evidence.dcap import CollateralSource, required
from trusted.evidence.sealing import derived_key, no_sealing_key
from trusted.wire import exactly

ATTESTATION_DIRECTORY = Path("/dev/attestation")
_TYPE = "attestation_type"
_MAX_TYPE_BYTES = 64
_SEALING_KEY = "keys/_sgx_mrenclave"
_SEALING_KEY_BYTES = 16


class Gramine:
    """SGX evidence through files below ``directory``. The files are the process's own, so one call at a time."""

    def __init__(self, collateral: CollateralSource, directory: Path = ATTESTATION_DIRECTORY) -> None:
        """``collateral``: Intel's, from the operator; see ``dcap.py``."""
        self._collateral = collateral
        self._directory = directory
        self._one_at_a_time = threading.Lock()

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def sealing_key(self, label: bytes) -> bytes:
        """A key from EGETKEY's seal key under the policy MRENCLAVE, 32 secret bytes.

        It is of this processor, this enclave and, by Gramine's default masks, its attributes: a debug enclave has
        another one (``sgx.seal_key.flags_mask`` would loosen that, and is measured). Gramine asks for the processor's
        current security version: microcode that raises it (a TCB recovery) changes the key.

        Raises:
            TeeError: TEE_NO_SEALING, Gramine shows no such file; TEE_REPORT, it holds something else.
        """
        try:
            root = self._read(_SEALING_KEY, _SEALING_KEY_BYTES)
        except OSError:
            raise no_sealing_key("gramine") from None
        if len(root) != _SEALING_KEY_BYTES or not any(root):
            raise TeeError(Reason.TEE_REPORT, f"gramine {_SEALING_KEY}: {_SEALING_KEY_BYTES} bytes of a key expected")
        return derived_key(root, label)

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh quote that carries ``report_data``, exactly 64 bytes, with Intel's collateral.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_DEVICE_MISSING, this is no enclave of Gramine; TEE_REPORT, it is not set up for DCAP, or gave
                a quote over something else.
        """
        exactly(report_data, 64, "report_data")
        self._require_dcap()
        with self._one_at_a_time:
            quote = self._quote(report_data)
        try:
            bound = parse_sgx(quote)[1].report_data
        except AttestationError as error:
            raise TeeError(Reason.TEE_REPORT, f"gramine: {error.detail}") from None
        if bound != report_data:
            raise TeeError(Reason.TEE_REPORT, "gramine quote: over the report data that was written expected")
        parts = ((COLLATERAL, required(self._collateral(quote))),)
        return Evidence(EvidenceFormat.SGX, quote, (), b"", parts)

    def _require_dcap(self) -> None:
        try:
            kind = self._read(_TYPE, _MAX_TYPE_BYTES).strip(b"\0\n ")
        except OSError:
            raise TeeError(
                Reason.TEE_DEVICE_MISSING,
                f"no {self._directory / _TYPE}: this process does not run in Gramine with SGX (gramine-sgx)",
            ) from None
        if kind != b"dcap":
            raise TeeError(
                Reason.TEE_REPORT, 'gramine attestation_type: dcap expected; set sgx.remote_attestation = "dcap"'
            )

    def _quote(self, report_data: bytes) -> bytes:
        try:
            # Unbuffered: Gramine takes each write for the whole value.
            with open(self._directory / "user_report_data", "r+b", buffering=0) as file:
                if file.write(report_data) != len(report_data):
                    raise TeeError(Reason.TEE_REPORT, "gramine user_report_data: not taken whole")
            quote = self._read("quote", MAX_REPORT_BYTES)
        except OSError:
            raise TeeError(
                Reason.TEE_REPORT, "gramine quote: not given; does the host run the AESM service with DCAP?"
            ) from None
        if len(quote) > MAX_REPORT_BYTES:
            raise TeeError(Reason.TEE_REPORT, f"gramine quote: at most {MAX_REPORT_BYTES} bytes expected")
        return quote

    def _read(self, name: str, most: int) -> bytes:
        content = b""
        with open(self._directory / name, "rb", buffering=0) as file:
            while len(content) <= most and (part := file.read(most + 1 - len(content))):
                content += part
        return content


def detect(collateral: CollateralSource, directory: Path = ATTESTATION_DIRECTORY) -> Gramine:
    """The evidence source of this enclave.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what was looked for. There is no other answer, and no stand-in.
    """
    if not (directory / _TYPE).exists():
        raise TeeError(
            Reason.TEE_DEVICE_MISSING,
            f"no {directory / _TYPE}: this process does not run in Gramine with SGX (gramine-sgx)",
        )
    return Gramine(collateral, directory)
