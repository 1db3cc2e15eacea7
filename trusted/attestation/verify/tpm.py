"""Does this TPM 2.0 evidence hold: who vouches for the key, what kind of key, and its quote. Trust zone: every TEE.

A bare attestation key (AK) proves nothing: a program can make one (attestation.md 6.5). It is vouched for either by a
certificate chain to a root of the charter, or by the charter itself, which then names the key as the root: members do
so after they have seen the TPM answer a challenge to its endorsement key.
Source: TCG TPM 2.0 Library 1.59; tee.md section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.tpm import Scheme, UnverifiedPublic, parse_public
from trusted.attestation.roots import TrustRoot
from trusted.attestation.tpm_claims import TpmClaims
from trusted.attestation.verify.ak_certificates import vouched_key
from trusted.attestation.verify.quote import AttestationKey, verify_quote
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

AK_PART = "ak"
_REQUIRED = frozenset({"fixed_tpm", "fixed_parent", "sensitive_data_origin", "restricted", "sign"})
_REFUSED = frozenset({"decrypt", "x509_sign", "encrypted_duplication"})
_NO_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_CURVES: dict[Scheme, ec.EllipticCurve] = {
    Scheme.ECDSA_P256_SHA256: ec.SECP256R1(),
    Scheme.ECDSA_P384_SHA384: ec.SECP384R1(),
}


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` (``report``: the quote) under one of ``roots``.

    1. The public area in the part ``ak`` is well formed: a key that the TPM made, that never leaves it, and that signs
       nothing of a caller's that could pass for the TPM's own words.
    2. A chain to one of ``roots`` vouches for this very key, or the key itself is one of ``roots``.
    3. The quote holds under it.

    Raises:
        AttestationError: TRUST_ANCHOR, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID, KEY_BINDING, or what
            ``verify_quote`` raises.
    """
    public = parse_public(evidence.part(AK_PART))  # 1
    if not public.attributes >= _REQUIRED or public.attributes & _REFUSED:
        raise AttestationError(Reason.KEY_BINDING, "ak.objectAttributes: a restricted signing key of the TPM expected")
    key = public_key(public)
    digest = key_sha256(key)
    root, not_after = _vouched(evidence.certificates, digest, roots, now)  # 2
    quote = verify_quote(evidence.report, AttestationKey(key, public.scheme), evidence)  # 3
    claims = TpmClaims(evidence.format, quote, digest, root.product)
    return VerifiedEvidence(claims, root, not_after, evidence.digest)


def key_sha256(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo: how charters name an attestation key."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _vouched(
    chain: tuple[bytes, ...], digest: bytes, roots: Sequence[TrustRoot], now: datetime
) -> tuple[TrustRoot, datetime]:
    if not chain:
        root = next((root for root in roots if root.sha256 == digest), None)
        if root is None:
            raise AttestationError(
                Reason.TRUST_ANCHOR,
                "ak: nobody vouches for this key: no certificate came along, and no trusted root is this key",
            )
        return root, _NO_END
    certified, root, not_after = vouched_key(chain, roots, now)
    if key_sha256(certified) != digest:
        raise AttestationError(Reason.KEY_BINDING, "ak: the key in its certificate expected")
    return root, not_after


def public_key(public: UnverifiedPublic) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key that a public area describes.

    Raises:
        AttestationError: KEY_BINDING, no such key can be.
    """
    try:
        if public.scheme in _CURVES:
            return ec.EllipticCurvePublicNumbers(public.x, public.y, _CURVES[public.scheme]).public_key()
        return rsa.RSAPublicNumbers(65537, public.modulus).public_key()
    except ValueError:
        raise AttestationError(Reason.KEY_BINDING, "ak.unique: a public key of its kind expected") from None
