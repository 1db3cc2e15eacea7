"""Certificates that are almost right: a real one issued anew with one thing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from softtee.certificates import load_certificate
from softtee.chip import Chip

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)


def reissue(
    der: bytes,
    key: rsa.RSAPrivateKey,
    *,
    changes: dict[str, Any] | None = None,
    extensions: dict[str, bytes | None] | None = None,
    critical: tuple[str, ...] = (),
    scheme: tuple[Any, Any] = (hashes.SHA384(), PSS),
) -> bytes:
    """The certificate in ``der`` signed anew by ``key``.

    Args:
        der: the pattern.
        key: the issuer's private key.
        changes: builder calls to make differently, such as ``{"subject_name": name}``.
        extensions: DER by dotted OID: replaced, added, or with None removed.
        critical: those of ``extensions`` that are critical.
        scheme: hash and padding of the signature.
    """
    pattern = load_certificate(der)
    values: dict[str, Any] = {
        "subject_name": pattern.subject,
        "issuer_name": pattern.issuer,
        "public_key": pattern.public_key(),
        "not_valid_before": pattern.not_valid_before_utc,
        "not_valid_after": pattern.not_valid_after_utc,
        "serial_number": 1 if len(der) < 1500 else pattern.serial_number,
    }
    builder = x509.CertificateBuilder()
    for call, value in {**values, **(changes or {})}.items():
        builder = getattr(builder, call)(value)
    wanted = dict(extensions or {})
    for item in pattern.extensions:
        oid = item.oid.dotted_string
        if oid not in wanted:
            builder = builder.add_extension(item.value, critical=item.critical)
    for oid, value in wanted.items():
        if value is not None:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=oid in critical)
    return builder.sign(key, scheme[0], rsa_padding=scheme[1]).public_bytes(Encoding.DER)


def with_chain(chip: Chip, **certificates: bytes) -> Chip:
    """``chip`` with another ``cek``, ``ask`` or ``ark``."""
    chain = tuple(
        certificates.get(name, der) for name, der in zip(("cek", "ask", "ark"), chip.certificate_chain, strict=True)
    )
    return replace(chip, certificate_chain=chain)  # type: ignore[arg-type]


def renamed(name: x509.Name, oid: x509.ObjectIdentifier, value: str) -> x509.Name:
    """``name`` with one attribute changed."""
    return x509.Name([x509.NameAttribute(item.oid, value if item.oid == oid else item.value) for item in name])


def resigned(der: bytes, key: rsa.RSAPrivateKey, *, old: bytes, new: bytes) -> bytes:
    """The certificate or list in ``der`` with ``new`` for ``old`` as its signed part: for what no builder writes."""
    algorithm = der[4 + len(old) : -517]
    return _sequence(new + algorithm + der[-517:-512] + key.sign(new, PSS, hashes.SHA384()))


def _sequence(content: bytes) -> bytes:
    size = len(content).to_bytes(1 + (len(content) > 0xFF), "big")
    return b"\x30" + bytes([0x80 | len(size)]) + size + content


def without_next_update(der: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The revocation list in ``der`` (its signed part 128 to 255 bytes) without the date of the next one."""
    crl = x509.load_der_x509_crl(der)
    assert crl.next_update_utc is not None
    date = b"\x17\x0d" + crl.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()
    old = crl.tbs_certlist_bytes
    return resigned(der, key, old=old, new=_sequence(old[3:].replace(date, b"", 1)))


def constraints(**values: Any) -> bytes:
    """DER of basic constraints."""
    return x509.BasicConstraints(**values).public_bytes()


def links(*addresses: str) -> bytes:
    """DER of CRL distribution points, one for each address."""
    points = [x509.DistributionPoint([x509.UniformResourceIdentifier(link)], None, None, None) for link in addresses]
    return x509.CRLDistributionPoints(points).public_bytes()


def usage(*, key_cert_sign: bool, crl_sign: bool) -> bytes:
    """DER of a key usage with at most these two bits."""
    return bytes([0x03, 0x02, 0x01, key_cert_sign << 2 | crl_sign << 1])
