"""TPM 2.0 quotes, signatures and public keys, bytes to fields. Trust zone: every TEE.

Strict: exactly the structures that an attestation key (AK) makes, in the schemes that are known here; bytes left over
are refused. Source: TCG TPM 2.0 Library 1.59, part 2, sections 8.3, 10.6, 10.12, 11.3 and 12.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from trusted.attestation.formats.cursor import Cursor
from trusted.attestation.formats.tcg_event_log import Bank

MAX_QUOTE_BYTES = 1024
MAX_PUBLIC_BYTES = 1024
MAX_SIGNATURE_BYTES = 1024
_GENERATED = 0xFF544347  # TPM_GENERATED_VALUE: a restricted key signs nothing that begins so, unless the TPM made it
_ATTEST_QUOTE = 0x8018
_ALG_RSA = 0x0001
_ALG_ECC = 0x0023
_ALG_NULL = 0x0010
_ALG_RSASSA = 0x0014
_ALG_ECDSA = 0x0018
_HASH_BYTES = {0x000B: 32, 0x000C: 48, 0x000D: 64}
_MAX_NAME_BYTES = 2 + 64
_MAX_NONCE_BYTES = 64
_MAX_BANKS = 4
_SELECT_BYTES = 3  # 24 PCRs, as every PC Client TPM has them
_RSA_BITS = (2048, 3072, 4096)
_RSA_EXPONENT = 65537
_CURVES = {0x0003: ("P-256", 32), 0x0004: ("P-384", 48)}

ATTRIBUTES = {
    "fixed_tpm": 1,
    "st_clear": 2,
    "fixed_parent": 4,
    "sensitive_data_origin": 5,
    "user_with_auth": 6,
    "admin_with_policy": 7,
    "no_da": 10,
    "encrypted_duplication": 11,
    "restricted": 16,
    "decrypt": 17,
    "sign": 18,
    "x509_sign": 19,
}


@unique
class Scheme(Enum):
    """How an AK signs: the key's kind, its padding and its digest. A key has one, and no signature chooses another."""

    RSASSA_SHA256 = "rsassa-sha256"
    RSASSA_SHA384 = "rsassa-sha384"
    ECDSA_P256_SHA256 = "ecdsa-p256-sha256"
    ECDSA_P384_SHA384 = "ecdsa-p384-sha384"

    @property
    def hash(self) -> Bank:
        """The digest that is signed, and in which a quote sums up its PCRs."""
        return Bank.SHA256 if self.value.endswith("256") else Bank.SHA384


_SCHEMES = {
    (_ALG_RSA, _ALG_RSASSA, 0x000B): Scheme.RSASSA_SHA256,
    (_ALG_RSA, _ALG_RSASSA, 0x000C): Scheme.RSASSA_SHA384,
    (_ALG_ECC, _ALG_ECDSA, 0x000B): Scheme.ECDSA_P256_SHA256,
    (_ALG_ECC, _ALG_ECDSA, 0x000C): Scheme.ECDSA_P384_SHA384,
}
_CURVE_OF = {Scheme.ECDSA_P256_SHA256: "P-256", Scheme.ECDSA_P384_SHA384: "P-384"}


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """The PCRs of one bank that a quote sums up, in rising order."""

    bank: Bank
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnverifiedQuote:
    """TPMS_ATTEST of a quote that anybody may have written.

    Attributes:
        signer: the qualified name of the key that signed.
        extra_data: what the caller bound into it, 0 to 64 bytes.
        clock_ms, reset_count, restart_count, clock_safe: TPMS_CLOCK_INFO.
        firmware_version: the maker's number, 64 bits.
        selections: which PCRs, bank by bank.
        pcr_digest: the digest of their values, one after the other.
    """

    signer: bytes
    extra_data: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    clock_safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes

    @property
    def values_bytes(self) -> int:
        """How many bytes the selected PCRs have together."""
        return sum(len(item.indexes) * item.bank.size_bytes for item in self.selections)


