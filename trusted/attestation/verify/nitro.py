"""Does this Nitro document hold: chain to AWS's root, and the signature over all of it. Trust zone: every TEE.

Source: aws-nitro-enclaves-nsm-api, ``docs/attestation_process.md``; attestation.md 1.2 and 6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification

from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.nitro import UnverifiedNitroDocument, parse
from trusted.attestation.nitro_claims import PRODUCT, NitroClaims
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.cose import require_signature
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

_CACHED_CHAINS = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` under one of ``roots``, cheapest check first.

    1. The document is well formed, and nothing came along beside it: it carries its chain itself.
    2. The first certificate of its bundle is one of ``roots``.
    3. The bundle is one chain from that root to the document's certificate, all of it valid at ``now``.
    4. The certificate speaks of the enclave that the document speaks of.
    5. The document is signed by it.

    Raises:
        AttestationError: EVIDENCE_FORMAT, TRUST_ANCHOR, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID, KEY_BINDING,
            EVIDENCE_SIGNATURE.
    """
    document = parse(evidence.report)  # 1
    if evidence.certificates or evidence.crl or evidence.parts:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "evidence: nothing beside the document expected")
    root = _trusted_root(document.cabundle[0], roots)  # 2
    chain = _chain((document.certificate, *reversed(document.cabundle)))  # 3
    for certificate in chain:
        _require_valid_at(certificate, now)
    key = _module_key(chain[0], document)  # 4
    require_signature(document.envelope, key, "document")  # 5
    claims = NitroClaims(
        module_id=document.module_id,
        timestamp=_EPOCH + timedelta(milliseconds=document.timestamp_ms),
        pcrs=document.pcrs,
        public_key=document.public_key,
        user_data=document.user_data,
        nonce=document.nonce,
    )
    not_after = min(certificate.not_valid_after_utc for certificate in chain)
    return VerifiedEvidence(claims, root, not_after, evidence.digest)


def _trusted_root(der: bytes, roots: Sequence[TrustRoot]) -> TrustRoot:
    digest = sha256(der)
    for root in roots:
        if root.sha256 == digest and root.product == PRODUCT:
            return root
    raise AttestationError(Reason.TRUST_ANCHOR, "document.cabundle: a trusted root first expected")


def _read(der: bytes, what: str) -> x509.Certificate:
    """A certificate on P-384, signed with ECDSA and SHA-384; what else it must be is for the path validation."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key, digest = certificate.public_key(), certificate.signature_hash_algorithm
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise AttestationError(Reason.CHAIN, f"{what}: an X.509 certificate in DER expected") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError(Reason.CHAIN, f"{what}: a P-384 key expected")
    if certificate.signature_algorithm_oid != x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384 or digest is None:
        raise AttestationError(Reason.CHAIN, f"{what}: a signature by ECDSA with SHA-384 expected")
    return certificate


def _require_valid_at(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise AttestationError(Reason.CERT_NOT_YET_VALID, "document.certificate: its chain is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise AttestationError(Reason.CERT_EXPIRED, "document.certificate: its chain is no longer valid")


@lru_cache(maxsize=_CACHED_CHAINS)
def _chain(certificates: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """The checked chain, leaf first; its dates are still to be compared with now. Depends on its argument alone, so it
    is remembered: an enclave attests again and again under one certificate. Only chains under a trusted root get here.
    """
    chain = tuple(_read(der, "document.certificate") for der in certificates)
    _require_chain(chain, max(certificate.not_valid_before_utc for certificate in chain))
    return chain


def _require_chain(chain: Sequence[x509.Certificate], at: datetime) -> None:
    """``chain``, leaf first, is one path as RFC 5280 has it, and no certificate in the bundle is left out of it."""
    leaf, *issuers, root = chain
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(at)
    policy = policy.extension_policies(ca_policy=_AUTHORITIES, ee_policy=_LEAF).max_chain_depth(len(issuers))
    try:
        path = policy.build_client_verifier().verify(leaf, issuers).chain
    except (verification.VerificationError, ValueError):
        raise AttestationError(Reason.CHAIN, "document.cabundle: no chain to its first certificate") from None
    if [item.public_bytes(Encoding.DER) for item in path] != [item.public_bytes(Encoding.DER) for item in chain]:
        raise AttestationError(Reason.CHAIN, "document.cabundle: the chain and nothing else, root first, expected")


def _authority(_: verification.Policy, certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("an authority expected")


def _end_entity(_: verification.Policy, certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if extension.ca:
        raise ValueError("no authority expected")


def _cert_signer(_: verification.Policy, certificate: x509.Certificate, extension: x509.KeyUsage) -> None:
    if not extension.key_cert_sign:
        raise ValueError("a key that signs certificates expected")


_AUTHORITIES = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, verification.Criticality.CRITICAL, _authority)
    .require_present(x509.KeyUsage, verification.Criticality.CRITICAL, _cert_signer)
)
_LEAF = verification.ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, verification.Criticality.CRITICAL, _end_entity
)


def _module_key(leaf: x509.Certificate, document: UnverifiedNitroDocument) -> ec.EllipticCurvePublicKey:
    """The leaf's key. Its common name is the module id, the region and the word ``aws``."""
    names = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if len(names) != 1 or not str(names[0].value).startswith(f"{document.module_id}."):
        raise AttestationError(Reason.KEY_BINDING, "document.certificate: the name of the document's module expected")
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise AttestationError(Reason.KEY_BINDING, "document.certificate: a P-384 key expected")
    return key
