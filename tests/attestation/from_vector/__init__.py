"""How each format's vectors become evidence: one module for each format, named as its folder; for the vector tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.roots import TrustRoot


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
    """

    evidence: Evidence
    roots: tuple[TrustRoot, ...]
    policy: PlatformPolicy
    expected_claims: Callable[[Any], dict[str, Any]]
    parsed_claims: Callable[[], dict[str, Any]] | None = None
    of_case: Callable[[Mapping[str, Any]], Loaded] | None = None
    stages: Mapping[str, Callable[[datetime], object]] = field(default_factory=lambda: MappingProxyType({}))
