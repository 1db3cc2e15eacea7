"""Does this SEV-SNP evidence hold: chain, revocation list, signature, and what ties them. Trust zone: every TEE.

Source: AMD 56860 and 57230; attestation.md 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted.attestation.claims import (
    FirmwareState,
    InstanceKey,
    Launch,
    Platform,
    SnpClaims,
    Tcb,
    TcbState,
)
from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.snp import SigningKey, UnverifiedSnpReport, parse
from trusted.attestation.products import GENOA, MILAN, PRODUCTS, Product
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import certificates
from trusted.attestation.verify.certificates import Certificate, RevocationList
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

_AMD = "1.3.6.1.4.1.3704.1"
_PRODUCT_NAME = f"{_AMD}.2"
_HARDWARE_ID = f"{_AMD}.4"
_CSP_ID = f"{_AMD}.5"
_SPL = {"bl": f"{_AMD}.3.1", "tee": f"{_AMD}.3.2", "snp": f"{_AMD}.3.3", "ucode": f"{_AMD}.3.8", "fmc": f"{_AMD}.3.9"}
_SPL_RESERVED = tuple(f"{_AMD}.3.{number}" for number in (4, 5, 6, 7))

_LOCATION = (
    (x509.NameOID.COUNTRY_NAME.dotted_string, "US"),
    (x509.NameOID.LOCALITY_NAME.dotted_string, "Santa Clara"),
    (x509.NameOID.STATE_OR_PROVINCE_NAME.dotted_string, "CA"),
    (x509.NameOID.ORGANIZATION_NAME.dotted_string, "Advanced Micro Devices"),
    (x509.NameOID.ORGANIZATIONAL_UNIT_NAME.dotted_string, "Engineering"),
)
_FIRST_PRODUCTS = (MILAN, GENOA)  # the ones that wrote version 2 reports
_CACHED_AUTHORITIES = 32
_CACHED_CHIPS = 1024  # a few kilobytes each; as many as a charter may have members


@dataclass(frozen=True, slots=True)
class _ClaimedAuthority:
    """What evidence brings along above the chip's certificate (DER), and what it must be made for."""

    ark: bytes
    ask: bytes
    crl: bytes
    product: str
    signing_key: SigningKey


