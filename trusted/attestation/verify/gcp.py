"""Does this token of Confidential Space hold, under keys that the charter pins. Trust zone: every TEE.

The key set travels with the evidence as the part ``jwks``; its exact bytes are the root. Google changes its keys from
time to time, and members then sign a charter with the new set: nobody fetches keys at the moment of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.gcp_token import UnverifiedToken, parse, parse_claims, parse_jwks
from trusted.attestation.gcp_claims import GcpClaims
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

JWKS_PART = "jwks"
ISSUER = "https://confidentialcomputing.googleapis.com"
_EXPONENT = 65537


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` (``report``: the token, ASCII) under one of ``roots``.

    1. The token is well formed, in the one algorithm RS256.
    2. The key set is one of ``roots``, and the key that the token names is in it.
    3. That key signed the token; only now are its claims read.
    4. Google's attestation service issued it, and ``now`` lies in its validity.

    Raises:
        AttestationError: EVIDENCE_FORMAT, TRUST_ANCHOR, KEY_BINDING, EVIDENCE_SIGNATURE, CERT_NOT_YET_VALID,
            CERT_EXPIRED.
    """
    token = parse(evidence.report)  # 1
    jwks = evidence.part(JWKS_PART)
    digest = sha256(jwks)
    root = next((root for root in roots if root.sha256 == digest), None)  # 2
    if root is None:
        raise AttestationError(Reason.TRUST_ANCHOR, "jwks: none of the trusted key sets")
    _require_signature(token, jwks)  # 3
    claims = parse_claims(token.payload)
    if claims.issuer != ISSUER:  # 4
        raise AttestationError(Reason.TRUST_ANCHOR, f"token.iss: {ISSUER} expected")
    if now < max(claims.issued, claims.not_before):
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "token.nbf: not valid yet; check the clock")
    if now >= claims.expires:
        raise AttestationError(Reason.CERT_EXPIRED, "token.exp: no longer valid; ask the launcher for a new token")
    return VerifiedEvidence(GcpClaims(evidence.format, claims), root, claims.expires, evidence.digest)


def _require_signature(token: UnverifiedToken, jwks: bytes) -> None:
    key = parse_jwks(jwks).get(token.kid)
    if key is None:
        raise AttestationError(Reason.KEY_BINDING, "token.kid: a key of the trusted set expected")
    try:
        public = rsa.RSAPublicNumbers(_EXPONENT, key.modulus).public_key()
        public.verify(token.signature, token.signed, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "token: not signed by the key that it names") from None
