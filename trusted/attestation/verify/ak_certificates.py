"""Does this chain of certificates vouch for an attestation key. Trust zone: every TEE.

TPM makers' certificates have critical alternative names, uses of the TCG's own and no end (9999), which a verifier of
web certificates refuses; so the chain is walked here (tee.md section 1). The root is pinned by the charter, by digest.
An endorsement key (EK) is no substitute: its certificate says nothing about an AK, and tying the two needs the TPM's
answer to a challenge (credential activation), which evidence cannot carry.
Source: TCG EK Credential Profile 2.5; TCG AIK certificate profile; RFC 5280.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from trusted.attestation.roots import TrustRoot
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

_AIK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_SIGNATURES = {
    x509.SignatureAlgorithmOID.RSA_WITH_SHA256,
    x509.SignatureAlgorithmOID.RSA_WITH_SHA384,
    x509.SignatureAlgorithmOID.RSA_WITH_SHA512,
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA512,
}
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # says which TPM; whoever needs that pins the key
    ExtensionOID.CERTIFICATE_POLICIES,
}
_LEAST_RSA_BITS = 2048
_NOT_WELL_FORMED = (
    ValueError,
    TypeError,
    NotImplementedError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def vouched_key(
    chain: Sequence[bytes], roots: Sequence[TrustRoot], now: datetime
) -> tuple[rsa.RSAPublicKey | ec.EllipticCurvePublicKey, TrustRoot, datetime]:
    """The AK that ``chain`` (DER, leaf first, its root last) vouches for at ``now``, the root, and the first end.

    Raises:
        AttestationError: TRUST_ANCHOR, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID, KEY_BINDING.
    """
    digest = sha256(chain[-1])
    root = next((root for root in roots if root.sha256 == digest), None)
    if root is None:
        raise AttestationError(Reason.TRUST_ANCHOR, "AK chain: its last certificate is none of the trusted roots")
    if len(chain) < 2:
        raise AttestationError(Reason.CHAIN, "AK chain: a certificate below the root expected")
    try:
        return _walk([x509.load_der_x509_certificate(der) for der in chain], root, now)
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, "AK chain: X.509 certificates in DER expected") from None


def _walk(
    certificates: list[x509.Certificate], root: TrustRoot, now: datetime
) -> tuple[rsa.RSAPublicKey | ec.EllipticCurvePublicKey, TrustRoot, datetime]:
    for place, certificate in enumerate(certificates):
        _require_valid_at(certificate, now)
        _require_understood(certificate)
        if place:
            _require_authority(certificate, below=place - 1)
            _require_issued_by(certificates[place - 1], certificate)
    end = min(certificate.not_valid_after_utc for certificate in certificates)
    return _leaf_key(certificates[0]), root, end


def _require_valid_at(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "AK chain: a certificate is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise AttestationError(Reason.CERT_EXPIRED, "AK chain: a certificate is no longer valid")


def _require_understood(certificate: x509.Certificate) -> None:
    """What is marked critical must be understood (RFC 5280, 4.2)."""
    if certificate.version is not x509.Version.v3:
        raise AttestationError(Reason.CHAIN, "AK chain: X.509 version 3 expected")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise AttestationError(Reason.CHAIN, "AK chain: a critical extension that is not understood")


def _require_authority(certificate: x509.Certificate, *, below: int) -> None:
    """A CA that may have ``below`` further CAs under it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise AttestationError(Reason.CHAIN, "AK chain: basic constraints and key usage of an authority") from None
    length = constraints.path_length
    if not constraints.ca or not usage.key_cert_sign or (length is not None and length < below):
        raise AttestationError(Reason.CHAIN, "AK chain: an authority for its place in the chain expected")


def _require_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    if certificate.signature_algorithm_oid not in _SIGNATURES:
        raise AttestationError(Reason.CHAIN, "AK chain: RSA (PKCS #1 v1.5) or ECDSA with SHA-2 expected")
    key = issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise AttestationError(Reason.CHAIN, f"AK chain: RSA keys of at least {_LEAST_RSA_BITS} bits expected")
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        raise AttestationError(Reason.CHAIN, "AK chain: a certificate is not signed by the next one") from None


def _leaf_key(leaf: x509.Certificate) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key of a certificate that was issued for an AK, and for nothing that issues certificates itself."""
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        uses = x509.ExtendedKeyUsage([])
    if _AIK_CERTIFICATE not in uses:
        raise AttestationError(
            Reason.KEY_BINDING,
            "AK certificate: the use 2.23.133.8.3 (attestation key) expected; an endorsement key vouches for no quote",
        )
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise AttestationError(Reason.KEY_BINDING, "AK certificate: no authority expected")
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
            raise AttestationError(Reason.KEY_BINDING, "AK certificate: a key that signs expected")
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise AttestationError(Reason.KEY_BINDING, "AK certificate: an RSA or elliptic curve key expected")
    return key
