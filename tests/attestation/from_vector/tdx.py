"""TDX vectors; see ``intel.py`` for what they share with SGX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.attestation.from_vector import Loaded, intel
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.dcap import TdBody, parse_tdx
from trusted.attestation.policies.tdx import TdxPolicy, strict_tdx_policy
from trusted.errors import AttestationError


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    evidence = intel.evidence_of(EvidenceFormat.TDX, folder)

    def parsed() -> dict[str, Any]:
        quote, td = parse_tdx(evidence.report)
        collateral = evidence.part("collateral")
        return {**intel.from_parser(EvidenceFormat.TDX, quote, collateral), **intel.from_td(td)}

    def from_claims(claims: Any) -> dict[str, Any]:
        return {**intel.from_platform(EvidenceFormat.TDX, claims.platform), **intel.from_td(claims.td)}

    try:
        td = parse_tdx(evidence.report)[1]
    except AttestationError:  # the parser refuses it, so no policy ever looks at it
        return Loaded(evidence, (intel.root_of(EvidenceFormat.TDX),), strict_tdx_policy([b"\1" * 48], {}), from_claims)
    roots = (intel.root_of(EvidenceFormat.TDX),)
    return Loaded(evidence, roots, policy_for(td), from_claims, parsed_claims=parsed)


def policy_for(td: TdBody) -> TdxPolicy:
    """The strict template for what ``td`` measures, without the floors that a machine of its time cannot meet."""
    policy = strict_tdx_policy([td.mr_td], dict(enumerate([rtmr] for rtmr in td.rtmrs)))
    return replace(
        policy,
        mr_config_id=td.mr_config_id[32:],
        mr_owner=td.mr_owner,
        mr_owner_config=td.mr_owner_config,
        minimum_tee_tcb_svn=intel.OLD,
        minimum_tcb_evaluation=intel.OLD,
        minimum_tcb_date=intel.OLD,
    )
