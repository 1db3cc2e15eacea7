"""SGX vectors; see ``intel.py`` for what they share with TDX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.attestation.from_vector import Loaded, intel
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.dcap import EnclaveBody, parse_sgx
from trusted.attestation.policies.sgx import SgxPolicy, strict_sgx_policy
from trusted.errors import AttestationError


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    evidence = intel.evidence_of(EvidenceFormat.SGX, folder)

    def parsed() -> dict[str, Any]:
        quote, enclave = parse_sgx(evidence.report)
        collateral = evidence.part("collateral")
        return {**intel.from_parser(EvidenceFormat.SGX, quote, collateral), **intel.from_enclave(enclave)}

    def from_claims(claims: Any) -> dict[str, Any]:
        return {**intel.from_platform(EvidenceFormat.SGX, claims.platform), **intel.from_enclave(claims.enclave)}

    roots = (intel.root_of(EvidenceFormat.SGX),)
    try:
        enclave = parse_sgx(evidence.report)[1]
    except AttestationError:  # the parser refuses it, so no policy ever looks at it
        return Loaded(evidence, roots, strict_sgx_policy([b"\1" * 32]), from_claims)
    return Loaded(evidence, roots, policy_for(enclave), from_claims, parsed_claims=parsed)


def policy_for(enclave: EnclaveBody) -> SgxPolicy:
    """The strict template for what ``enclave`` is, without the floors that a machine of its time cannot meet."""
    policy = strict_sgx_policy([enclave.mr_enclave], mr_signers=[enclave.mr_signer])
    return replace(
        policy,
        isv_prod_id=enclave.isv_prod_id,
        isv_ext_prod_id=enclave.isv_ext_prod_id,
        isv_family_id=enclave.isv_family_id,
        config_id=enclave.config_id,
        minimum_tcb_evaluation=intel.OLD,
        minimum_tcb_date=intel.OLD,
    )
