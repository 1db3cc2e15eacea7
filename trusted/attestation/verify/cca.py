"""Does this Arm CCA token hold: the platform's signature, the realm's, and what ties them. Trust zone: every TEE.

A platform is trusted by its own key (CPAK), which its maker vouches for: CCA has no root certificate. The part ``cpak``
is that key as DER SubjectPublicKeyInfo, and a trust root's ``sha256`` is the SHA-256 of that very part.
Source: Arm DEN0137, A7.2; draft-ffm-rats-cca-token-00; attestation.md 6.3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from trusted.attestation.cca_claims import PRODUCT, CcaClaims, CcaPlatform
from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.cca import UnverifiedCcaToken, UnverifiedPlatformToken, parse
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.cose import require_signature
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

CPAK_PART = "cpak"
_HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}
# Neither the token nor its keys have an end (RFC 5280, 4.1.2.5: the date for "no well-defined expiration").
_NO_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` under one of ``roots``, cheapest check first; no date matters to it.

    1. The token is well formed, and beside it stands the platform's key and nothing else.
    2. That key is one of ``roots``.
    3. The platform's challenge is the hash of the realm's key. Without this anybody can write a realm token.
    4. The platform token is signed by the platform's key.
    5. The realm token is signed by the realm's key.

    Raises:
        AttestationError: EVIDENCE_FORMAT, REPORT_VERSION, TRUST_ANCHOR, KEY_BINDING, EVIDENCE_SIGNATURE.
    """
    token = parse(evidence.report)  # 1
    if evidence.certificates or evidence.crl or [name for name, _ in evidence.parts] != [CPAK_PART]:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"evidence: the part {CPAK_PART} and no other expected")
    spki = evidence.part(CPAK_PART)
    root = _trusted_root(spki, roots)  # 2
    platform_key = _platform_key(spki)
    _require_bound(token)  # 3
    require_signature(token.platform.envelope, platform_key, "token.platform")  # 4
    require_signature(token.realm.envelope, _realm_key(token.realm.point), "token.realm")  # 5
    claims = CcaClaims(
        report_data=token.realm.challenge,
        personalization=token.realm.personalization,
        measurement=token.realm.initial_measurement,
        extensible_measurements=token.realm.extensible_measurements,
        hash_algorithm=token.realm.hash_algorithm,
        platform=_platform(token.platform),
    )
    return VerifiedEvidence(claims, root, _NO_END, evidence.digest)


def _trusted_root(spki: bytes, roots: Sequence[TrustRoot]) -> TrustRoot:
    digest = sha256(spki)
    for root in roots:
        if root.sha256 == digest and root.product == PRODUCT:
            return root
    raise AttestationError(Reason.TRUST_ANCHOR, "cpak: none of the trusted roots")


def _platform_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "cpak: a SubjectPublicKeyInfo in DER expected") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "cpak: a P-384 key expected")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "cpak: its usual DER, with the uncompressed point, expected")
    return key


def _require_bound(token: UnverifiedCcaToken) -> None:
    """The hash is the one that the realm token names, as DEN0137 has it; all of those it may name are strong."""
    digest = _HASHES[token.realm.public_key_hash_algorithm](token.realm.public_key).digest()
    if not hmac.compare_digest(digest, token.platform.challenge):
        raise AttestationError(Reason.KEY_BINDING, "token.platform.challenge: the hash of the realm's key expected")


def _realm_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError:
        raise AttestationError(Reason.KEY_BINDING, "token.realm.public_key: a point of P-384 expected") from None


def _platform(token: UnverifiedPlatformToken) -> CcaPlatform:
    return CcaPlatform(
        profile=token.profile,
        implementation_id=token.implementation_id,
        instance_id=token.instance_id,
        config=token.config,
        lifecycle=(token.lifecycle_state, token.lifecycle),
        hash_algorithm=token.hash_algorithm,
        components=token.components,
    )
