"""Whether a COSE_Sign1 holds under a key: ES384 and nothing else (RFC 9053, 2.1). Trust zone: every TEE."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted.attestation.formats.cose import UnverifiedSign1
from trusted.errors import AttestationError, Reason

_HALF = 48


def require_signature(envelope: UnverifiedSign1, key: ec.EllipticCurvePublicKey, what: str) -> None:
    """``key`` (P-384) signed ``envelope``.

    Raises:
        AttestationError: EVIDENCE_SIGNATURE.
    """
    r, s = (int.from_bytes(half, "big") for half in (envelope.signature[:_HALF], envelope.signature[_HALF:]))
    try:
        key.verify(encode_dss_signature(r, s), envelope.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, f"{what}: not signed by its key") from None
