"""NVIDIA's reference integrity manifests: SWID tags signed with XML-DSig. Trust zone: every TEE.

The evidence's sender supplies the file, so it is bounded, has no document type (no entities), and nothing is
fetched; its signer must lead to a trusted RIM root, and only what the signature covers is read. Source: TCG RIM
Information Model 1.01; W3C XML-DSig 1.1; attestation.md 1.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.formats.spdm import DIGEST_BYTES
from trusted.attestation.gpu_claims import RimKind
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import p384_chain
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

MAX_RIM_BYTES = 256 << 10
_CACHED = 8
_MAX_CERTIFICATES = 6
_MAX_ALTERNATIVES = 16
_MAX_INDEX = 254
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
# The certificates stand in the signature block, which signs neither itself nor them; their chain is verified here.
_DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
_CERTIFICATES = f"{_DSIG}Signature/{_DSIG}KeyInfo/{_DSIG}X509Data/{_DSIG}X509Certificate"
_DECLARATION = re.compile(rb"\A<\?xml [^<>?]{1,100}\?>")
_VERSION = re.compile(r"[0-9A-Za-z._-]{1,32}")
_TAG = re.compile(r"[0-9A-Za-z._-]{1,128}")
_DIGEST = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest's signer says.

    Attributes:
        version: of the driver or VBIOS that it is about.
        chip: which GPU, such as ``GH100``.
        tag: the manifest's id.
        measurements: the digests that are good, by measurement (from 0); those not named may be anything.
        signers: the chain behind the signature, signer first. Its dates are still to be compared with now.
    """

    version: str
    chip: str
    tag: str
    measurements: Mapping[int, tuple[bytes, ...]]
    signers: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class TrustedManifest:
    """A manifest that holds now.

    Attributes:
        manifest: what it says.
        root: the trusted root of its signer.
        not_after: when the first certificate of its signer runs out.
    """

    manifest: Manifest
    root: TrustRoot
    not_after: datetime


def verify_manifest(xml: bytes, kind: RimKind, roots: Sequence[TrustRoot], now: datetime) -> TrustedManifest:
    """The manifest in ``xml``, whose sender may be lying, under one of ``roots`` at ``now``.

    Raises:
        AttestationError: EVIDENCE_FORMAT, CHAIN, TRUST_ANCHOR, CERT_EXPIRED, CERT_NOT_YET_VALID, EVIDENCE_SIGNATURE.
    """
    by_digest = {root.sha256: root for root in roots}
    manifest = _manifest(xml, kind.value, frozenset(by_digest))
    not_after = p384_chain.require_dates(manifest.signers, kind.value, now)
    root = by_digest[sha256(manifest.signers[-1].public_bytes(Encoding.DER))]
    return TrustedManifest(manifest, root, not_after)


@lru_cache(maxsize=_CACHED)
def _manifest(xml: bytes, role: str, trusted: frozenset[bytes]) -> Manifest:
    """The signed manifest. Depends on its arguments alone, so it is remembered: all GPUs of a kind share two."""
    document = _parse(xml, role)
    signers = _signers(document, role)
    if sha256(signers[-1].public_bytes(Encoding.DER)) not in trusted:
        raise AttestationError(Reason.TRUST_ANCHOR, f"{role}: signed under none of the trusted roots")
    p384_chain.walk(signers, role)
    signed = _signed_part(document, role, signers[0])
    version, chip, tag = _identity(signed, role)
    return Manifest(version, chip, tag, MappingProxyType(_measurements(signed, role)), signers)


def _parse(xml: bytes, role: str) -> Any:
    """The root element of ``xml``, which declares nothing, includes nothing and is no larger than it must be."""
    try:
        from lxml import etree
    except ImportError:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: install the extra `gpu-rim`") from None
    body = _DECLARATION.sub(b"", xml, count=1)
    if len(xml) > MAX_RIM_BYTES or b"<!" in body or b"<?" in body:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: plain XML of at most {MAX_RIM_BYTES} bytes expected")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(xml, parser=parser)
    except (etree.XMLSyntaxError, ValueError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: well-formed XML expected") from None


def _signers(document: Any, role: str) -> tuple[x509.Certificate, ...]:
    """The certificates of the signature block, signer first."""
    found = [(item.text or "").encode("ascii", "replace") for item in document.findall(_CERTIFICATES)]
    if not 2 <= len(found) <= _MAX_CERTIFICATES:
        raise AttestationError(Reason.CHAIN, f"{role}: 2 to {_MAX_CERTIFICATES} certificates of the signer expected")
    try:
        ders = [base64.b64decode(b"".join(text.split()), validate=True) for text in found]
    except binascii.Error:
        raise AttestationError(Reason.CHAIN, f"{role}: certificates in Base64 expected") from None
    return tuple(p384_chain.read(der, role) for der in ders)


def _signed_part(document: Any, role: str, signer: x509.Certificate) -> Any:
    """The root element as the signature covers it, and nothing that it does not cover.

    Raises:
        AttestationError: EVIDENCE_FORMAT, EVIDENCE_SIGNATURE.
    """
    try:
        from lxml.etree import LxmlError
        from signxml.algorithms import DigestAlgorithm, SignatureMethod
        from signxml.exceptions import SignXMLException
        from signxml.verifier import SignatureConfiguration, XMLVerifier
    except ImportError:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: install the extra `gpu-rim`") from None
    wanted = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=signer.not_valid_before_utc,  # dates are compared with now by the caller
    )
    try:
        result = XMLVerifier().verify(document, x509_cert=signer, expect_config=wanted)
    except (SignXMLException, LxmlError, ValueError, TypeError, KeyError):
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, f"{role}: not signed by its signer") from None
    covered = result.signed_xml if not isinstance(result, list) else None
    if covered is None or covered.tag != f"{_SWID}SoftwareIdentity":
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, f"{role}: a signature over the whole tag expected")
    return covered


def _identity(signed: Any, role: str) -> tuple[str, str, str]:
    """Version, chip and tag id."""
    metas = signed.findall(f"{_SWID}Meta")
    if len(metas) != 1:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: one Meta element expected")
    version, chip, tag = metas[0].get("colloquialVersion", ""), metas[0].get("product", ""), signed.get("tagId", "")
    if not (_VERSION.fullmatch(version) and _VERSION.fullmatch(chip) and _TAG.fullmatch(tag)):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: version, product and tag id expected")
    return version, chip, tag


def _measurements(signed: Any, role: str) -> dict[int, tuple[bytes, ...]]:
    """The active measurements; at least one, or the manifest would vouch for anything."""
    found: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for resource in signed.findall(f"{_SWID}Payload/{_SWID}Resource"):
        if resource.get("type") != "Measurement":
            continue
        index = _number(resource.get("index"), _MAX_INDEX, role)
        if index in seen or resource.get("active") not in ("True", "False"):
            raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: each measurement once, active or not, expected")
        seen.add(index)
        if resource.get("active") == "True":
            count = _number(resource.get("alternatives"), _MAX_ALTERNATIVES, role)
            found[index] = tuple(_digest(resource.get(f"{_HASH}{place}"), role) for place in range(count))
    if not found or not all(found.values()):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: active measurements with digests expected")
    return found


def _number(text: str | None, most: int, role: str) -> int:
    if text is None or not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > most:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: numbers of 0 to {most} expected")
    return int(text)


def _digest(text: str | None, role: str) -> bytes:
    if text is None or not _DIGEST.fullmatch(text):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{role}: digests of {DIGEST_BYTES} bytes expected")
    return bytes.fromhex(text)
