"""Arm CCA tokens as evidence: with the platform's key beside them. Trust zone: every TEE.

The kernel gives a token alone (configfs-tsm, ``arm_cca_guest``, Linux >= 6.13). The key that signed its platform part
is the maker's to publish; the operator places it in a file. The host may lie about it: peers compare it with their
charter.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from trusted.attestation.evidence import MAX_REPORT_BYTES, Evidence, EvidenceFormat
from trusted.attestation.verify.cca import CPAK_PART
from trusted.errors import Reason, TeeError
from trusted.evidence.configfs_tsm import EvidenceMaker, TsmReport

CCA_PROVIDER = b"arm_cca_guest"
_MAX_KEY_BYTES = 4096
_JWK_CURVE = "P-384"
_COORDINATE_BYTES = 48

# The platform's key, DER SubjectPublicKeyInfo; asked for each time.
KeySource = Callable[[], bytes]


def cca_maker(platform_key: KeySource) -> EvidenceMaker:
    """What makes evidence of a realm's token, for ``configfs_tsm.detect(makers=…)``."""

    def make(report: TsmReport) -> Evidence:
        if not 0 < len(report.outblob) <= MAX_REPORT_BYTES:
            raise TeeError(
                Reason.TEE_REPORT, f"configfs-tsm outblob: a token of at most {MAX_REPORT_BYTES} bytes expected"
            )
        return Evidence(EvidenceFormat.CCA, report.outblob, (), parts=((CPAK_PART, platform_key()),))

    return make


def key_file(path: Path) -> KeySource:
    """The platform's key in a file: PEM, DER, or a JSON Web Key; it is read again each time."""

    def read() -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_KEY_BYTES + 1)
        except OSError:
            hint = "place the platform's key (CPAK) there, as its maker publishes it: PEM, DER or JWK"
            raise TeeError(Reason.TEE_REPORT, f"no readable {path}: {hint}") from None
        try:
            return to_spki(content)
        except ValueError:
            raise TeeError(Reason.TEE_REPORT, f"{path}: a P-384 key as PEM, DER or JWK expected") from None

    return read


def to_spki(content: bytes) -> bytes:
    """DER SubjectPublicKeyInfo, with the uncompressed point, of the P-384 key in ``content``.

    Raises:
        ValueError: it is none.
    """
    if len(content) > _MAX_KEY_BYTES:
        raise ValueError("key: too large")
    text = content.strip()
    try:
        key = _load(content, text)
    except UnsupportedAlgorithm:
        raise ValueError("key: P-384 expected") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("key: P-384 expected")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load(content: bytes, text: bytes) -> object:
    if text.startswith(b"{"):
        return _from_jwk(text)
    return load_pem_public_key(text) if text.startswith(b"-----BEGIN ") else load_der_public_key(content)


def _from_jwk(text: bytes) -> ec.EllipticCurvePublicKey:
    """RFC 7517 and 7518, 6.2.1."""
    value = json.loads(text)
    if not isinstance(value, dict) or value.get("kty") != "EC" or value.get("crv") != _JWK_CURVE:
        raise ValueError("JWK: an EC key on P-384 expected")
    x, y = (_coordinate(value.get(name)) for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()


def _coordinate(text: object) -> int:
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("JWK: coordinates expected")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("JWK: base64url expected") from None
    if len(raw) != _COORDINATE_BYTES:
        raise ValueError("JWK: coordinates of 48 bytes expected")
    return int.from_bytes(raw, "big")
