"""Does this TPM quote hold under this attestation key, and do these PCR values belong to it. Trust zone: every TEE.

Shared by ``tpm`` and ``azure-vtpm``, which differ in how the key is vouched for: that is not asked here.
Source: TCG TPM 2.0 Library 1.59, part 1, section 18 (attestation); attestation.md 6.1, items 3 and 4.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted.attestation.evidence import Evidence
from trusted.attestation.formats import tcg_event_log
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import (
    Scheme,
    UnverifiedQuote,
    UnverifiedSignature,
    parse_quote,
    parse_signature,
)
from trusted.attestation.tpm_claims import Pcr, QuoteClaims
from trusted.errors import AttestationError, Reason

SIGNATURE_PART = "signature"
PCRS_PART = "pcrs"
EVENT_LOG_PART = "event-log"

_HASHES = {Bank.SHA256: hashes.SHA256(), Bank.SHA384: hashes.SHA384()}


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that some root vouches for, and its one scheme."""

    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    scheme: Scheme


def verify_quote(quote: bytes, ak: AttestationKey, evidence: Evidence) -> QuoteClaims:
    """The claims of ``quote``, with signature, PCR values and event log from the parts of ``evidence``.

    1. Quote and signature are well formed, and of the key's own scheme.
    2. The key signed the quote.
    3. The values that came along, in the order of the selection, are those that the quote sums up.
    4. The event log, where one came along, is well formed; which registers it explains becomes a claim.

    Raises:
        AttestationError: EVIDENCE_FORMAT, EVIDENCE_SIGNATURE, RUNTIME_MEASUREMENT.
    """
    parsed = parse_quote(quote)  # 1
    _require_signature(quote, parse_signature(evidence.part(SIGNATURE_PART)), ak)  # 2
    pcrs = _pcrs(parsed, evidence.part(PCRS_PART), ak.scheme.hash)  # 3
    return QuoteClaims(
        extra_data=parsed.extra_data,
        pcr_digest=parsed.pcr_digest,
        selections=parsed.selections,
        pcrs=pcrs,
        replayed=_replayed(pcrs, evidence.part(EVENT_LOG_PART)),  # 4
        scheme=ak.scheme,
        firmware_version=parsed.firmware_version,
        reset_count=parsed.reset_count,
        restart_count=parsed.restart_count,
        clock_ms=parsed.clock_ms,
        clock_safe=parsed.clock_safe,
    )


def _require_signature(quote: bytes, signature: UnverifiedSignature, ak: AttestationKey) -> None:
    if not signature.is_of(ak.scheme):
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "signature: the attestation key's own scheme expected")
    digest = _HASHES[ak.scheme.hash]
    try:
        if isinstance(ak.key, rsa.RSAPublicKey):
            ak.key.verify(signature.rsa, quote, padding.PKCS1v15(), digest)
        else:
            ak.key.verify(encode_dss_signature(signature.r, signature.s), quote, ec.ECDSA(digest))
    except InvalidSignature:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "quote: not signed by the attestation key") from None


def _pcrs(quote: UnverifiedQuote, values: bytes, hash_: Bank) -> tuple[Pcr, ...]:
    """The values are nothing but the selected registers, so none can be taken for another (6.1, item 3)."""
    if len(values) != quote.values_bytes:
        raise AttestationError(
            Reason.RUNTIME_MEASUREMENT, "pcrs: the value of each selected register, and no more, expected"
        )
    if not hmac.compare_digest(hash_.digest(values), quote.pcr_digest):
        raise AttestationError(Reason.RUNTIME_MEASUREMENT, "pcrs: the values that the quote sums up expected")
    pcrs: list[Pcr] = []
    position = 0
    for selection in quote.selections:
        size = selection.bank.size_bytes
        for index in selection.indexes:
            pcrs.append(Pcr(selection.bank, index, values[position : position + size]))
            position += size
    return tuple(pcrs)


def _replayed(pcrs: tuple[Pcr, ...], log: bytes) -> frozenset[int]:
    """The registers that ``log`` explains in every bank that was quoted. What it says of others is not believed."""
    if not log:
        return frozenset()
    events = tcg_event_log.parse(log)
    replays = {bank: events.replay(bank) for bank in {pcr.bank for pcr in pcrs}}
    differing = {pcr.index for pcr in pcrs if replays[pcr.bank].get(pcr.index) != pcr.value}
    return frozenset(pcr.index for pcr in pcrs) - differing
