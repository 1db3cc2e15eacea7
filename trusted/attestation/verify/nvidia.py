"""Does this GPU evidence hold: chain, signature, firmware, reference values, revocation. Trust zone: every TEE.

Source: attestation.md 7.2; DMTF DSP0274 1.1; TCG DICE. Certificates of devices never run out (they end in the year
9999), so only OCSP can take one back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted.attestation.anchors import NVIDIA_DEVICE, NVIDIA_RIM
from trusted.attestation.evidence import Evidence
from trusted.attestation.formats.spdm import UnverifiedGpuReport, parse
from trusted.attestation.gpu_claims import DebugState, GpuClaims, GpuMode, RimClaim, RimKind
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import dice, ocsp, p384_chain
from trusted.attestation.verify.dice import FirmwareIdentity
from trusted.attestation.verify.rim import TrustedManifest, verify_manifest
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

CHAIN_LENGTH = 5  # firmware's key, device, provisioner, architecture, root
_CACHED_DEVICES = 256
OCSP_PART = "ocsp"
_PARTS = frozenset({OCSP_PART, *(kind.value for kind in RimKind)})
# GB20X heads a family of chips: its provisioners and devices say which, such as GB202.
_ARCHITECTURE = re.compile(r"NVIDIA (?P<chip>(?P<family>G[HB])[0-9]{2}[0-9X]) Identity")
_PRODUCTS = {"GH": "Hopper", "GB": "Blackwell"}
_MODES = {None: GpuMode.UNSTATED, 0: GpuMode.SPT, 1: GpuMode.MPT, 2: GpuMode.PPCIE}


@dataclass(frozen=True, slots=True)
class _Device:
    """A device's chain that holds, leaf first. Its dates are still to be compared with now."""

    chain: tuple[x509.Certificate, ...]
    firmware: FirmwareIdentity
    chip: str
    product: str


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` under one of ``roots``, cheapest check first.

    1. The report is well formed, and no part came along that nobody reads.
    2. Five certificates lead from the report's key to a trusted device root, at ``now``.
    3. The report is signed by that key.
    4. The certificate speaks of the firmware that the report speaks of.
    5. No certificate is revoked or on hold, as far as the responses that came along say.
    6. Each manifest that came along is signed, is of the report's version and chip, and matches every measurement
       that it names.

    The result stands on the weakest of the roots that it needed.

    Raises:
        AttestationError: EVIDENCE_FORMAT, RESERVED_NOT_ZERO, TRUST_ANCHOR, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID,
            PRODUCT, EVIDENCE_SIGNATURE, KEY_BINDING, REVOKED, FIRMWARE_VERSION, MEASUREMENT.
    """
    report = parse(evidence.report)  # 1
    _require_known_parts(evidence)
    root = _trusted_root(evidence, roots)  # 2
    device = _device(evidence.certificates)
    not_after = p384_chain.require_dates(device.chain, "certificates", now)
    _require_signature(report, device.chain[0])  # 3
    if report.fwid is not None and report.fwid != device.firmware.fwid:  # 4
        raise AttestationError(Reason.KEY_BINDING, "report.opaque.fwid: the firmware in the leaf certificate expected")
    revocation = ocsp.check(device.chain, ocsp.split(evidence.part(OCSP_PART)), now)  # 5
    manifests = _manifests(evidence, [root for root in roots if root.product == NVIDIA_RIM], now)
    rims = tuple(_match(kind, trusted, report, device.chip) for kind, trusted in manifests)  # 6
    claims = GpuClaims(
        format=evidence.format,
        report_data=report.nonce,
        measurements=report.measurements,
        measurement=hashlib.sha384(b"".join(report.measurements)).digest(),
        product=device.product,
        hardware_id=sha256(p384_chain.spki(device.chain[1])),
        ueid=device.chain[0].serial_number,
        chip=device.chip,
        driver_version=report.driver_version,
        vbios_version=report.vbios_version,
        vbios_raw=report.vbios_raw,
        board=report.board,
        fwid=report.fwid,
        mode=_mode(report),
        debug=_debug_state(device.firmware.insecure, rims),
        rims=rims,
        ocsp=revocation,
    )
    weakest = min((root, *(trusted.root for _, trusted in manifests)), key=lambda root: root.assurance.rank)
    return VerifiedEvidence(claims, weakest, min((not_after, *(rim.not_after for rim in rims))), evidence.digest)


def _require_known_parts(evidence: Evidence) -> None:
    """What nobody reads must not travel: it would be an unsigned corner of the evidence."""
    if evidence.crl or not _PARTS.issuperset(name for name, _ in evidence.parts):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"parts: {', '.join(sorted(_PARTS))} and no list expected")


def _trusted_root(evidence: Evidence, roots: Sequence[TrustRoot]) -> TrustRoot:
    if len(evidence.certificates) != CHAIN_LENGTH:
        raise AttestationError(Reason.CHAIN, f"certificates: exactly {CHAIN_LENGTH} expected")
    digest = sha256(evidence.certificates[-1])
    for root in roots:
        if root.product == NVIDIA_DEVICE and root.sha256 == digest:
            return root
    raise AttestationError(Reason.TRUST_ANCHOR, "certificates: the last is none of the trusted device roots")


@lru_cache(maxsize=_CACHED_DEVICES)
def _device(certificates: tuple[bytes, ...]) -> _Device:
    """The checked chain. Depends on its argument alone, so it is remembered: a GPU attests again and again. Only chains
    that end in a trusted root get here."""
    chain = tuple(p384_chain.read(der, f"certificates[{place}]") for place, der in enumerate(certificates))
    p384_chain.verify_path(chain, "certificates")
    architecture = _ARCHITECTURE.fullmatch(_common_name(chain[3]))
    if architecture is None:
        raise AttestationError(Reason.PRODUCT, "certificates: a GPU architecture that this release knows expected")
    chip = architecture["chip"]
    if not _common_name(chain[1]).startswith(f"{chip} "):
        # The architecture of Hopper GPUs vouches for the NVSwitches beside them too: LS_10 under GH100.
        raise AttestationError(Reason.PRODUCT, "certificates: a device of the GPU architecture itself expected")
    firmware = dice.firmware_identity(chain[0])
    return _Device(chain, firmware, chip, _PRODUCTS[architecture["family"]])


def _common_name(certificate: x509.Certificate) -> str:
    """The subject's, or nothing where it has none or several."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _require_signature(report: UnverifiedGpuReport, leaf: x509.Certificate) -> None:
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    try:
        key = p384_chain.key_of(leaf.public_key(), "certificates[0]")
        key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "report: not signed by the device's firmware") from None


def _manifests(
    evidence: Evidence, roots: Sequence[TrustRoot], now: datetime
) -> tuple[tuple[RimKind, TrustedManifest], ...]:
    """Those that came along, each verified for itself."""
    present = [kind for kind in RimKind if evidence.part(kind.value)]
    return tuple((kind, verify_manifest(evidence.part(kind.value), kind, roots, now)) for kind in present)


def _match(kind: RimKind, trusted: TrustedManifest, report: UnverifiedGpuReport, chip: str) -> RimClaim:
    """Every measurement that the manifest names is one of its values; measurement i is block i+1."""
    manifest = trusted.manifest
    version = report.driver_version if kind is RimKind.DRIVER else report.vbios_version
    if manifest.version != version:
        raise AttestationError(Reason.FIRMWARE_VERSION, f"{kind.value}: the manifest of the report's version expected")
    if manifest.chip != chip:
        raise AttestationError(Reason.PRODUCT, f"{kind.value}: the manifest of the device's chip expected")
    for index, good in manifest.measurements.items():
        if index >= len(report.measurements) or report.measurements[index] not in good:
            raise AttestationError(Reason.MEASUREMENT, f"{kind.value}: measurement {index} is not the reference's")
    return RimClaim(kind, manifest.version, manifest.tag, len(manifest.measurements), trusted.not_after)


def _mode(report: UnverifiedGpuReport) -> GpuMode:
    if report.feature_flag not in _MODES:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "report.opaque.feature_flag: a mode that is known expected")
    return _MODES[report.feature_flag]


def _debug_state(insecure: bool | None, rims: tuple[RimClaim, ...]) -> DebugState:
    """``off`` needs both manifests: no field of the report names a developer mode, only what is measured differs."""
    if insecure:
        return DebugState.ON
    return DebugState.OFF if {rim.kind for rim in rims} == set(RimKind) else DebugState.UNKNOWN
