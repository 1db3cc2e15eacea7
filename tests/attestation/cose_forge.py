"""Nitro documents and CCA tokens that are almost right, under keys of this test's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import cbor
from trusted.attestation.formats.cbor import Tagged
from trusted.attestation.roots import TrustRoot
from trusted.wire import sha256

MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
ES384 = cbor.encode({1: -35})


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key called ``name`` in this process."""
    return ec.generate_private_key(ec.SECP384R1())


def sign1(payload: bytes, signer: Any, *, tagged: bool, protected: bytes = ES384, unprotected: Any = None) -> Any:
    """A COSE_Sign1 over ``payload``, as a value to encode."""
    der = signer.sign(cbor.encode(("Signature1", protected, b"", payload)), ec.ECDSA(hashes.SHA384()))
    r, s = decode_dss_signature(der)
    envelope = (protected, unprotected or {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big"))
    return Tagged(18, envelope) if tagged else envelope


@dataclass(frozen=True, slots=True)
class Authority:
    """How one certificate of a chain is made."""

    subject: str
    issuer: str
    ca: bool = True
    path_length: int | None = None
    key_cert_sign: bool = True
    hours: tuple[int, int] = (-1, 3)
    curve: Any = None
    digest: Any = field(default_factory=hashes.SHA384)


def certificate(made: Authority, now: datetime) -> bytes:
    """DER of the certificate."""
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    public = made.curve.public_key() if made.curve else key(made.subject).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(made.subject))
        .issuer_name(_name(made.issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(hours=made.hours[0]))
        .not_valid_after(now + timedelta(hours=made.hours[1]))
        .add_extension(x509.BasicConstraints(ca=made.ca, path_length=made.path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not made.key_cert_sign,
                key_cert_sign=made.key_cert_sign,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    return builder.sign(key(made.issuer), made.digest).public_bytes(Encoding.DER)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


LEAF = f"{MODULE}.us-east-1.aws"
CHAIN = {
    "root": Authority("root", "root"),
    "zone": Authority("zone", "root", path_length=1),
    "instance": Authority("instance", "zone", path_length=0),
    "leaf": Authority(LEAF, "instance", ca=False, key_cert_sign=False),
}


@dataclass(frozen=True, slots=True)
class Forged:
    """Evidence, and the root that it holds under."""

    evidence: Evidence
    root: TrustRoot


def nitro(now: datetime, *, chain: Mapping[str, Authority] | None = None, **changes: Any) -> Forged:
    """A Nitro document that holds at ``now``; ``changes`` to its fields, where None removes one."""
    made = {name: certificate(authority, now) for name, authority in {**CHAIN, **(chain or {})}.items()}
    leaf, *authorities = made.pop("leaf"), *made.values()
    fields: dict[Any, Any] = {
        "module_id": MODULE,
        "digest": "SHA384",
        "timestamp": int(now.timestamp() * 1000),
        "pcrs": {index: bytes([index + 1]) * 48 if index in (0, 1, 2, 3, 4, 8) else bytes(48) for index in range(16)},
        "certificate": leaf,
        "cabundle": tuple(authorities),
        "public_key": None,
        "user_data": b"\x22" * 64,
        "nonce": None,
    }
    signer = changes.pop("signer", key(LEAF))
    removed = changes.pop("without", ())
    fields |= changes
    document = {name: value for name, value in fields.items() if name not in removed}
    report = cbor.encode(sign1(cbor.encode(document), signer, tagged=False))
    root = TrustRoot(EvidenceFormat.NITRO, "Nitro", sha256(made["root"]))
    return Forged(Evidence(EvidenceFormat.NITRO, report, ()), root)


def spki(private: Any) -> bytes:
    """DER of the public key."""
    return bytes(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def point(private: Any) -> bytes:
    """The uncompressed point."""
    return bytes(private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def cose_key(private: Any) -> bytes:
    """The COSE_Key."""
    raw = point(private)
    return cbor.encode({1: 2, -1: 2, -2: raw[1:49], -3: raw[49:]})


@dataclass(frozen=True, slots=True)
class CcaParts:
    """What a CCA token is made of; change it, then :meth:`forge`."""

    platform: dict[Any, Any]
    realm: dict[Any, Any]
    wrapped: bool = False
    platform_signer: str = "cpak"
    realm_signer: str = "rak"

    def forge(self) -> Forged:
        """The evidence."""
        entries = {
            label: cbor.encode(sign1(cbor.encode(claims), key(signer), tagged=True))
            for label, claims, signer in (
                (44234, self.platform, self.platform_signer),
                (44241, self.realm, self.realm_signer),
            )
        }
        collection = {label: (263, token) for label, token in entries.items()} if self.wrapped else entries
        report = cbor.encode(Tagged(907 if self.wrapped else 399, collection))
        part = spki(key("cpak"))
        evidence = Evidence(EvidenceFormat.CCA, report, (), parts=(("cpak", part),))
        return Forged(evidence, TrustRoot(EvidenceFormat.CCA, "CCA", sha256(part)))


def cca(profile: int = 1) -> CcaParts:
    """A token of the legacy profile (0), of version 1 or of version 2, that holds."""
    rak = point(key("rak")) if profile == 0 else cose_key(key("rak"))
    platform_profile = (
        "http://arm.com/CCA-SSD/1.0.0",
        "tag:arm.com,2023:cca_platform#1.0.0",
        "tag:arm.com,2024:cca_platform#2.0.0",
    )[profile]
    platform: dict[Any, Any] = {
        265: platform_profile,
        10: sha256(rak),
        2396: b"\x07" * 32,
        256: b"\x01" + b"\x08" * 32,
        2401: b"\xcf" * 4,
        2395: 0x3003,
        2402: "sha-256",
        2399: ({1: "RMM", 2: b"\x0a" * 32, 4: "1.0", 5: b"\x0b" * 32}, {2: b"\x0c" * 32, 5: b"\x0d" * 48}),
    }
    realm: dict[Any, Any] = {
        10: b"\x22" * 64,
        44235: (b"\x33" * 32).ljust(64, b"\0"),
        44236: "sha-384",
        44237: rak,
        44238: b"\x11" * 48,
        44239: tuple(bytes([index]) * 48 for index in range(4)),
        44240: "sha-256",
    }
    if profile:
        realm[265] = (None, "tag:arm.com,2023:realm#1.0.0", "tag:arm.com,2024:realm#2.0.0")[profile]
    if profile == 2:
        platform[2394] = 1
        realm |= {256: b"\x01" + b"\x09" * 32, 44243: 0}
    return CcaParts(platform, realm, wrapped=profile == 2)
