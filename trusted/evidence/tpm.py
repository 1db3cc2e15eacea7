"""Evidence from a TPM 2.0: a fresh quote, the values it sums up, and the log that explains them. Trust zone: every TEE.

The attestation key is made anew at each start and is the same each time. Who vouches for it is not this machine's to
say: a certificate chain that its operator hands over, or the members, who name the key in their charter.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import MAX_PART_BYTES, Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import parse_public, parse_quote
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.evidence.tpm_client import TpmClient, TpmKey, TpmQuote
from trusted.evidence.tpm_transport import DEVICE, DeviceTransport
from trusted.wire import exactly

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class PcrChoice:
    """Which PCRs are quoted: those of the charter's policy."""

    bank: Bank
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QuotedPcrs:
    """A quote, and the values that it sums up, one after the other."""

    quote: TpmQuote
    values: bytes


def detect(choice: PcrChoice, *, certificates: Sequence[bytes] = (), device: Path = DEVICE) -> TpmEvidence:
    """The evidence source of this machine's TPM.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what to do. There is no other answer, and no stand-in.
    """
    client = TpmClient(DeviceTransport(device))
    return TpmEvidence(client, choice, certificates=certificates, event_log=EVENT_LOG if EVENT_LOG.exists() else None)


class TpmEvidence:
    """Quotes of one TPM. Thread-safe."""

    def __init__(
        self,
        client: TpmClient,
        choice: PcrChoice,
        *,
        ak: TpmKey | None = None,
        certificates: Sequence[bytes] = (),
        event_log: Path | None = None,
    ) -> None:
        """Evidence over ``choice`` through ``client``.

        Args:
            client: the TPM; nobody else may use its transport.
            choice: the PCRs.
            ak: the key that signs; by default the endorsement hierarchy's own, made now.
            certificates: DER, the key's first, its root last; none where the charter names the key.
            event_log: where the firmware's log is, read anew each time; None where there is none.
        """
        self._client = client
        self._choice = choice
        self._certificates = tuple(certificates)
        self._event_log = event_log
        self._one_at_a_time = threading.Lock()
        self._ak = ak or client.create_ak()

    @property
    def ak(self) -> TpmKey:
        """The key that signs: what members vouch for."""
        return self._ak

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh quote that carries the short nonce of ``report_data``, exactly 64 bytes.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_REPORT, the TPM refuses, PCRs change all the time, or the log is too large.
        """
        exactly(report_data, 64, "report_data")
        with self._one_at_a_time:
            quoted = quote_pcrs(self._client, self._ak, short_nonce(report_data), self._choice)
        parts = {"ak": self._ak.public, "pcrs": quoted.values, "signature": quoted.quote.signature}
        log = read_event_log(self._event_log)
        if log:
            parts["event-log"] = log
        return Evidence(EvidenceFormat.TPM, quoted.quote.attest, self._certificates, b"", tuple(sorted(parts.items())))


def quote_pcrs(client: TpmClient, ak: TpmKey, nonce: bytes, choice: PcrChoice) -> QuotedPcrs:
    """A quote with the values that it sums up; taken again if something was measured in between.

    Raises:
        TeeError: TEE_REPORT.
    """
    for _ in range(_ATTEMPTS):
        quote = client.quote(ak.handle, nonce, choice.bank, choice.indexes)
        values = b"".join(client.read_pcrs(choice.bank, choice.indexes))
        try:
            digest = parse_public(ak.public).scheme.hash.digest(values)
            if parse_quote(quote.attest).pcr_digest == digest:
                return QuotedPcrs(quote, values)
        except ProtocolError as error:
            raise TeeError(Reason.TEE_REPORT, f"TPM2_Quote: {error.detail}") from None
    raise TeeError(Reason.TEE_REPORT, f"TPM: the PCRs changed during each of {_ATTEMPTS} quotes")


def read_event_log(path: Path | None) -> bytes:
    """The firmware's log; empty where there is none.

    Raises:
        TeeError: TEE_REPORT, it is there and cannot be read, or is larger than evidence may carry.
    """
    if path is None:
        return b""
    try:
        with open(path, "rb") as file:
            log = file.read(MAX_PART_BYTES + 1)
    except OSError as error:
        raise TeeError(Reason.TEE_REPORT, f"event log: {error.strerror}; it is readable by root alone") from None
    if len(log) > MAX_PART_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"event log: at most {MAX_PART_BYTES} bytes can be sent")
    return log
