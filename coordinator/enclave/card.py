"""What the model card of a run says. Trust zone: aggregator TEE. Pure: from what was answered to the card's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.enclave.disclosure import Report, disclosed
from coordinator.enclave.judging import AUDITS, Judging
from coordinator.enclave.release import History
from trusted.attestation.roots import Assurance
from trusted.card import encode_card
from trusted.channel.aggregator import AdmittedPeer
from trusted.channel.federation import Federation
from trusted.documents.plan import Plan
from trusted.documents.terms import Evaluation, Rule
from trusted.errors import Reason
from trusted.ledger.leaves import Spent
from trusted.tables import Tables

_ALWAYS_OPEN = (
    "Figures of small or related groups can be narrowed down by who knows more: members who pool what each knows of "
    "its own rows, or columns of which one nearly follows from another.",
    "Which rows were held out is the app's word; its bundle, by digest, is what the members approved.",
    "That an attack of the audit fails proves nothing about a better one.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one site answered: tables where its app offers scores by row, and why what is missing is."""

    tables: Tables | None
    report: Report
    reasons: Mapping[str, Reason]


@dataclass(frozen=True, slots=True)
class Answered:
    """Everything that an evaluation brought: who answered, who did not and why, as whom each member was admitted."""

    answers: Mapping[str, Answer]
    lost: Mapping[str, Reason]
    peers: Mapping[str, AdmittedPeer]


def make_card(
    federation: Federation, history: History, model_sha256: bytes, found: Answered, spent: Spent | None = None
) -> bytes:
    """The canonical bytes of the card of a run whose final model has this digest, and cost ``spent`` in privacy."""
    plan = federation.plan.document
    reports = [answer.report for _, answer in sorted(found.answers.items())]
    metrics = disclosed(plan.metrics, reports)
    return encode_card(
        {
            "plan": federation.plan.digest.hex(),
            "charter": federation.charter.digest.hex(),
            "name": plan.name,
            "purpose": plan.purpose,
            "app_sha256": plan.app.bundle_sha256.hex(),
            "model_sha256": model_sha256.hex(),
            "initial_sha256": plan.initial_sha256.hex(),
            "rounds": history.rounds,
            "columns": list(plan.dataset.columns),
            "sites": [_site(member, history, found) for member in plan.cohort.members],
            "privacy": {"terms": plan.privacy.to_json(), "spent": "none" if spent is None else spent.to_json()},
            "metrics": {"told": metrics.told, "withheld": metrics.withheld},
            "evaluation": _evaluation(plan.evaluation, found),
            "not_protected": list(_not_protected(plan, found)),
        }
    )


def _site(member: str, history: History, found: Answered) -> dict[str, Any]:
    site: dict[str, Any] = {
        "member": member,
        "rounds": sum(member in names for _, names in history.contributions),
        "evaluated": "yes" if member in found.answers else found.lost.get(member, Reason.LEASE_EXPIRED).code,
    }
    peer = found.peers.get(member)
    if peer is not None:
        result = peer.result
        site |= {
            "dataset_commitment": peer.commitment.hex(),
            "attestation": {
                "format": result.format.value,
                "product": result.product,
                "measurement": result.measurement.hex(),
                "assurance": result.assurance.value,
            },
        }
    return site


def _evaluation(terms: Evaluation | None, found: Answered) -> dict[str, Any]:
    if terms is None:
        raise RuntimeError("a card of a plan without evaluation")
    tables = {member: answer.tables for member, answer in found.answers.items() if answer.tables is not None}
    said: dict[str, Any] = {"terms": terms.to_json(), "sites_with_scores": len(tables)}
    if not tables:
        return said | {"not_run": sorted({reason.code for reason in _reasons(found, "scores").values()})}
    judging = Judging(terms, tables)
    said |= {"overall": judging.overall(), "subgroups": judging.subgroups(), "by_site": judging.by_site()}
    if terms.audit is not None:
        said["membership_inference"] = judging.audit({name: _reasons(found, name) for name in AUDITS})
    return said


def _reasons(found: Answered, name: str) -> dict[str, Reason]:
    return {member: answer.reasons[name] for member, answer in found.answers.items() if name in answer.reasons}


def _not_protected(plan: Plan, found: Answered) -> Any:
    if any(peer.result.assurance is Assurance.NONE for peer in found.peers.values()):
        yield "NO HARDWARE PROTECTION: the operator of a machine under a software root can read everything on it."
    if plan.privacy.mechanism.value == "none":
        yield f'No privacy mechanism: the model may disclose training data; accepted because "{plan.privacy.reason}".'
    else:
        yield "Figures on this card and the app's metrics are outside the privacy budget: the model alone is paid for."
    if plan.aggregation.rule is Rule.SERVER_APP:
        yield (
            f"The trusted code base is larger by the app {plan.app.bundle_sha256.hex()}: its own server made the model "
            "in the aggregator, and saw every single answer."
        )
    yield from _ALWAYS_OPEN
