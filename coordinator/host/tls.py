"""The host's TLS certificate, from a CA that it makes on its first start. Trust zone: host.

TLS keeps strangers from reading sizes and timing, and no more: what travels inside is sealed for the aggregator. So the
CA's key lies beside the server's; whoever has the host has both, and gains ciphertext.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_BEFORE = timedelta(days=30)
_SKEW = timedelta(hours=1)  # clocks of sites that run ahead


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """PEM: the server's key and chain, and the CA that workers pin."""

    key_pem: bytes
    chain_pem: bytes
    ca_pem: bytes

    def __repr__(self) -> str:
        return "ServerIdentity()"


def server_identity(folder: Path, names: Sequence[str], now: datetime) -> ServerIdentity:
    """The identity kept in ``folder``, made or renewed when it is absent, ends in 30 days or has other names.

    A renewal keeps the CA, so that workers need not be told.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, ca = _load_or_make_ca(folder, now)
    key_path, chain_path = folder / "server.key", folder / "server.pem"
    if not (key_path.exists() and chain_path.exists() and _is_good(chain_path.read_bytes(), names, now)):
        key, certificate = _issue(ca_key, ca, names, now)
        _write_private(key_path, _key_pem(key))
        chain_path.write_bytes(_pem(certificate) + _pem(ca))
    return ServerIdentity(key_path.read_bytes(), chain_path.read_bytes(), (folder / "ca.pem").read_bytes())


def _load_or_make_ca(folder: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, path = folder / "ca.key", folder / "ca.pem"
    if key_path.exists() and path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_path}: not the key that this host made")
        return key, x509.load_pem_x509_certificate(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Cloister host CA")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, key.public_key(), (now - _SKEW, now + timedelta(days=_CA_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_private(key_path, _key_pem(key))
    path.write_bytes(_pem(certificate))
    return key, certificate


def _issue(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, names: Sequence[str], now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    validity = (now - _SKEW, min(now + timedelta(days=_SERVER_DAYS), ca.not_valid_after_utc))
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        _builder(_name("Cloister host"), ca.subject, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )


def _is_good(chain: bytes, names: Sequence[str], now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificates(chain)[0]
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return now + _RENEW_BEFORE < certificate.not_valid_after_utc and set(alternative) == set(map(_general_name, names))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
