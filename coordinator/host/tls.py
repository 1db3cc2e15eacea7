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

from coordinator.host.shortages import naming_shortages
from trusted.errors import Reason, RunError

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

    A renewal keeps the CA, so that workers need not be told. So does one after a start under a wrong clock.

    Raises:
        RunError: STORE_DAMAGED: the CA cannot be read; HOST_SHORT: a full disk; CERT_EXPIRED, CERT_NOT_YET_VALID: the
            CA is of another time than this machine's clock.
    """
    with naming_shortages():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca_key, ca = _load_or_make_ca(folder, now)
        _require_valid(ca, now)
        key_path, chain_path = folder / "server.key", folder / "server.pem"
        if not _is_good(key_path, chain_path, names, now):
            key, certificate = _issue(ca_key, ca, names, now)
            chain_path.unlink(missing_ok=True)  # a key without its certificate is made anew, never paired with another
            _write_private(key_path, _key_pem(key))
            _write_private(chain_path, _pem(certificate) + _pem(ca))
    return ServerIdentity(key_path.read_bytes(), chain_path.read_bytes(), (folder / "ca.pem").read_bytes())


def _load_or_make_ca(folder: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, path = folder / "ca.key", folder / "ca.pem"
    if path.exists():  # written last: workers may pin it from then on
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (FileNotFoundError, ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            advice = "put the tls folder of a backup back, or delete it and give every site the new ca.pem"
            raise RunError(
                Reason.STORE_DAMAGED, f"tls: ca.key and ca.pem are not the pair that this host made; {advice}"
            )
        return key, certificate
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
    _write_private(path, _pem(certificate))
    return key, certificate


def _require_valid(ca: x509.Certificate, now: datetime) -> None:
    """Refuse a CA that no site accepts now.

    Raises:
        RunError: CERT_EXPIRED or CERT_NOT_YET_VALID.
    """
    advice = "set this machine's clock; if it is right, delete the tls folder and give every site the new ca.pem"
    if now < ca.not_valid_before_utc:
        raise RunError(
            Reason.CERT_NOT_YET_VALID, f"tls/ca.pem: it was made later than this machine's clock says; {advice}"
        )
    if now > ca.not_valid_after_utc:
        raise RunError(Reason.CERT_EXPIRED, f"tls/ca.pem: it has ended by this machine's clock; {advice}")


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


def _is_good(key_path: Path, chain_path: Path, names: Sequence[str], now: datetime) -> bool:
    """Whether both are there and whole, belong together, and serve ``names`` for a while from now on."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_path.read_bytes())[0]
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return False
    lasts = leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc - _RENEW_BEFORE
    return lasts and key.public_key() == leaf.public_key() and set(alternative) == set(map(_general_name, names))


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
    """Put ``data`` at ``path``, all of it or, where the disk is full or the power goes, nothing."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
