"""NVIDIA GPU vectors: ``report.bin``, ``cert_chain.pem``, of one GPU or several, and RIMs and OCSP responses with them.

A case names the manifest that it is about (``what``); without one it is about report and chain alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
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
    """The vector in ``folder``: one GPU, or all of one machine, in the order of their files."""
    gpus = tuple(_evidence(report, chain, _ocsp(folder)) for report, chain in _gpus(folder))
    reports = [parse(gpu.report) for gpu in gpus]
    expected = provenance.get("expected", {})
    loaded = Loaded(
        evidence=gpus[0],
        more=gpus[1:],
        roots=nvidia_roots(),
        policy=policy_for(*reports),
        expected_claims=lambda claims: from_set([from_claims(item) for item in _several(claims)], expected),
        parsed_claims=lambda: from_set([from_report(report) for report in reports], expected),
    )
    return replace(loaded, of_case=lambda case: _of_case(loaded, folder, case))


def _several(claims: Any) -> tuple[GpuClaims, ...]:
    return claims if isinstance(claims, tuple) else (claims,)


def _evidence(report: bytes, chain: bytes, ocsp: tuple[tuple[str, bytes], ...]) -> Evidence:
    certificates = [item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(chain)]
    return Evidence(EvidenceFormat.NVIDIA_GPU, report, tuple(certificates), parts=ocsp)


def _gpus(folder: Path) -> list[tuple[bytes, bytes]]:
    """Report and chain of each GPU: of a file for each, paired in the order of their names, in this folder or in one
    for each GPU, or of the list that NVIDIA's tools write."""
    listed = sorted(folder.glob("*evidence*.json"))
    if listed:
        items = json.loads(listed[0].read_text())
        return [(base64.b64decode(item["evidence"]), base64.b64decode(item["certificate"])) for item in items]
    reports, chains = (sorted(folder.rglob(pattern), key=_in_order) for pattern in ("*report*.bin", "*cert*.pem"))
    return [(a.read_bytes(), b.read_bytes()) for a, b in zip(reports, chains, strict=True)]


def _in_order(path: Path) -> list[Any]:
    """Numbers in a name count as numbers: the tenth GPU does not come second."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def from_set(gpus: list[dict[str, Any]], expected: Mapping[str, Any]) -> dict[str, Any]:
    """What all GPUs say alike, how many they are, and what each says, under every name that ``expected`` lists."""
    alike = {key: value for key, value in gpus[0].items() if all(gpu[key] == value for gpu in gpus)}
    lists = {key: gpus for key, value in expected.items() if isinstance(value, list)}
    return {**alike, **lists, "count": len(gpus), "gpu_count": len(gpus)}


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


def policy_for(*reports: UnverifiedGpuReport) -> NvidiaPolicy:
    """The strict template for what the reports measure. The debug state needs both manifests, which no vector has."""
    return replace(
        strict_nvidia_policy(sorted({_measurement(report) for report in reports})),
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
