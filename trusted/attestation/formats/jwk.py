"""RSA keys as JSON Web Keys, and the base64url that they are written in. Trust zone: every TEE.

Source: RFC 7515, RFC 7517.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trusted.attestation.formats import foreign_json
from trusted.errors import AttestationError, Reason

_EXPONENT = "AQAB"  # 65537, the only one
_BITS = (2048, 3072, 4096)


@dataclass(frozen=True, slots=True)
class UnverifiedRsaKey:
    """One key: its id, and the modulus that goes with the exponent 65537."""

    kid: str
    modulus: int


def parse_rsa(value: Mapping[str, Any], name: str) -> UnverifiedRsaKey:
    """The key in ``value``.

    Raises:
        AttestationError: EVIDENCE_FORMAT, not an RSA key of 2048, 3072 or 4096 bits with the exponent 65537.
    """
    kid = foreign_json.field(value, "kid", str, name)
    modulus = int.from_bytes(base64url(foreign_json.field(value, "n", str, name), f"{name}.n"), "big")
    if value.get("kty") != "RSA" or value.get("e") != _EXPONENT or modulus.bit_length() not in _BITS:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{name}: an RSA key with the exponent 65537 expected")
    return UnverifiedRsaKey(kid, modulus)


def base64url(text: str, name: str) -> bytes:
    """The bytes of ``text``, in the one spelling without padding.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not text or base64.urlsafe_b64encode(content).rstrip(b"=") != text.encode("utf-8"):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{name}: base64url without padding expected")
    return content
