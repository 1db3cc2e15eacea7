"""A COSE_Sign1 envelope, bytes to fields (RFC 9052, 4.2). Trust zone: every TEE.

One algorithm, ES384, named in the protected header and nowhere else. The unprotected header is not signed, so it must
be empty: an envelope has one spelling.
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.formats import cbor
from trusted.attestation.formats.cbor import Tagged, Value
from trusted.errors import AttestationError, Reason

_SIGN1_TAG = 18
_PROTECTED = cbor.encode({1: -35})  # alg: ES384
_SIGNATURE_BYTES = 96  # r and s, 48 bytes each, big-endian


@dataclass(frozen=True, slots=True)
class UnverifiedSign1:
    """A payload that somebody may have signed.

    Attributes:
        payload: bytes, not parsed yet.
        signature: r and s, 48 bytes each.
    """

    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature is over: ``Sig_structure`` without external data."""
        return cbor.encode(("Signature1", _PROTECTED, b"", self.payload))


def parse_sign1(data: bytes, what: str, *, tagged: bool) -> UnverifiedSign1:
    """The envelope in ``data``; ``tagged`` says whether its format writes the tag 18 in front.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    return read_sign1(cbor.decode(data, what), what, tagged=tagged)


def read_sign1(value: Value, what: str, *, tagged: bool) -> UnverifiedSign1:
    """The envelope that the decoded ``value`` is.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    if tagged:
        if not isinstance(value, Tagged) or value.tag != _SIGN1_TAG:
            raise AttestationError(Reason.EVIDENCE_FORMAT, f"{what}: a COSE_Sign1 under tag {_SIGN1_TAG} expected")
        value = value.value
    if not isinstance(value, tuple) or len(value) != 4:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{what}: a COSE_Sign1 of four fields expected")
    protected, unprotected, payload, signature = value
    if protected != _PROTECTED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{what}: ES384 alone in the protected header expected")
    if unprotected != {}:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{what}: an empty unprotected header expected")
    if not isinstance(payload, bytes) or not isinstance(signature, bytes) or len(signature) != _SIGNATURE_BYTES:
        raise AttestationError(
            Reason.EVIDENCE_FORMAT, f"{what}: a payload and a signature of {_SIGNATURE_BYTES} bytes expected"
        )
    return UnverifiedSign1(payload, signature)
