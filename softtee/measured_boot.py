"""The software TEE measures what it starts into its TPM, before it starts it. Trust zone: the platform.

One event goes into PCR 11, where a unified kernel image is measured on real machines: the canonical JSON of the six
digests. Its SHA-384 is the very measurement that the chip's report carries, so the TPM's quote and the report speak of
the same enclave. The other bank is extended too: a bank that nobody extends could be filled by the enclave itself.
"""

from __future__ import annotations

from softtee.measure import Parts
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.evidence.tpm_client import TpmClient

PCR = 11
BANK = Bank.SHA384
_EV_NO_ACTION, _EV_IPL = 3, 13
_SPEC_ID = b"Spec ID Event03\x00"
_VERSION = bytes([0, 2, 0, 2])  # minor, major, errata; numbers of 64 bits


def measure_into(tpm: TpmClient, parts: Parts) -> None:
    """Extend PCR 11 of every bank with the event of ``parts``: nothing takes it back before the TPM's next start.

    Raises:
        TeeError: the TPM refuses.
    """
    for bank in Bank:
        tpm.extend_pcr(PCR, bank, bank.digest(parts.encode()))


def event_log(parts: Parts) -> bytes:
    """The TCG 2.0 log of that one event (PC Client Platform Firmware Profile 1.06, section 10)."""
    banks = b"".join(_le(bank.value, 2) + _le(bank.size_bytes, 2) for bank in Bank)
    header = _SPEC_ID + _le(0) + _VERSION + _le(len(Bank)) + banks + b"\x00"
    event = parts.encode()
    digests = b"".join(_le(bank.value, 2) + bank.digest(event) for bank in Bank)
    first = _le(0) + _le(_EV_NO_ACTION) + bytes(20) + _le(len(header)) + header
    return first + _le(PCR) + _le(_EV_IPL) + _le(len(Bank)) + digests + _le(len(event)) + event


def quoted_digest(measurement: bytes) -> bytes:
    """What a quote of PCR 11, bank SHA-384, sums up (SHA-256, 32 bytes) after ``measurement`` (48) was started."""
    return Bank.SHA256.digest(BANK.digest(bytes(BANK.size_bytes) + measurement))


def _le(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "little")
