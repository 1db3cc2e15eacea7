"""NVIDIA GPU vectors: ``report.bin``, ``cert_chain.pem``, and RIMs and OCSP responses where they came along.

A case names the manifest that it is about (``what``); without one it is about report and chain alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.attestation.from_vector import Loaded
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.spdm import UnverifiedGpuReport, parse
from trusted.attestation.gpu_claims import GpuClaims, GpuMode, RimKind
from trusted.attestation.policies.nvidia import NvidiaPolicy, strict_nvidia_policy
from trusted.attestation.policies.rules import Permission, Skip
from trusted.attestation.roots import nvidia_roots

_MODES = (GpuMode.SPT, GpuMode.MPT, GpuMode.PPCIE)
_OLD = Skip("an old machine's report")


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    chain = x509.load_pem_x509_certificates((folder / "cert_chain.pem").read_bytes())
    evidence = Evidence(
        EvidenceFormat.NVIDIA_GPU,
        (folder / "report.bin").read_bytes(),
        tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
        parts=_ocsp(folder),
    )
    report = parse(evidence.report)
    loaded = Loaded(
        evidence=evidence,
        roots=nvidia_roots(),
        policy=policy_for(report),
        expected_claims=from_claims,
        parsed_claims=lambda: from_report(report),
    )
    return replace(loaded, of_case=lambda case: _of_case(loaded, folder, case))


def _ocsp(folder: Path) -> tuple[tuple[str, bytes], ...]:
    responses = [path.read_bytes() for path in sorted(folder.glob("*ocsp*")) if path.suffix in (".der", ".bin")]
    content = b"".join(len(response).to_bytes(4, "big") + response for response in responses)
    return (("ocsp", content),) if content else ()


def _of_case(loaded: Loaded, folder: Path, case: Mapping[str, Any]) -> Loaded:
    """The vector with the manifests that the case names."""
    named = [path for path in sorted(folder.glob("*.swidtag")) if path.name in str(case.get("what", ""))]
    parts = {_kind(path).value: path.read_bytes() for path in named} | dict(loaded.evidence.parts)
    return replace(loaded, evidence=replace(loaded.evidence, parts=tuple(sorted(parts.items()))))


def _kind(path: Path) -> RimKind:
    return RimKind.DRIVER if "driver" in path.name.lower() else RimKind.VBIOS


def policy_for(report: UnverifiedGpuReport) -> NvidiaPolicy:
    """The strict template for what the report measures. The debug state needs both manifests, which no vector has."""
    return replace(
        strict_nvidia_policy([_measurement(report)]),
        rims=Skip("not every manifest came along"),
        debug=Permission.ALLOW,
        driver_versions=_OLD,
        modes=_OLD,
        ocsp=Skip("no responses of its time came along"),
    )


def _measurement(report: UnverifiedGpuReport) -> bytes:
    return hashlib.sha384(b"".join(report.measurements)).digest()


def from_report(report: UnverifiedGpuReport) -> dict[str, Any]:
    """What the parser reads, in the words of the provenance files."""
    return {
        "nonce": report.nonce.hex(),
        "driver_version": report.driver_version,
        "vbios_version": report.vbios_version,
        "vbios_version_raw": report.vbios_raw.hex(),
        "project": report.board.project,
        "project_sku": report.board.project_sku,
        "chip_sku": report.board.chip_sku,
        "feature_flag": None if report.feature_flag is None else _MODES[report.feature_flag].value,
        "fwid": None if report.fwid is None else report.fwid.hex(),
        "measurement_blocks": len(report.measurements),
    }


def from_claims(claims: GpuClaims) -> dict[str, Any]:
    """What verified claims say, where a policy can see it."""
    return {
        "nonce": claims.report_data.hex(),
        "driver_version": claims.driver_version,
        "vbios_version": claims.vbios_version,
        "vbios_version_raw": claims.vbios_raw.hex(),
        "project": claims.board.project,
        "project_sku": claims.board.project_sku,
        "chip_sku": claims.board.chip_sku,
        "feature_flag": None if claims.mode is GpuMode.UNSTATED else claims.mode.value,
        "fwid": None if claims.fwid is None else claims.fwid.hex(),
        "measurement_blocks": len(claims.measurements),
    }
