"""Chains of NVIDIA's two hierarchies: every key on P-384, every signature ECDSA with SHA-384. Trust zone: every TEE.

``verify_path`` is ``cryptography``'s path validation for the devices' chains. The signers of reference manifests
date their certificates in a form that RFC 5280 does not allow before 2050 (GeneralizedTime), so ``walk`` takes
theirs link by link. Neither takes a scheme from a certificate. Source: RFC 5280; attestation.md 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from trusted.errors import AttestationError, Reason

_CA_POLICY = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_LEAF_POLICY = ExtensionPolicy.permit_all()
_CURVE = ec.SECP384R1
# What cryptography raises for bytes that are not what they should be; some of it only when a field is read.
NOT_WELL_FORMED = (
    ValueError,
    TypeError,
    NotImplementedError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def read(der: bytes, role: str) -> x509.Certificate:
    """The certificate in ``der``, a version 3 one with a P-384 key, signed with ECDSA and SHA-384. Nothing is verified.

    Raises:
        AttestationError: CHAIN.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        well_formed = certificate.version is x509.Version.v3 and certificate.public_bytes(Encoding.DER) == der
        scheme = certificate.signature_algorithm_oid
        certificate.extensions  # noqa: B018 - reads them all, so that a broken one is refused here
    except NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, f"{role}: an X.509 certificate in DER expected") from None
    if not well_formed or scheme != x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise AttestationError(Reason.CHAIN, f"{role}: a version 3 certificate, ECDSA with SHA-384, expected")
    key_of(key, role)
    return certificate


def key_of(key: object, role: str) -> ec.EllipticCurvePublicKey:
    """``key`` if it is on P-384.

    Raises:
        AttestationError: CHAIN.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVE):
        raise AttestationError(Reason.CHAIN, f"{role}: a P-384 key expected")
    return key


def spki(certificate: x509.Certificate) -> bytes:
    """DER of the certificate's public key."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def require_dates(chain: Sequence[x509.Certificate], role: str, now: datetime) -> datetime:
    """When the first of ``chain`` runs out; all are valid at ``now``.

    Raises:
        AttestationError: CERT_NOT_YET_VALID, CERT_EXPIRED.
    """
    for certificate in chain:
        if now < certificate.not_valid_before_utc:
            raise AttestationError(Reason.CERT_NOT_YET_VALID, f"{role}: a certificate that is not valid yet")
        if now > certificate.not_valid_after_utc:
            raise AttestationError(Reason.CERT_EXPIRED, f"{role}: a certificate that is no longer valid")
    return min(certificate.not_valid_after_utc for certificate in chain)


def verify_path(chain: Sequence[x509.Certificate], role: str) -> None:
    """``chain``, leaf first and its trusted root last, holds in exactly this order while all of it is valid.

    It says nothing about now: that is for ``require_dates``, so that what needs no clock can be remembered.

    Raises:
        AttestationError: CHAIN.
    """
    together = max(certificate.not_valid_before_utc for certificate in chain)
    policy = PolicyBuilder().store(Store([chain[-1]])).time(together.replace(tzinfo=None))
    policy = policy.max_chain_depth(len(chain)).extension_policies(ee_policy=_LEAF_POLICY, ca_policy=_CA_POLICY)
    try:
        found = policy.build_client_verifier().verify(chain[0], list(chain[1:-1])).chain
        chain[-1].verify_directly_issued_by(chain[-1])
    except (VerificationError, InvalidSignature, *NOT_WELL_FORMED):
        raise AttestationError(Reason.CHAIN, f"{role}: does not lead to the trusted root") from None
    if found != list(chain):
        raise AttestationError(Reason.CHAIN, f"{role}: each certificate issued by the next expected")


def walk(chain: Sequence[x509.Certificate], role: str) -> None:
    """What ``verify_path`` promises, for chains whose dates it cannot read.

    Raises:
        AttestationError: CHAIN.
    """
    issuers = [*chain[1:], chain[-1]]
    for depth, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True)):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, *NOT_WELL_FORMED):
            raise AttestationError(Reason.CHAIN, f"{role}: each certificate issued by the next expected") from None
        if depth:
            _require_authority(certificate, role, below=depth - 1)
        else:
            _require_signer(certificate, role)


def _require_authority(certificate: x509.Certificate, role: str, *, below: int) -> None:
    """May issue certificates, with ``below`` intermediates under it; nothing critical is left unread."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise AttestationError(Reason.CHAIN, f"{role}: basic constraints and key usage expected") from None
    deep_enough = constraints.path_length is None or constraints.path_length >= below
    if not (constraints.ca and deep_enough and usage.key_cert_sign):
        raise AttestationError(Reason.CHAIN, f"{role}: authorities of their place in the chain expected")
    _require_read(certificate, role)


def _require_signer(certificate: x509.Certificate, role: str) -> None:
    """Signs, and issues nothing."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise AttestationError(Reason.CHAIN, f"{role}: key usage expected") from None
    if not usage.digital_signature or usage.key_cert_sign:
        raise AttestationError(Reason.CHAIN, f"{role}: a certificate for signatures alone expected")
    _require_read(certificate, role)


def _require_read(certificate: x509.Certificate, role: str) -> None:
    """Critical extensions are the two that are looked at (RFC 5280, 4.2)."""
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage):
            raise AttestationError(Reason.CHAIN, f"{role}: an unknown critical extension")
