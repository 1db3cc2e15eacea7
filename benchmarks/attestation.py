"""Verifications a second of one core for each format, and admissions end to end. Trust zone: developer's machine.

SNP always runs, on evidence of a software chip: the cryptography is the real one. The other formats need real evidence
(``CLOISTER_VECTORS``), through the same loaders as the tests; what has no vector is not measured, and so not listed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.command import Benchmark, Outcome, table
from benchmarks.consortium import Admission
from simulations.costs.machine import machine
from simulations.costs.measured import Measurement, measure
from softtee.certificates import revocation_list
from softtee.chip import SoftwareRoot
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.roots import TrustRoot
from trusted.errors import AttestationError

_UNSEEN_LISTS = 64
_ANY_TIME = datetime(2026, 11, 1, tzinfo=UTC)
# attestation.md section 3, in milliseconds: what a verification cost there.
_COST_TABLE: Mapping[str, float] = MappingProxyType(
    {"snp": 0.57, "tdx": 0.44, "sgx": 0.44, "nitro": 2.0, "nvidia": 1.8, "tpm": 0.07, "cca": 0.7, "azure_vtpm": 1.1}
)


@dataclass(frozen=True, slots=True)
class _Genuine:
    """Evidence that verifies, and when."""

    name: str
    evidence: Evidence
    roots: tuple[TrustRoot, ...]
    at: datetime


def _yardstick(seconds: float) -> Measurement:
    """One signature check, to compare machines by: the cost table's own machine took 0.31 ms."""
    key = ec.generate_private_key(ec.SECP384R1())
    scheme = ec.ECDSA(hashes.SHA384())
    signature, public = key.sign(b"yardstick", scheme), key.public_key()

    def check() -> None:
        public.verify(signature, b"yardstick", scheme)

    return measure("yardstick: ECDSA P-384 alone", check, seconds, cost_table_ms=0.31)


def measure_attestation(seconds: float) -> list[Measurement]:
    """Every measurement of this file, each repeated for ``seconds``."""
    now = datetime.now(UTC).replace(microsecond=0)
    root = SoftwareRoot.create(now=now)
    return [_yardstick(seconds), *_software(root, now, seconds), *_vectors(seconds), *_admissions(root, now, seconds)]


def _software(root: SoftwareRoot, now: datetime, seconds: float) -> Iterator[Measurement]:
    report_data, measurement, host_data = b"\x01" * 64, b"\x02" * 48, b"\x03" * 32
    chip = root.issue_chip(now=now)
    evidence = chip.attest(report_data=report_data, measurement=measurement, host_data=host_data)
    roots = (root.trust_root,)
    yield measure("verify snp (software chip)", lambda: verify(evidence, roots, now), seconds, cost_table_ms=0.57)
    yield measure("verify snp (a chain not seen before)", _unseen(evidence, root, now), seconds, cost_table_ms=0.57)
    verified, policy = verify(evidence, roots, now), development_snp_policy([measurement])
    expected = Expected(report_data, host_data)
    yield measure("appraise snp", lambda: appraise(verified, policy, expected, now), seconds)


def _unseen(evidence: Evidence, root: SoftwareRoot, now: datetime) -> Any:
    """Verifies under another revocation list each time; the verifier remembers fewer than there are."""
    lists = [revocation_list(root.ark, now=now, number=number) for number in range(_UNSEEN_LISTS)]
    turns = cycle([replace(evidence, crl=crl) for crl in lists])
    return lambda: verify(next(turns), (root.trust_root,), now)


def _vectors(seconds: float) -> Iterator[Measurement]:
    """The first valid vector of each format."""
    measured: set[str] = set()
    for format, item in _genuine():
        if format not in measured:
            measured.add(format)
            cost = _COST_TABLE.get(format)
            yield measure(f"verify {format} ({item.name})", _verification(item), seconds, cost_table_ms=cost)


def _verification(item: _Genuine) -> Any:
    return lambda: verify(item.evidence, item.roots, item.at)


def _genuine() -> Iterator[tuple[str, _Genuine]]:
    """Each vector that verifies at the time of one of its cases."""
    folder = Path(os.environ.get("CLOISTER_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    if not folder.is_dir():
        return
    for entry in json.loads((folder / "index.json").read_text()):
        found = None if entry["format"] == "anchors" else _load(folder / entry["format"] / entry["name"])
        if found is not None:
            yield entry["format"], found


def _load(folder: Path) -> _Genuine | None:
    provenance = json.loads((folder / "provenance.json").read_text())
    loader = importlib.import_module(f"tests.attestation.from_vector.{folder.parent.name}")
    for case in provenance["cases"]:
        at = datetime.fromtimestamp(case["unix"], UTC) if "unix" in case else _ANY_TIME
        loaded = loader.load(folder, provenance)
        item = _Genuine(folder.name, loaded.evidence, loaded.roots, at)
        try:
            verify(item.evidence, item.roots, item.at)
        except AttestationError:
            continue
        return item
    return None


def _admissions(root: SoftwareRoot, now: datetime, seconds: float) -> Iterator[Measurement]:
    """Hello to open session, both sides on one core: four key exchanges, two reports made and two verified."""
    admission = Admission.of(root, now)
    yield measure("admit one worker, both sides in memory", admission.admit, seconds)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat each measurement")


def _run(options: argparse.Namespace) -> Outcome:
    found_on, found = machine(), measure_attestation(options.seconds)
    data = {"benchmark": BENCHMARK.name, "machine": found_on, "measurements": [item.to_json() for item in found]}
    heading = ("what", "per second", "median ms", "p95 ms", "runs")
    return Outcome(data, table([heading, *(item.row() for item in found)]))


BENCHMARK = Benchmark(
    "attestation", "verifications a second of one core for each format, and admissions", _add_options, _run
)
