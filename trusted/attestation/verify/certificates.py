"""Certificates and revocation lists read once into plain values, and one signature scheme. Trust zone: every TEE.

AMD signs with RSASSA-PSS, SHA-384 and a salt of 48 bytes. The scheme is fixed here and never taken from a certificate,
so no field in one can choose a weaker check (attestation.md 6.1). Source: AMD 57230, RFC 5280, RFC 4055.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.utils import CryptographyDeprecationWarning

from trusted.attestation.claims import CrlClaim, CrlStatus
from trusted.errors import AttestationError, Reason

_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
_CA_KEY_BITS = 4096
# A list newer than the clock means that the host set our clock back (attestation.md 6.4).
_CRL_CLOCK_TOLERANCE = timedelta(hours=24)
# What cryptography raises for bytes that are not the certificate they should be; some of it only when a field is read.
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

Name = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: its critical bit and the DER inside it."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose signature nobody has checked yet.

    Attributes:
        role: how errors name it (``CEK``, ``ASK``, ``ARK``).
        subject, issuer: (dotted OID, text) sorted, one for each attribute.
        parsed: for the extensions of RFC 5280, which ``cryptography`` reads.
        extensions: all of them by dotted OID.
    """

    role: str
    subject: Name
    issuer: Name
    serial: int
    not_before: datetime
    not_after: datetime
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    extensions: Mapping[str, Extension]
    parsed: x509.Extensions
    tbs: bytes
    signature: bytes


def read_certificate(der: bytes, role: str) -> Certificate:
    """The fields of the X.509 version 3 certificate in ``der``; its sender may be lying.

    Raises:
        AttestationError: CHAIN, not such a certificate, or not signed with the one scheme.
    """
    try:
        with warnings.catch_warnings():
            # AMD's VCEKs have the serial number 0, and cryptography warns about each of them. The filter is not
            # thread-safe; the worst that a race can do is to show or to swallow one more warning.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
            _require_one_spelling(
                der, tbs=certificate.tbs_certificate_bytes, signature=certificate.signature, role=role
            )
            return _read(certificate, role)
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, f"{role}: an X.509 certificate in DER expected") from None


def _read(certificate: x509.Certificate, role: str) -> Certificate:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise AttestationError(Reason.CHAIN, f"{role}: an RSA or elliptic curve key expected")
    if certificate.version is not x509.Version.v3:
        raise AttestationError(Reason.CHAIN, f"{role}: X.509 version 3 expected")
    _require_scheme(certificate.signature_algorithm_oid, certificate.signature_hash_algorithm, role)
    parsed = certificate.extensions
    extensions = {item.oid.dotted_string: Extension(item.critical, item.value.public_bytes()) for item in parsed}
    return Certificate(
        role=role,
        subject=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key=key,
        extensions=MappingProxyType(extensions),
        parsed=parsed,
        tbs=certificate.tbs_certificate_bytes,
        signature=certificate.signature,
    )


def _name(name: x509.Name) -> Name:
    return tuple(sorted((item.oid.dotted_string, str(item.value)) for item in name))


def _require_scheme(oid: x509.ObjectIdentifier, digest: hashes.HashAlgorithm | None, role: str) -> None:
    if oid != x509.SignatureAlgorithmOID.RSASSA_PSS or not isinstance(digest, hashes.SHA384):
        raise AttestationError(Reason.CHAIN, f"{role}: a signature by RSASSA-PSS with SHA-384 expected")


def _require_one_spelling(der: bytes, *, tbs: bytes, signature: bytes, role: str) -> None:
    """What stands outside the signed part is the header, the algorithm once more, and the signature, and nothing else.

    The signature does not cover its own algorithm; RFC 5280, 4.1.1.2 wants it spelt as inside, where it is covered.
    """
    end = b"\x03\x82\x02\x01\x00" + signature  # a BIT STRING of 512 bytes
    algorithm = der[4 + len(tbs) : -len(end)]
    if der != der[:4] + tbs + algorithm + end or not algorithm or algorithm not in tbs:
        raise AttestationError(Reason.CHAIN, f"{role}: the same algorithm inside and outside the signed part expected")