@dataclass(frozen=True, slots=True)
class UnverifiedSignature:
    """TPMT_SIGNATURE: RSASSA in ``rsa``, or ECDSA as two numbers."""

    algorithm: int
    hash: int
    rsa: bytes
    r: int
    s: int

    def is_of(self, scheme: Scheme) -> bool:
        """Whether it claims to be made in ``scheme``."""
        algorithm = _ALG_ECDSA if scheme in _CURVE_OF else _ALG_RSASSA
        return (self.algorithm, self.hash) == (algorithm, scheme.hash.value)


@dataclass(frozen=True, slots=True)
class UnverifiedPublic:
    """TPMT_PUBLIC of a signing key.

    Attributes:
        attributes: names of :data:`ATTRIBUTES` that are set.
        scheme: its only one.
        modulus: RSA; 0 for elliptic curves.
        x, y: elliptic curves; 0 for RSA.
    """

    attributes: frozenset[str]
    scheme: Scheme
    modulus: int
    x: int
    y: int


def parse_quote(quote: bytes) -> UnverifiedQuote:
    """The fields of the TPMS_ATTEST in ``quote``.

    Raises:
        AttestationError: EVIDENCE_FORMAT: not a quote, or not in its one spelling.
    """
    cursor = _cursor(quote, "quote", MAX_QUOTE_BYTES)
    cursor.expect(4, _GENERATED, "magic")
    cursor.expect(2, _ATTEST_QUOTE, "type")
    parsed = UnverifiedQuote(
        signer=cursor.sized(2, "qualifiedSigner", most=_MAX_NAME_BYTES),
        extra_data=cursor.sized(2, "extraData", most=_MAX_NONCE_BYTES),
        clock_ms=cursor.number(8, "clock"),
        reset_count=cursor.number(4, "resetCount"),
        restart_count=cursor.number(4, "restartCount"),
        clock_safe=_yes_no(cursor, "safe"),
        firmware_version=cursor.number(8, "firmwareVersion"),
        selections=_selections(cursor),
        pcr_digest=cursor.sized(2, "pcrDigest", most=64),
    )
    cursor.end()
    return parsed


