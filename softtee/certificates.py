"""Certificates and a revocation list in the shape of AMD's, under a throw-away root.

Trust zone: the software TEE, which protects nothing. Source: AMD 57230 (VCEK certificate and KDS interface).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.utils import CryptographyDeprecationWarning

_AMD = "1.3.6.1.4.1.3704.1"
STRUCT_VERSION = x509.ObjectIdentifier(f"{_AMD}.1")
PRODUCT_NAME = x509.ObjectIdentifier(f"{_AMD}.2")
HARDWARE_ID = x509.ObjectIdentifier(f"{_AMD}.4")
SPL = {
    "bl": x509.ObjectIdentifier(f"{_AMD}.3.1"),
    "tee": x509.ObjectIdentifier(f"{_AMD}.3.2"),
    "snp": x509.ObjectIdentifier(f"{_AMD}.3.3"),
    "ucode": x509.ObjectIdentifier(f"{_AMD}.3.8"),
    "fmc": x509.ObjectIdentifier(f"{_AMD}.3.9"),
}

_CA_YEARS = 25
_LEAF_YEARS = 7
_CRL_DAYS = 365
_BACKDATED = timedelta(hours=1)  # hosts of one federation disagree about the time by minutes
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate and the key behind it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate with serial number 0, as AMD's VCEKs have, without the warning that each of them causes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(der)


def ark(key: rsa.RSAPrivateKey, *, product: str, now: datetime) -> Issuer:
    """A self-signed root certificate."""
    name = _name(f"ARK-{product}")
    builder = _authority(name, name, key.public_key(), now=now).serial_number(0x20000)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(crl_sign=True), critical=True)
    builder = builder.add_extension(_crl_link(product), critical=False)
    return Issuer(builder.sign(key, hashes.SHA384(), rsa_padding=_PSS), key)


def ask(key: rsa.RSAPrivateKey, root: Issuer, *, product: str, now: datetime) -> Issuer:
    """The intermediate certificate that signs chip certificates."""
    builder = _authority(_name(f"SEV-{product}"), root.certificate.subject, key.public_key(), now=now)
    builder = builder.serial_number(0x20002)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(crl_sign=False), critical=True)
    builder = builder.add_extension(_crl_link(product), critical=False)
    return Issuer(builder.sign(root.key, hashes.SHA384(), rsa_padding=_PSS), key)


def revocation_list(root: Issuer, *, now: datetime, revoked: tuple[int, ...] = (), number: int = 1) -> bytes:
    """DER of the root's list of revoked intermediates, by serial number; good for one year."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(root.certificate.subject)
    builder = builder.last_update(now - _BACKDATED).next_update(now + timedelta(days=_CRL_DAYS))
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _BACKDATED)
        builder = builder.add_revoked_certificate(entry.build())
    crl = builder.sign(root.key, hashes.SHA384(), rsa_padding=_PSS)
    return crl.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class ChipFacts:
    """What a chip certificate says: product, hwID (8 or 64 bytes) and security version numbers by component."""

    product: str
    hardware_id: bytes
    tcb: tuple[tuple[str, int], ...]


def vcek(key: ec.EllipticCurvePublicKey, issuer: Issuer, facts: ChipFacts, *, now: datetime) -> bytes:
    """DER of a chip certificate, with the serial number 0."""
    builder = x509.CertificateBuilder().subject_name(_name("SEV-VCEK")).issuer_name(issuer.certificate.subject)
    builder = builder.public_key(key).serial_number(1)
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + timedelta(days=365 * _LEAF_YEARS))
    contents = [(STRUCT_VERSION, _integer(0)), (PRODUCT_NAME, _ia5_string(facts.product))]
    contents += [(SPL[name], _integer(number)) for name, number in facts.tcb]
    contents += [(HARDWARE_ID, facts.hardware_id)]
    for oid, value in contents:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    certificate = builder.sign(issuer.key, hashes.SHA384(), rsa_padding=_PSS)
    return _with_serial_zero(certificate, issuer.key)


def _with_serial_zero(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bytes:
    """The certificate signed anew with the serial number 0, which the builder refuses to write.

    INTEGER 1 and INTEGER 0 are equally long, so nothing else moves: one byte changes, and the signature at the end.
    """
    before = certificate.tbs_certificate_bytes
    start = before.index(b"\xa0\x03\x02\x01\x02\x02\x01\x01")  # [0] version 3, then INTEGER 1
    tbs = before[: start + 7] + b"\x00" + before[start + 8 :]
    signature = key.sign(tbs, _PSS, hashes.SHA384())
    der = certificate.public_bytes(serialization.Encoding.DER)
    return der.replace(before, tbs)[: -len(signature)] + signature


def _authority(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, *, now: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + timedelta(days=365 * _CA_YEARS))


def _name(common_name: str) -> x509.Name:
    oid = x509.NameOID
    parts = (
        (oid.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (oid.COUNTRY_NAME, "US"),
        (oid.LOCALITY_NAME, "Santa Clara"),
        (oid.STATE_OR_PROVINCE_NAME, "CA"),
        (oid.ORGANIZATION_NAME, "Advanced Micro Devices"),
        (oid.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _key_usage(*, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _crl_link(product: str) -> x509.CRLDistributionPoints:
    link = x509.UniformResourceIdentifier(f"https://kdsintf.amd.com/vcek/v1/{product}/crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([link], None, None, None)])


def _integer(number: int) -> bytes:
    """DER INTEGER of 0 to 255."""
    content = number.to_bytes(1 + number.bit_length() // 8, "big")
    return bytes([0x02, len(content)]) + content


def _ia5_string(text: str) -> bytes:
    content = text.encode("ascii")
    return bytes([0x16, len(content)]) + content
