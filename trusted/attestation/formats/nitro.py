"""The attestation document of an AWS Nitro Enclave, bytes to fields. Trust zone: every TEE.

An untagged COSE_Sign1 by ES384 around a CBOR map. The signature covers every field; the certificates that it is
verified with stand in the map too. Sizes are those of the format's own description.
Source: aws-nitro-enclaves-nsm-api, ``docs/attestation_process.md``; attestation.md 1.1 and 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.formats import cbor
from trusted.attestation.formats.cbor import Value
from trusted.attestation.formats.claim_map import ClaimMap
from trusted.attestation.formats.cose import UnverifiedSign1, parse_sign1

PCR_BYTES = 48
_MAX_PCRS = 32
_DEBUG_PCRS = (0, 1, 2)  # all zero in debug mode, so a document without them does not say which mode it was
_DIGEST = "SHA384"
_CERTIFICATE_BYTES = range(1, 1025)
_MAX_CABUNDLE = 7  # with the leaf no more than the eight certificates of other evidence
_PUBLIC_KEY_BYTES = range(1, 1025)
_USER_BYTES = range(513)
_MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class UnverifiedNitroDocument:
    """A well-formed document that anybody may have written. Names are AWS's.

    Attributes:
        module_id: ``i-…-enc…``: the parent instance and one start of an enclave on it.
        timestamp_ms: UTC, milliseconds since 1970.
        pcrs: (index, 48 bytes), in the order of indices; always those of :data:`_DEBUG_PCRS`.
        certificate: DER of the key that signed it.
        cabundle: DER, root first.
        public_key, user_data, nonce: what the enclave put in; None where it put nothing.
        envelope: what was signed, and the signature.
    """

    module_id: str
    timestamp_ms: int
    pcrs: tuple[tuple[int, bytes], ...]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    envelope: UnverifiedSign1


def parse(report: bytes) -> UnverifiedNitroDocument:
    """The fields of ``report``, whose sender may be lying about all of them.

    Raises:
        AttestationError: EVIDENCE_FORMAT; the detail names the field.
    """
    envelope = parse_sign1(report, "document", tagged=False)
    with ClaimMap(cbor.decode(envelope.payload, "document", streamed=True), "document") as claims:
        if claims.text("digest", "digest") != _DIGEST:
            claims.refuse(f"digest: {_DIGEST} expected")
        return UnverifiedNitroDocument(
            module_id=_module_id(claims),
            timestamp_ms=claims.unsigned("timestamp", "timestamp", high=_MAX_TIMESTAMP_MS),
            pcrs=_pcrs(claims),
            certificate=claims.octets("certificate", "certificate", _CERTIFICATE_BYTES),
            cabundle=_cabundle(claims),
            public_key=claims.optional_octets("public_key", "public_key", _PUBLIC_KEY_BYTES),
            user_data=claims.optional_octets("user_data", "user_data", _USER_BYTES),
            nonce=claims.optional_octets("nonce", "nonce", _USER_BYTES),
            envelope=envelope,
        )


def _module_id(claims: ClaimMap) -> str:
    module_id = claims.text("module_id", "module_id", max_length=128)
    if not module_id.isascii() or not module_id.isprintable():
        claims.refuse("module_id: printable ASCII expected")
    return module_id


def _pcrs(claims: ClaimMap) -> tuple[tuple[int, bytes], ...]:
    value: Value = claims.take("pcrs", "pcrs")
    if not isinstance(value, dict) or not value.keys() >= set(_DEBUG_PCRS):
        claims.refuse("pcrs: a map with PCR 0, 1 and 2 expected")
    with ClaimMap(value, "document.pcrs") as pcrs:
        indices = [index for index in range(_MAX_PCRS) if index in value]
        return tuple((index, pcrs.octets(index, f"PCR {index}", (PCR_BYTES,))) for index in indices)


def _cabundle(claims: ClaimMap) -> tuple[bytes, ...]:
    bundle: list[bytes] = []
    for certificate in claims.items("cabundle", "cabundle", max_items=_MAX_CABUNDLE):
        if not isinstance(certificate, bytes) or len(certificate) not in _CERTIFICATE_BYTES:
            claims.refuse("cabundle: certificates of at most 1024 bytes expected")
        bundle.append(certificate)
    return tuple(bundle)