def require_authority(certificate: Certificate, *, path_length: int | None, signs_crl: bool) -> None:
    """``certificate`` is a CA with an RSA-4096 key and the usage that its place in the chain needs.

    Raises:
        AttestationError: CHAIN.
    """
    role = certificate.role
    if not isinstance(certificate.key, rsa.RSAPublicKey) or certificate.key.key_size != _CA_KEY_BITS:
        raise AttestationError(Reason.CHAIN, f"{role}: an RSA-{_CA_KEY_BITS} key expected")
    try:
        constraints = certificate.parsed.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.parsed.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        raise AttestationError(Reason.CHAIN, f"{role}: basic constraints and key usage expected") from None
    if not (constraints.critical and constraints.value.ca and constraints.value.path_length == path_length):
        raise AttestationError(Reason.CHAIN, f"{role}: basic constraints of its place in the chain expected")
    if not (usage.critical and usage.value.key_cert_sign) or (signs_crl and not usage.value.crl_sign):
        raise AttestationError(Reason.CHAIN, f"{role}: key usage of its place in the chain expected")


def require_issued_by(certificate: Certificate, issuer: Certificate) -> None:
    """``issuer`` is named in ``certificate`` and signed it.

    Raises:
        AttestationError: CHAIN.
    """
    if certificate.issuer != issuer.subject:
        raise AttestationError(Reason.CHAIN, f"{certificate.role}: the subject of the {issuer.role} expected as issuer")
    _require_signature(issuer, certificate.signature, signed=certificate.tbs, role=certificate.role)


def _require_signature(issuer: Certificate, signature: bytes, *, signed: bytes, role: str) -> None:
    if not isinstance(issuer.key, rsa.RSAPublicKey):
        raise AttestationError(Reason.CHAIN, f"{issuer.role}: an RSA key expected")
    try:
        issuer.key.verify(signature, signed, _PSS, hashes.SHA384())
    except InvalidSignature:
        raise AttestationError(Reason.CHAIN, f"{role}: not signed by the {issuer.role}") from None


def require_valid_at(certificate: Certificate, now: datetime) -> None:
    """``now`` lies in the certificate's validity.

    Raises:
        AttestationError: CERT_NOT_YET_VALID, CERT_EXPIRED.
    """
    if now < certificate.not_before:
        raise AttestationError(Reason.CERT_NOT_YET_VALID, f"{certificate.role}: not valid yet")
    if now > certificate.not_after:
        raise AttestationError(Reason.CERT_EXPIRED, f"{certificate.role}: no longer valid")


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that its root signed. Only its age is still open."""

    this_update: datetime
    next_update: datetime
    number: int | None
    revoked: frozenset[int]


def read_crl(der: bytes, root: Certificate) -> RevocationList:
    """The list in ``der``, signed by ``root``. An attacker may choose which of the root's lists we see.

    Raises:
        AttestationError: CHAIN, not a complete list by ``root``.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        _require_one_spelling(der, tbs=crl.tbs_certlist_bytes, signature=crl.signature, role="CRL")
        _require_scheme(crl.signature_algorithm_oid, crl.signature_hash_algorithm, "CRL")
        issuer, next_update = _name(crl.issuer), crl.next_update_utc
        number = _crl_number(crl.extensions)
        revoked = frozenset(entry.serial_number for entry in crl)
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, "CRL: an X.509 revocation list in DER expected") from None
    if next_update is None:
        raise AttestationError(Reason.CHAIN, "CRL: a date for the next list expected")
    if issuer != root.subject:
        raise AttestationError(Reason.CHAIN, f"CRL: the subject of the {root.role} expected as issuer")
    _require_signature(root, crl.signature, signed=crl.tbs_certlist_bytes, role="CRL")
    return RevocationList(crl.last_update_utc, next_update, number, revoked)


def _crl_number(extensions: x509.Extensions) -> int | None:
    """The list's number. A critical extension means that the list is not a complete one (RFC 5280, 5.2.4, 5.2.5)."""
    number = None
    for extension in extensions:
        if extension.critical:
            raise AttestationError(Reason.CHAIN, "CRL: a complete list, without critical extensions, expected")
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
    return number


def crl_claim(crl: RevocationList | None, now: datetime) -> CrlClaim:
    """What there is to say about ``crl`` at ``now``; whether that is enough is for the policy.

    Raises:
        AttestationError: CERT_NOT_YET_VALID, the list comes from the future.
    """
    if crl is None:
        return CrlClaim(CrlStatus.ABSENT)
    if crl.this_update > now + _CRL_CLOCK_TOLERANCE:
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "CRL: issued more than a day after now; check the clock")
    status = CrlStatus.GOOD if now <= crl.next_update else CrlStatus.STALE
    return CrlClaim(status, crl.this_update, crl.next_update, crl.number)
