"""How each format's vectors become evidence: one module for each format, named as its folder; for the vector tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.roots import TrustRoot

# Other spellings of the formats' folders. A folder that is neither here nor a module's name is an error.
_SPELLINGS = {
    "sev_snp": "snp",
    "sevsnp": "snp",
    "amd_snp": "snp",
    "tdx_ccel": "tdx",
    "intel_tdx": "tdx",
    "intel_sgx": "sgx",
    "nitro_enclave": "nitro",
    "aws_nitro": "nitro",
    "nvidia_gpu": "nvidia",
    "nvidia_gpus": "nvidia",
    "gpu": "nvidia",
    "gpu_set": "nvidia",
    "arm_cca": "cca",
    "tpm2": "tpm",
    "azure": "azure_vtpm",
    "azure_snp_vtpm": "azure_vtpm",
    "azure_tdx_vtpm": "azure_vtpm",
    "gcp": "gcp_cs",
    "gcp_confidential_space": "gcp_cs",
    "confidential_space": "gcp_cs",
    "ccel": "event_log",
    "event_logs": "event_log",
    "eventlog": "event_log",
    "tcg_event_log": "event_log",
    "tcg_log": "event_log",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """One vector as ``load(folder, provenance)`` of its format's module gives it. Nothing of it is verified.

    Attributes:
        evidence: the report with what endorses it.
        roots: the vendor's, or for firmware simulators the vector's own.
        policy: the strict template with the evidence's own measurements, and every skip written: so that genuineness,
            status, debug and TCB alone decide.
        expected_claims: from verified claims to the dict that equals the provenance's ``expected``, all keys of it.
        parsed_claims: the same dict from the parser alone, for vectors that no verifier lets through; None where the
            parser refuses such a vector too.
        of_case: the same vector as one case wants it, where a case names other files or another nonce (``what``,
            ``nonce``); None where every case is about the same evidence.
        stages: for cases whose ``stage`` names a part of the verification that holds or fails alone: from that name
            to a function of the time, which returns or raises ``AttestationError``. ``verify`` and ``appraise`` are
            the test's own stages; a stage that is not named here is the whole verification.
        more: the other devices of a set, under the same roots and policy; ``expected_claims`` then takes the claims of
            all of them, in their order.
    """

    evidence: Evidence
    roots: tuple[TrustRoot, ...]
    policy: PlatformPolicy
    expected_claims: Callable[[Any], dict[str, Any]]
    parsed_claims: Callable[[], dict[str, Any]] | None = None
    of_case: Callable[[Mapping[str, Any]], Loaded] | None = None
    stages: Mapping[str, Callable[[datetime], object]] = field(default_factory=lambda: MappingProxyType({}))
    more: tuple[Evidence, ...] = ()


def format_of(folder: str) -> str:
    """The name of the format's module, for a folder that may be spelled otherwise."""
    plain = folder.lower().replace("-", "_")
    return _SPELLINGS.get(plain, plain)


def load(format: str, folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``, by its format's module.

    Raises:
        ModuleNotFoundError: a format that nothing here can read.
    """
    module = importlib.import_module(f"tests.attestation.from_vector.{format_of(format)}")
    loaded: Loaded = module.load(folder, provenance)
    return loaded
