"""Evidence from the vTPM of an Azure confidential VM. Trust zone: every TEE.

The paravisor keeps its report in an index of the vTPM, and makes it anew when the guest has written the index for user
data; that takes some seconds. So the nonce stands in the hardware report itself, not only in the quote.
Source: attestation.md 5.4.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import hcl
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.evidence.tpm import EVENT_LOG, PcrChoice, quote_pcrs, read_event_log
from trusted.evidence.tpm_client import TpmClient, TpmKey
from trusted.evidence.tpm_transport import DEVICE, DeviceTransport
from trusted.wire import exactly

REPORT_INDEX = 0x01400001
USER_DATA_INDEX = 0x01400002
AK_HANDLE = 0x81000003
_USER_DATA_BYTES = 64
_PAUSE_S = 1.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What vouches for the SNP report: VCEK, ASK and ARK (DER) and the revocation list. The host fetches them."""

    certificates: tuple[bytes, ...]
    crl: bytes = b""


@dataclass(frozen=True, slots=True)
class Clock:
    """How waiting is done: seconds that only go up, and a pause of so many seconds."""

    now_s: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def detect(choice: PcrChoice, endorsements: Endorsements, *, device: Path = DEVICE) -> AzureVtpm:
    """The evidence source of this Azure VM.

    Raises:
        TeeError: TEE_DEVICE_MISSING, no TPM, or none of Azure's: the index is not there.
    """
    client = TpmClient(DeviceTransport(device))
    if client.nv_index(REPORT_INDEX) is None:
        raise TeeError(
            Reason.TEE_DEVICE_MISSING,
            f"vTPM: no index {REPORT_INDEX:#010x}: this is no Azure confidential VM (--security-type ConfidentialVM)",
        )
    return AzureVtpm(client, choice, endorsements, event_log=EVENT_LOG if EVENT_LOG.exists() else None)


class AzureVtpm:
    """Evidence of one Azure confidential VM. Thread-safe."""

    def __init__(
        self,
        client: TpmClient,
        choice: PcrChoice,
        endorsements: Endorsements,
        *,
        event_log: Path | None = None,
        clock: Clock = Clock(),
    ) -> None:
        """Evidence over ``choice`` through ``client``, whose transport nobody else may use."""
        self._client = client
        self._choice = choice
        self._endorsements = endorsements
        self._event_log = event_log
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh hardware report over ``report_data``, exactly 64 bytes, and a quote over its short nonce.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_DEVICE_MISSING, this is no Azure vTPM; TEE_REPORT, the report does not become fresh in 30 s,
                or the vTPM refuses.
        """
        exactly(report_data, _USER_DATA_BYTES, "report_data")
        with self._one_at_a_time:
            report = self._fresh_report(report_data)
            ak = TpmKey(AK_HANDLE, self._client.read_public(AK_HANDLE))
            quoted = quote_pcrs(self._client, ak, short_nonce(report_data), self._choice)
        parts = {"pcrs": quoted.values, "quote": quoted.quote.attest, "signature": quoted.quote.signature}
        log = read_event_log(self._event_log)
        if log:
            parts["event-log"] = log
        chain, crl = self._endorsements.certificates, self._endorsements.crl
        return Evidence(EvidenceFormat.AZURE_VTPM, report, chain, crl, tuple(sorted(parts.items())))

    def _fresh_report(self, user_data: bytes) -> bytes:
        """The report that carries ``user_data``. Until the paravisor has made it, the old one is still there."""
        if self._client.nv_index(USER_DATA_INDEX) is None:
            self._client.nv_define(USER_DATA_INDEX, _USER_DATA_BYTES)
        self._client.nv_write(USER_DATA_INDEX, user_data)
        deadline = self._clock.now_s() + _TIMEOUT_S
        while True:
            report = self._client.nv_read(REPORT_INDEX)
            try:
                if hcl.parse(report).user_data == user_data:
                    return report
            except ProtocolError as error:
                raise TeeError(Reason.TEE_REPORT, f"vTPM report: {error.detail}") from None
            if self._clock.now_s() >= deadline:
                raise TeeError(Reason.TEE_REPORT, f"vTPM report: not over the new user data after {_TIMEOUT_S:.0f} s")
            self._clock.pause(_PAUSE_S)