def parse_signature(signature: bytes) -> UnverifiedSignature:
    """The fields of the TPMT_SIGNATURE in ``signature``.

    Raises:
        AttestationError: EVIDENCE_FORMAT: neither RSASSA nor ECDSA.
    """
    cursor = _cursor(signature, "signature", MAX_SIGNATURE_BYTES)
    algorithm = cursor.number(2, "sigAlg")
    if algorithm not in (_ALG_RSASSA, _ALG_ECDSA):
        raise cursor.error("sigAlg: RSASSA or ECDSA expected")
    hash_ = cursor.number(2, "hash")
    rsa, r, s = b"", 0, 0
    if algorithm == _ALG_RSASSA:
        rsa = cursor.sized(2, "sig", most=max(_RSA_BITS) // 8)
    else:
        r, s = (int.from_bytes(cursor.sized(2, half, most=48), "big") for half in ("signatureR", "signatureS"))
    cursor.end()
    return UnverifiedSignature(algorithm, hash_, rsa, r, s)


def parse_public(public: bytes) -> UnverifiedPublic:
    """The fields of the TPMT_PUBLIC in ``public``, which must describe a key that can only sign.

    Raises:
        AttestationError: EVIDENCE_FORMAT: another kind of key, or one with a scheme that is not known here.
    """
    cursor = _cursor(public, "ak", MAX_PUBLIC_BYTES)
    kind = cursor.number(2, "type")
    if kind not in (_ALG_RSA, _ALG_ECC):
        raise cursor.error("type: RSA or ECC expected")
    if cursor.number(2, "nameAlg") not in _HASH_BYTES:
        raise cursor.error("nameAlg: SHA-256, SHA-384 or SHA-512 expected")
    attributes = _attributes(cursor)
    cursor.sized(2, "authPolicy", most=64)
    cursor.expect(2, _ALG_NULL, "symmetric")  # a key that signs encrypts nothing
    scheme = _SCHEMES.get((kind, cursor.number(2, "scheme"), cursor.number(2, "scheme hash")))
    if scheme is None:
        raise cursor.error("scheme: one of " + ", ".join(item.value for item in Scheme) + " expected")
    modulus, x, y = (_rsa(cursor), 0, 0) if kind == _ALG_RSA else (0, *_point(cursor, scheme))
    cursor.end()
    return UnverifiedPublic(attributes, scheme, modulus, x, y)


def _cursor(data: bytes, name: str, most: int) -> Cursor:
    cursor = Cursor(data, name, "big")
    if len(data) > most:
        raise cursor.error(f"size: at most {most} bytes expected")
    return cursor


def _yes_no(cursor: Cursor, field: str) -> bool:
    value = cursor.number(1, field)
    if value > 1:
        raise cursor.error(f"{field}: 0 or 1 expected")
    return bool(value)


def _selections(cursor: Cursor) -> tuple[PcrSelection, ...]:
    """TPML_PCR_SELECTION. An empty selection sums up nothing, so it is refused."""
    count = cursor.number(4, "pcrSelect")
    if not 0 < count <= _MAX_BANKS:
        raise cursor.error(f"pcrSelect: 1 to {_MAX_BANKS} banks expected")
    selections = tuple(_selection(cursor) for _ in range(count))
    if len({item.bank for item in selections}) != count:
        raise cursor.error("pcrSelect: no bank twice")
    return selections


def _selection(cursor: Cursor) -> PcrSelection:
    number = cursor.number(2, "bank")
    if number not in {bank.value for bank in Bank}:
        raise cursor.error("bank: SHA-256 or SHA-384 expected")
    cursor.expect(1, _SELECT_BYTES, "sizeofSelect")
    bits = int.from_bytes(cursor.octets(_SELECT_BYTES, "pcrSelect"), "little")
    indexes = tuple(index for index in range(8 * _SELECT_BYTES) if bits >> index & 1)
    if not indexes:
        raise cursor.error("pcrSelect: at least one PCR of each bank expected")
    return PcrSelection(Bank(number), indexes)


def _attributes(cursor: Cursor) -> frozenset[str]:
    bits = cursor.number(4, "objectAttributes")
    if bits & ~sum(1 << bit for bit in ATTRIBUTES.values()):
        raise cursor.error("objectAttributes: reserved bits must be zero")
    return frozenset(name for name, bit in ATTRIBUTES.items() if bits >> bit & 1)


def _rsa(cursor: Cursor) -> int:
    bits = cursor.number(2, "keyBits")
    if bits not in _RSA_BITS:
        raise cursor.error("keyBits: 2048, 3072 or 4096 expected")
    if cursor.number(4, "exponent") not in (0, _RSA_EXPONENT):
        raise cursor.error("exponent: the default, 65537, expected")
    unique_bytes = cursor.sized(2, "unique", most=bits // 8)
    modulus = int.from_bytes(unique_bytes, "big")
    if modulus.bit_length() != bits:
        raise cursor.error("unique: a modulus of keyBits expected")
    return modulus


def _point(cursor: Cursor, scheme: Scheme) -> tuple[int, int]:
    name, size = _CURVES.get(cursor.number(2, "curveID"), ("", 0))
    if name != _CURVE_OF[scheme]:
        raise cursor.error(f"curveID: {_CURVE_OF[scheme]} expected, with the digest of its size")
    cursor.expect(2, _ALG_NULL, "kdf")
    x, y = (int.from_bytes(cursor.sized(2, f"unique.{axis}", most=size), "big") for axis in "xy")
    return x, y
