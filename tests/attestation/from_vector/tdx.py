"""TDX vectors; see ``intel.py`` for what they share with SGX.

A case that is to be refused is judged by a policy that wants the log, where one came along, to lead to all registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.attestation.from_vector import Loaded, event_log, files, intel
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.dcap import TdBody, parse_tdx
from trusted.attestation.policies.rules import Demand
from trusted.attestation.policies.tdx import TdxPolicy, strict_tdx_policy
from trusted.errors import AttestationError

ROOTS = (intel.root_of(EvidenceFormat.TDX),)


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``, with the first of its logs."""
    loaded = _load(intel.evidence_of(EvidenceFormat.TDX, folder))
    logs = files.event_logs(folder)
    return replace(loaded, of_case=lambda case: _of_case(loaded, logs, case)) if logs else loaded


def _of_case(loaded: Loaded, logs: Mapping[Path, bytes], case: Mapping[str, Any]) -> Loaded:
    """The vector with the log that the case speaks of."""
    log = next(iter(files.named(case, logs).values()))
    parts = dict(loaded.evidence.parts) | {"event-log": log}
    return _load(replace(loaded.evidence, parts=tuple(sorted(parts.items()))))


def _load(evidence: Evidence) -> Loaded:
    log = evidence.part("event-log")

    def parsed() -> dict[str, Any]:
        quote, td = parse_tdx(evidence.report)
        collateral = evidence.part("collateral")
        return {**intel.from_parser(EvidenceFormat.TDX, quote, collateral), **intel.from_td(td), **from_log()}

    def from_claims(claims: Any) -> dict[str, Any]:
        return {**intel.from_platform(EvidenceFormat.TDX, claims.platform), **intel.from_td(claims.td), **from_log()}

    def from_log() -> dict[str, Any]:
        return {"event_log": event_log.found(log)} if log else {}

    try:
        td = parse_tdx(evidence.report)[1]
    except AttestationError:  # the parser refuses it, so no policy ever looks at it
        return Loaded(evidence, ROOTS, strict_tdx_policy([b"\1" * 48], {}), from_claims)
    policy = replace(policy_for(td), event_log=Demand.REQUIRE if log else Demand.ANY)
    return Loaded(evidence, ROOTS, policy, from_claims, parsed_claims=parsed)


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
