"""A statement of a vendor that came without evidence: signed under a trusted root, or refused. Trust zone: every TEE.

A host may offer anything. Evidence is verified with its endorsements anyway; but whoever keeps one for later, and never
takes an older one again, must not be locked out by a forged one that calls itself the newest. Only kinds that order
themselves are kept: AMD's revocation lists, and Intel's collateral as a whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from trusted.attestation.collateral import Endorsement, EndorsementKind, recognise
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import certificates
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

_PEM = b"-----BEGIN "
_AMD = (EvidenceFormat.SNP, EvidenceFormat.AZURE_VTPM)
_INTEL = (EvidenceFormat.TDX, EvidenceFormat.SGX)
_P256_BYTES = 32
# As for the lists that come with evidence: a newer one means that somebody set the clock back.
_CLOCK_TOLERANCE = timedelta(hours=24)
_NOT_WELL_FORMED = (ValueError, TypeError, KeyError, NotImplementedError, x509.InvalidVersion, x509.DuplicateExtension)


def certificates_in(content: bytes) -> tuple[bytes, ...]:
    """DER of the certificates in ``content`` (DER or PEM); none where it is something else. Nothing is verified."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # AMD's serial number 0
            if content.lstrip().startswith(_PEM):
                found = x509.load_pem_x509_certificates(content)
            else:
                found = [x509.load_der_x509_certificate(content)]
            return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)
    except _NOT_WELL_FORMED:
        return ()


def verify_endorsement(
    content: bytes, roots: Sequence[TrustRoot], authorities: Sequence[bytes], now: datetime
) -> tuple[Endorsement, ...]:
    """What ``content`` says, which a pinned root signed.

    1. What it is; only a revocation list or Intel's collateral. 2. Its signatures, up to one of ``roots``. 3. That it
    was not issued in the future.

    Args:
        content: a file; whoever sent it may be lying.
        roots: what this side trusts.
        authorities: DER of certificates that came along; only those that ``roots`` pin are used.
        now: the time.

    Raises:
        WireError: too large.
        AttestationError: EVIDENCE_FORMAT: neither kind; CHAIN: under no such root; CERT_NOT_YET_VALID.
    """
    said = recognise(content)
    kinds = {item.kind for item in said}
    if kinds == {EndorsementKind.CRL}:
        _require_amd_list(content, roots, authorities)
    elif EndorsementKind.TCB_INFO in kinds:
        _require_intel(content, roots)
    else:
        raise AttestationError(
            Reason.EVIDENCE_FORMAT, "endorsement: a revocation list of AMD or Intel's collateral expected"
        )
    if any(item.issued is not None and item.issued > now + _CLOCK_TOLERANCE for item in said):
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "endorsement: issued more than a day after now")
    return said


def _require_amd_list(content: bytes, roots: Sequence[TrustRoot], authorities: Sequence[bytes]) -> None:
    trusted = {root.sha256 for root in roots if root.format in _AMD}
    for der in authorities:
        if sha256(der) not in trusted:
            continue
        ark = certificates.read_certificate(der, "ARK")
        certificates.require_authority(ark, path_length=None, signs_crl=True)
        try:
            certificates.read_crl(content, ark)
        except AttestationError:
            continue
        return
    detail = "CRL: signed by no trusted root that came along; keep AMD's cert_chain beside the list"
    raise AttestationError(Reason.CHAIN, detail)


def _require_intel(content: bytes, roots: Sequence[TrustRoot]) -> None:
    """Both statements and both lists, each under Intel's root (Intel PCS API, version 4; ECDSA with P-256, SHA-256)."""
    trusted = {root.sha256 for root in roots if root.format in _INTEL}
    try:
        fields: dict[str, str] = json.loads(content)
        for name in ("tcb_info", "qe_identity"):
            signer, _ = _chain(fields[f"{name}_issuer_chain"], trusted)
            _require_raw_signature(signer, bytes.fromhex(fields[f"{name}_signature"]), fields[name].encode())
        authority, root = _chain(fields["pck_crl_issuer_chain"], trusted)
        for name, issuer in (("pck_crl", authority), ("root_ca_crl", root)):
            crl = x509.load_der_x509_crl(bytes.fromhex(fields[name]))
            if crl.issuer != issuer.subject or not crl.is_signature_valid(_p256(issuer)):
                raise InvalidSignature
    except (*_NOT_WELL_FORMED, AttributeError, RecursionError, InvalidSignature):
        raise AttestationError(Reason.CHAIN, "collateral: Intel's signatures, up to a trusted root, expected") from None


def _chain(pem: str, trusted: set[bytes]) -> tuple[x509.Certificate, x509.Certificate]:
    """A signer and its root, which is one of ``trusted``; ValueError for anything else."""
    signer, root = x509.load_pem_x509_certificates(pem.encode())
    if sha256(root.public_bytes(Encoding.DER)) not in trusted:
        raise ValueError("a trusted root expected")
    signer.verify_directly_issued_by(root)
    return signer, root


def _require_raw_signature(signer: x509.Certificate, signature: bytes, signed: bytes) -> None:
    if len(signature) != 2 * _P256_BYTES:
        raise ValueError("r and s of 32 bytes expected")
    r, s = (int.from_bytes(half, "big") for half in (signature[:_P256_BYTES], signature[_P256_BYTES:]))
    _p256(signer).verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key: Any = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a P-256 key expected")
    return key
