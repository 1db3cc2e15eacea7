"""OCSP responses that travel with evidence: has the vendor taken a certificate back? Trust zone: every TEE.

Nobody is asked: the sender brings the responses, so what counts is who signed them and when. ``certificateHold`` is
a revocation like any other. Source: RFC 6960, 3.2 and 4.2.2.2. NVIDIA publishes no list for its devices' own
certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from trusted.attestation.claims import CrlStatus
from trusted.attestation.gpu_claims import OcspClaim
from trusted.attestation.verify import p384_chain
from trusted.errors import AttestationError, Reason

MAX_RESPONSE_BYTES = 16 << 10
MAX_RESPONSES = 8
# A response newer than the clock means that the host set our clock back (attestation.md 6.4).
_CLOCK_TOLERANCE = timedelta(hours=24)


def split(part: bytes) -> tuple[bytes, ...]:
    """The responses in the evidence's part ``ocsp``: DER, each after its length as four big-endian bytes.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    responses: list[bytes] = []
    position = 0
    while position < len(part):
        start = position + 4
        end = start + int.from_bytes(part[position:start], "big")
        if end > len(part) or end - start > MAX_RESPONSE_BYTES or len(responses) == MAX_RESPONSES:
            raise AttestationError(Reason.EVIDENCE_FORMAT, f"ocsp: at most {MAX_RESPONSES} whole responses expected")
        responses.append(part[start:end])
        position = end
    return tuple(responses)


def check(chain: Sequence[x509.Certificate], responses: Sequence[bytes], now: datetime) -> OcspClaim:
    """What ``responses`` say of ``chain`` at ``now``. The leaf, which the device issued, and the root need none.

    Raises:
        AttestationError: REVOKED; CHAIN, EVIDENCE_SIGNATURE, CERT_EXPIRED, CERT_NOT_YET_VALID, EVIDENCE_FORMAT: a
            response that is not what it must be.
    """
    pairs = list(pairwise(chain[1:]))
    answered: dict[int, ocsp.OCSPResponse] = {}
    for der in responses:
        response = _read(der)
        place = next((place for place, pair in enumerate(pairs) if _is_about(response, *pair)), None)
        if place is None or place in answered:
            raise AttestationError(Reason.CHAIN, "ocsp: one response for each certificate of the chain expected")
        _require_signed(response, pairs[place][1], now)
        _require_not_revoked(response, now)
        answered[place] = response
    if not answered:
        return OcspClaim(CrlStatus.ABSENT)
    this_update = min(response.this_update_utc for response in answered.values())
    next_update = min(_next_update(response) for response in answered.values())
    complete = len(answered) == len(pairs)
    status = CrlStatus.GOOD if complete and now <= next_update else CrlStatus.STALE if complete else CrlStatus.ABSENT
    return OcspClaim(status, this_update, next_update)


def _read(der: bytes) -> ocsp.OCSPResponse:
    """A successful response about one certificate, by ECDSA with SHA-384."""
    try:
        response = ocsp.load_der_ocsp_response(der)
        single = response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL and len(list(response.responses)) == 1
        critical = (
            any(item.critical for item in (*response.extensions, *response.single_extensions)) if single else True
        )
        scheme = response.signature_algorithm_oid if single else None
        exact = response.public_bytes(Encoding.DER) == der
    except p384_chain.NOT_WELL_FORMED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "ocsp: a response in DER expected") from None
    if not single or critical or not exact:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "ocsp: a successful response about one certificate expected")
    if scheme != x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "ocsp: ECDSA with SHA-384 expected")
    return response


def _is_about(response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Serial number, and the hashes of the issuer's name and key (RFC 6960, 4.1.1)."""
    if response.serial_number != certificate.serial_number:
        return False
    algorithm = response.hash_algorithm
    key = issuer.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return response.issuer_name_hash == _hash(algorithm, issuer.subject.public_bytes()) and (
        response.issuer_key_hash == _hash(algorithm, key)
    )


def _hash(algorithm: hashes.HashAlgorithm, content: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(content)
    return digest.finalize()


def _require_signed(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> None:
    """By the certificate's issuer, or by whom the issuer delegated it to (RFC 6960, 4.2.2.2)."""
    signer = issuer
    if response.certificates:
        if len(response.certificates) != 1:
            raise AttestationError(Reason.CHAIN, "ocsp: at most one certificate in a response expected")
        signer = _delegate(response.certificates[0], issuer, now)
    key = p384_chain.key_of(signer.public_key(), "ocsp")
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "ocsp: not signed by its responder") from None


def _delegate(claimed: x509.Certificate, issuer: x509.Certificate, now: datetime) -> x509.Certificate:
    responder = p384_chain.read(claimed.public_bytes(Encoding.DER), "ocsp responder")
    if p384_chain.spki(responder) == p384_chain.spki(issuer):
        return issuer
    p384_chain.require_dates([responder], "ocsp responder", now)
    try:
        responder.verify_directly_issued_by(issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, x509.ExtensionNotFound, *p384_chain.NOT_WELL_FORMED):
        raise AttestationError(Reason.CHAIN, "ocsp responder: named by the certificate's issuer expected") from None
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        raise AttestationError(Reason.CHAIN, "ocsp responder: named by the certificate's issuer expected")
    return responder


def _require_not_revoked(response: ocsp.OCSPResponse, now: datetime) -> None:
    """Revoked, on hold and unknown are refused, however old the answer."""
    if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise AttestationError(Reason.REVOKED, "ocsp: the vendor took a certificate of this device back, or holds it")
    if response.this_update_utc > now + _CLOCK_TOLERANCE:
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "ocsp: issued more than a day after now; check the clock")
    _next_update(response)


def _next_update(response: ocsp.OCSPResponse) -> datetime:
    if response.next_update_utc is None:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "ocsp: a date for the next response expected")
    return response.next_update_utc
