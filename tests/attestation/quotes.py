"""Quotes that are almost right: an attestation key in the test's hands, and every field free to choose.

No TPM would sign most of these; the real one is in ``swtpm.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.tpm import key_sha256
from trusted.wire import sha256

ATTRIBUTES = 0x00050072
AIK_CERTIFICATE = "2.23.133.8.3"
EK_CERTIFICATE = "2.23.133.8.1"
_HASHES = {Bank.SHA256: hashes.SHA256(), Bank.SHA384: hashes.SHA384()}
_CURVES = {Scheme.ECDSA_P256_SHA256: ec.SECP256R1(), Scheme.ECDSA_P384_SHA384: ec.SECP384R1()}

AkKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def u16(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in numbers)


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def sized(content: bytes) -> bytes:
    return u16(len(content)) + content


def draw_key(scheme: Scheme) -> AkKey:
    """A key for ``scheme``."""
    if scheme in _CURVES:
        return ec.generate_private_key(_CURVES[scheme])
    return rsa.generate_private_key(65537, 2048)


def selection_bytes(bank: int, indexes: Sequence[int], *, size: int = 3) -> bytes:
    """TPMS_PCR_SELECTION."""
    return u16(bank) + bytes([size]) + sum(1 << index for index in indexes).to_bytes(size, "little")


@dataclass(frozen=True)
class Quote:
    """The fields of a TPMS_ATTEST, by default one that is in order."""

    values: tuple[bytes, ...] = (b"\x04" * 32, b"\x09" * 32, b"\x0b" * 32)
    indexes: tuple[int, ...] = (4, 9, 11)
    bank: Bank = Bank.SHA256
    hash: Bank = Bank.SHA256
    extra_data: bytes = b"\x22" * 32
    magic: int = 0xFF544347
    type: int = 0x8018
    reset_count: int = 3
    restart_count: int = 1
    safe: int = 1
    firmware: int = 0x0001000200000000
    selections: bytes | None = None
    digest: bytes | None = None

    def encode(self) -> bytes:
        """As the TPM would sign it."""
        selections = self.selections or u32(1) + selection_bytes(self.bank.value, self.indexes)
        digest = self.hash.digest(b"".join(self.values)) if self.digest is None else self.digest
        clock = (77).to_bytes(8, "big") + u32(self.reset_count, self.restart_count) + bytes([self.safe])
        head = u32(self.magic) + u16(self.type) + sized(b"\x00\x0b" + b"n" * 32) + sized(self.extra_data)
        return head + clock + self.firmware.to_bytes(8, "big") + selections + sized(digest)


def public_area(key: AkKey, kind: Scheme, /, *, attributes: int = ATTRIBUTES, **changes: int) -> bytes:
    """TPMT_PUBLIC; ``changes``: ``type``, ``name_alg``, ``symmetric``, ``scheme``, ``hash``, ``curve``, ``kdf``,
    ``bits``, ``exponent``."""
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    area = u16(changes.get("type", 1 if is_rsa else 0x23), changes.get("name_alg", 0x0B)) + u32(attributes) + u16(0)
    area += u16(changes.get("symmetric", 0x10), changes.get("scheme", 0x14 if is_rsa else 0x18))
    area += u16(changes.get("hash", kind.hash.value))
    numbers = key.public_key().public_numbers()
    if isinstance(numbers, rsa.RSAPublicNumbers):
        bits = key.key_size
        area += u16(changes.get("bits", bits)) + u32(changes.get("exponent", 0))
        return area + sized(numbers.n.to_bytes(bits // 8, "big"))
    size = (key.key_size + 7) // 8
    area += u16(changes.get("curve", 3 if size == 32 else 4), changes.get("kdf", 0x10))
    return area + sized(numbers.x.to_bytes(size, "big")) + sized(numbers.y.to_bytes(size, "big"))


def sign(key: AkKey, scheme: Scheme, message: bytes) -> bytes:
    """TPMT_SIGNATURE over ``message``."""
    digest = _HASHES[scheme.hash]
    if isinstance(key, rsa.RSAPrivateKey):
        return u16(0x14, scheme.hash.value) + sized(key.sign(message, padding.PKCS1v15(), digest))
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    size = (key.key_size + 7) // 8
    return u16(0x18, scheme.hash.value) + sized(r.to_bytes(size, "big")) + sized(s.to_bytes(size, "big"))


@dataclass(frozen=True)
class Ak:
    """An attestation key that signs whatever the test wants."""

    key: AkKey
    scheme: Scheme = Scheme.ECDSA_P256_SHA256

    @property
    def sha256(self) -> bytes:
        """How a charter names it."""
        return key_sha256(self.key.public_key())

    @property
    def root(self) -> TrustRoot:
        """The charter that vouches for the key itself."""
        return TrustRoot(EvidenceFormat.TPM, "test maker", self.sha256)

    def evidence(self, quote: Quote | None = None, *, chain: tuple[bytes, ...] = (), **parts: bytes) -> Evidence:
        """Evidence with ``quote``; ``parts`` replace what belongs to it, with ``_`` for ``-`` in their names."""
        quote = quote or Quote()
        quote = replace(quote, hash=self.scheme.hash)
        message = quote.encode()
        found = {
            "ak": public_area(self.key, self.scheme),
            "pcrs": b"".join(quote.values),
            "signature": sign(self.key, self.scheme, message),
        }
        found |= {name.replace("_", "-"): content for name, content in parts.items()}
        return Evidence(EvidenceFormat.TPM, message, chain, b"", tuple(sorted(found.items())))


@dataclass(frozen=True)
class Authority:
    """A maker's certificate authority: a root, one below it, and what it issues for attestation keys."""

    now: datetime
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    below: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def trust_root(self) -> TrustRoot:
        """The root as a charter names it."""
        return TrustRoot(EvidenceFormat.TPM, "test maker", sha256(self.root))

    @property
    def root(self) -> bytes:
        """DER of the root: the same bytes each time, for they are kept."""
        return _kept(self, "root", lambda: self._ca("root", "root", self.key, self.key, path_length=1))

    def chain(self, ak: Ak, **changes: Any) -> tuple[bytes, ...]:
        """AK certificate, intermediate, root; ``changes`` as in :meth:`leaf` and for the intermediate ``ca`` and
        ``path_length``."""
        ca = {name: changes.pop(name) for name in ("ca", "path_length", "key_cert_sign") if name in changes}
        middle = self._ca("middle", "root", self.below, self.key, **{"path_length": 0, **ca})
        return (self.leaf(ak, **changes), middle, self.root)

    def leaf(
        self,
        ak: Ak,
        *,
        uses: Sequence[str] = (AIK_CERTIFICATE,),
        ca: bool = False,
        signs: bool = True,
        extra: x509.ExtensionType | None = None,
        hash_: hashes.HashAlgorithm | None = None,
        validity: tuple[datetime, datetime] | None = None,
    ) -> bytes:
        """An AK certificate as makers write it: no subject, a critical alternative name, and no end."""
        start, end = validity or (
            self.now - timedelta(days=1),
            datetime(9999, 12, 31, 23, 59, 59, tzinfo=self.now.tzinfo),
        )
        names = x509.SubjectAlternativeName([x509.DirectoryName(_name("id:00000000"))])
        builder = x509.CertificateBuilder(_name("middle"), x509.Name([]), ak.key.public_key(), 7, start, end)
        builder = builder.add_extension(names, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=signs), critical=True)
        if uses:
            kinds = [x509.ObjectIdentifier(use) for use in uses]
            builder = builder.add_extension(x509.ExtendedKeyUsage(kinds), critical=False)
        if extra is not None:
            builder = builder.add_extension(extra, critical=True)
        return builder.sign(self.below, hash_ or hashes.SHA256()).public_bytes(Encoding.DER)

    def _ca(self, name: str, issuer: str, key: Any, signer: Any, **changes: Any) -> bytes:
        ca, length = changes.get("ca", True), changes["path_length"]
        start, end = self.now - timedelta(days=1), self.now + timedelta(days=3650)
        builder = x509.CertificateBuilder(_name(issuer), _name(name), key.public_key(), 9, start, end)
        builder = builder.add_extension(x509.BasicConstraints(ca, length if ca else None), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=changes.get("key_cert_sign", True)), critical=True)
        return builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.DER)


_KEPT: dict[tuple[int, str], bytes] = {}


def _kept(owner: Authority, name: str, make: Any) -> bytes:
    """ECDSA draws a new signature each time, and a root is named by its bytes."""
    return _KEPT.setdefault((id(owner.key), name), make())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    wanted = {"digital_signature": digital_signature, "key_cert_sign": key_cert_sign}
    if not any(wanted.values()):
        wanted["key_encipherment"] = True
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})
