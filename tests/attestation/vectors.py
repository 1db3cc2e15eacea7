"""Real AMD evidence with its provenance, from CLOISTER_VECTORS (default ../shared/vectors); no part of the project."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.roots import amd_root

_DEFAULT = Path(__file__).parents[2] / ".." / "shared" / "vectors"
ROOTS = tuple(amd_root(product) for product in ("Milan", "Genoa", "Turin"))

SNP_NAMES = (
    "bad_milan_v2_tampered_vcek_legacy",
    "bad_milan_v2_tampered_vcek_new",
    "bad_milan_virtee_report_with_gosev_vcek",
    "genoa_v3_configfs_tsm",
    "genoa_v5_oak",
    "milan_v2",
    "milan_v2_debug",
    "milan_v3_dstack_2026",
    "milan_v3_oak_containers",
    "milan_v3_vlek_aws",
)


@dataclass(frozen=True, slots=True)
class Vector:
    """One real piece of evidence and what its provenance says about it."""

    evidence: Evidence
    cases: tuple[dict[str, Any], ...]
    expected: dict[str, Any]

    @property
    def valid_at(self) -> datetime:
        """A time at which the vector verifies."""
        return next(case_time(case) for case in self.cases if case["expect"] == "valid")


def case_time(case: dict[str, Any]) -> datetime:
    """When a case is to be verified."""
    return datetime.fromtimestamp(case["unix"], UTC)


def folder(*parts: str) -> Path:
    """A folder of vectors; the test is skipped where it is absent."""
    path = Path(os.environ.get("CLOISTER_VECTORS", _DEFAULT)).joinpath(*parts)
    if not path.is_dir():
        pytest.skip(f"no vendor vectors at {path}: set CLOISTER_VECTORS")
    return path


def pem_chain(path: Path) -> tuple[bytes, ...]:
    """The DER of each certificate of a PEM file."""
    certificates = x509.load_pem_x509_certificates(path.read_bytes())
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def load(name: str, *, crl: bytes = b"") -> Vector:
    """The SNP vector ``name``."""
    path = folder("snp", name)
    provenance = json.loads((path / "provenance.json").read_text())
    chain = ((path / "cek.der").read_bytes(), *pem_chain(path / "ask_ark.pem"))
    evidence = Evidence(EvidenceFormat.SNP, (path / "report.bin").read_bytes(), chain, crl)
    return Vector(evidence, tuple(provenance["cases"]), provenance["expected"])