@dataclass(frozen=True, slots=True, eq=False)
class _Authority:
    """Everything above the chip's certificate, with good signatures. Its dates are still to be compared with now.

    Equal to itself alone: what is remembered of a chip belongs to the very authority that it was verified under.
    """

    ask: Certificate
    ark: Certificate
    crl: RevocationList | None


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` under one of ``roots``, cheapest check first.

    1. The report is well formed.
    2. The chain's root is one of ``roots``, and is a root for the report's product.
    3. Root, intermediate and revocation list hold together; the list revokes neither. Dates fit.
    4. The chip's certificate is the intermediate's, and of the kind that the report names.
    5. The report is signed by it.
    6. The certificate speaks of the chip and of the TCB that the report speaks of.

    Raises:
        AttestationError: TRUST_ANCHOR, PRODUCT, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID, REVOKED, KEY_BINDING,
            EVIDENCE_SIGNATURE, TCB_BINDING, CHIP_BINDING, or what ``formats.snp.parse`` raises.
    """
    report = parse(evidence.report)  # 1
    if len(evidence.certificates) != 3:
        raise AttestationError(Reason.CHAIN, "certificates: exactly CEK, ASK and ARK expected")
    cek_der, ask_der, ark_der = evidence.certificates
    root, product = _trusted_root(ark_der, report, roots)  # 2
    authority = _authority(_ClaimedAuthority(ark_der, ask_der, evidence.crl, product.name, report.signing_key))  # 3
    _require_not_revoked(authority)
    for certificate in (authority.ark, authority.ask):
        certificates.require_valid_at(certificate, now)
    crl = certificates.crl_claim(authority.crl, now)
    cek = _chip(cek_der, authority, report.signing_key)  # 4
    certificates.require_valid_at(cek, now)
    _require_report_signature(report, cek)  # 5
    _require_tcb(report, cek, product)  # 6
    platform = _platform(report, product, _provider(report, cek, product))
    claims = SnpClaims(
        format=evidence.format,
        report_version=report.version,
        report_data=report.report_data,
        host_data=report.host_data,
        vmpl=report.vmpl,
        launch=_launch(report),
        platform=platform,
        crl=crl,
    )
    not_after = min(authority.ark.not_after, authority.ask.not_after, cek.not_after)
    return VerifiedEvidence(claims, root, not_after, evidence.digest)


def _trusted_root(ark_der: bytes, report: UnverifiedSnpReport, roots: Sequence[TrustRoot]) -> tuple[TrustRoot, Product]:
    """The root whose digest the chain ends in. A version 2 report has the product of its root."""
    digest = sha256(ark_der)
    matching = [root for root in roots if root.sha256 == digest]
    if not matching:
        raise AttestationError(Reason.TRUST_ANCHOR, "ARK: none of the trusted roots")
    candidates = _FIRST_PRODUCTS if report.product is None else (report.product,)
    for root in matching:
        product = PRODUCTS.get(root.product)
        if product is not None and product in candidates:
            return root, product
    raise AttestationError(Reason.PRODUCT, "report.cpuid: the product of the trusted root expected")


@lru_cache(maxsize=_CACHED_AUTHORITIES)
def _authority(claimed: _ClaimedAuthority) -> _Authority:
    """The checked ARK, ASK and list. Depends on its argument alone, so it is remembered: one site's machines share
    them, and three RSA verifications are half of the cost. Only chains under a trusted root get here."""
    ark = certificates.read_certificate(claimed.ark, "ARK")
    ask = certificates.read_certificate(claimed.ask, "ASK")
    infix, link = ("", "vcek") if claimed.signing_key is SigningKey.VCEK else ("VLEK-", "vlek")
    product = claimed.product
    _require_name(ark, f"ARK-{product}")
    _require_name(ask, f"SEV-{infix}{product}")
    certificates.require_authority(ark, path_length=None, signs_crl=True)
    certificates.require_authority(ask, path_length=0, signs_crl=False)
    certificates.require_issued_by(ark, ark)
    certificates.require_issued_by(ask, ark)
    _require_crl_link(ask, f"https://kdsintf.amd.com/{link}/v1/{product}/crl")
    return _Authority(ask, ark, certificates.read_crl(claimed.crl, ark) if claimed.crl else None)


def _require_name(certificate: Certificate, common_name: str) -> None:
    expected = sorted((*_LOCATION, (x509.NameOID.COMMON_NAME.dotted_string, common_name)))
    if certificate.subject != tuple(expected):
        raise AttestationError(Reason.CHAIN, f"{certificate.role}: AMD's name for {common_name} expected as subject")


def _require_crl_link(certificate: Certificate, link: str) -> None:
    """One link to one list, so that the list that came along is the list that this key was issued under."""
    try:
        points = list(certificate.parsed.get_extension_for_class(x509.CRLDistributionPoints).value)
    except x509.ExtensionNotFound:
        points = []
    names = [name for point in points for name in point.full_name or ()]
    if [getattr(name, "value", None) for name in names] != [link]:
        raise AttestationError(
            Reason.CHAIN, f"{certificate.role}: exactly one link, to AMD's revocation list, expected"
        )


def _require_not_revoked(authority: _Authority) -> None:
    """A stale list still revokes: revocation has no end."""
    if authority.crl is None:
        return
    for certificate in (authority.ark, authority.ask):
        if certificate.serial in authority.crl.revoked:
            raise AttestationError(Reason.REVOKED, f"{certificate.role}: revoked by its root")


@lru_cache(maxsize=_CACHED_CHIPS)
def _chip(der: bytes, authority: _Authority, signing_key: SigningKey) -> Certificate:
    """A certificate that is of the kind which the signed report names, and of no other (6.1, item 1).

    Depends on its arguments alone, so it is remembered: a chip attests again every few minutes. Its dates, and
    whether anything above it was revoked, are for the caller to ask each time.
    """
    cek = certificates.read_certificate(der, "CEK")
    certificates.require_issued_by(cek, authority.ask)
    _require_name(cek, f"SEV-{signing_key.name}")
    if any(extension.critical for extension in cek.extensions.values()):
        raise AttestationError(Reason.CHAIN, "CEK: no critical extension expected")
    if not isinstance(cek.key, ec.EllipticCurvePublicKey) or not isinstance(cek.key.curve, ec.SECP384R1):
        raise AttestationError(Reason.KEY_BINDING, "CEK: a P-384 key expected")
    return cek


def _require_report_signature(report: UnverifiedSnpReport, cek: Certificate) -> None:
    if not isinstance(cek.key, ec.EllipticCurvePublicKey):
        raise AttestationError(Reason.KEY_BINDING, "CEK: a P-384 key expected")
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    try:
        cek.key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "report: not signed by the CEK") from None


def _require_tcb(report: UnverifiedSnpReport, cek: Certificate, product: Product) -> None:
    """The key belongs to the TCB that the report says is its own, and that one is not above what runs."""
    certified = Tcb(tuple((name, _integer(_content(cek, _SPL[name]))) for name in product.tcb_names))
    reserved = [_integer(cek.extensions[oid].value) for oid in _SPL_RESERVED if oid in cek.extensions]
    # The reserved numbers are the reserved bytes of TCB_VERSION, except on Turin, where FMC has taken a byte.
    if certified != report.reported_tcb or any(reserved):
        raise AttestationError(Reason.TCB_BINDING, "report.reported_tcb: the TCB in the CEK's certificate expected")
    if "fmc" not in product.tcb_names and _SPL["fmc"] in cek.extensions:
        raise AttestationError(Reason.TCB_BINDING, "CEK: no FMC version expected for this product")
    for name, lower in (("reported_tcb", report.reported_tcb), ("committed_tcb", report.committed_tcb)):
        if report.current_tcb.below(lower):
            raise AttestationError(Reason.TCB_BINDING, f"report.{name}: at most the current TCB expected")
    if report.committed_firmware > report.current_firmware:
        raise AttestationError(Reason.TCB_BINDING, "report.committed_version: at most the current version expected")


def _provider(report: UnverifiedSnpReport, cek: Certificate, product: Product) -> str | None:
    """The cloud provider in a VLEK's certificate; None for a VCEK, which must be that of the report's chip."""
    name = _ia5_string(_content(cek, _PRODUCT_NAME))
    if name.partition("-")[0] != product.name:  # VCEKs may add a stepping, which is not the silicon's: Milan-B0
        raise AttestationError(Reason.PRODUCT, "CEK: the product of the trusted root expected")
    if report.signing_key is SigningKey.VLEK:
        if _HARDWARE_ID in cek.extensions:
            raise AttestationError(Reason.KEY_BINDING, "CEK: a VLEK names no chip")
        return _ia5_string(_content(cek, _CSP_ID))
    if _CSP_ID in cek.extensions:
        raise AttestationError(Reason.KEY_BINDING, "CEK: a VCEK names no provider")
    hardware_id = _octets(_content(cek, _HARDWARE_ID), product.hardware_id_bytes)
    if hardware_id.ljust(64, b"\x00") != report.chip_id or not any(hardware_id):
        raise AttestationError(Reason.CHIP_BINDING, "report.chip_id: the chip in the CEK's certificate expected")
    return None


def _content(certificate: Certificate, oid: str) -> bytes:
    extension = certificate.extensions.get(oid)
    if extension is None:
        raise AttestationError(Reason.KEY_BINDING, f"{certificate.role}: extension {oid} expected")
    return extension.value


def _integer(der: bytes) -> int:
    """A DER INTEGER of 0 to 255, in its only spelling."""
    number = int.from_bytes(der[2:], "big")
    size = 2 if number > 0x7F else 1
    if number > 0xFF or der != bytes([0x02, size]) + number.to_bytes(size, "big"):
        raise AttestationError(Reason.KEY_BINDING, "CEK: an INTEGER of 0 to 255 expected")
    return number


def _ia5_string(der: bytes) -> str:
    if len(der) < 3 or len(der) > 129 or der[0] != 0x16 or der[1] != len(der) - 2 or not der[2:].isascii():
        raise AttestationError(Reason.KEY_BINDING, "CEK: an IA5String of 1 to 127 characters expected")
    return der[2:].decode("ascii")


def _octets(der: bytes, size: int) -> bytes:
    """``size`` bytes, raw or as an OCTET STRING: AMD has issued both. Their lengths differ, so nothing is guessed."""
    if len(der) == size + 2 and der[:2] == bytes([0x04, size]):
        return der[2:]
    if len(der) != size:
        raise AttestationError(Reason.CHIP_BINDING, f"CEK: a hardware id of {size} bytes expected")
    return der


def _launch(report: UnverifiedSnpReport) -> Launch:
    id_key = report.id_key_digest if any(report.id_key_digest) else None
    return Launch(
        measurement=report.measurement,
        guest_svn=report.guest_svn,
        family_id=report.family_id,
        image_id=report.image_id,
        author_key=report.author_key_digest if report.author_key_enabled else None,
        id_key=id_key,
        debug="debug" in report.guest_flags,
        migratable="migrate_ma" in report.guest_flags or report.has_migration_agent,
        guest_flags=report.guest_flags - {"debug", "migrate_ma"},
        minimum_abi=report.minimum_abi,
        mitigations=report.launch_mitigations,
    )


def _platform(report: UnverifiedSnpReport, product: Product, provider: str | None) -> Platform:
    return Platform(
        product=product.name,
        line=report.line or product.name,
        hardware_id=report.chip_id,
        instance_key=InstanceKey.CHIP if provider is None else InstanceKey.PROVIDER,
        provider=provider,
        flags=report.platform_flags,
        tcb=TcbState(report.reported_tcb, report.current_tcb, report.committed_tcb, report.launch_tcb),
        firmware=FirmwareState(report.current_firmware, report.committed_firmware),
        mitigations=report.current_mitigations,
    )
