"""What a document says, in sentences for the person who is asked to sign it. Trust zone: every TEE.

Pure: sentences from parsed documents, and no opinion. Whoever shows them says whether the signatures hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trusted.attestation.device_policy import DeviceRule
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.knob import Knob, PlatformPolicy
from trusted.attestation.policies.rules import ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.documents.charter import Charter, Profile
from trusted.documents.explain_aggregation import explain_aggregation
from trusted.documents.explain_dataset import explain_dataset
from trusted.documents.explain_evaluation import explain_evaluation, explain_metric
from trusted.documents.explain_exchange import explain_exchange
from trusted.documents.explain_privacy import explain_privacy
from trusted.documents.explain_server_app import explain_permission, explain_server_app
from trusted.documents.plan import Plan
from trusted.documents.schema import Validity, write_time
from trusted.documents.site_policy import SitePolicy
from trusted.documents.terms import Rule
from trusted.wire import Json, encode_json

NO_HARDWARE = "NO HARDWARE PROTECTION: the operator of a machine under a software root can read everything on it."


def explain_charter(charter: Charter) -> list[str]:
    """The charter in plain sentences: members, thresholds, roots, what must be proved, and what is skipped."""
    return list(_charter(charter))


def explain_plan(plan: Plan, charter: Charter) -> list[str]:
    """The plan in plain sentences: who trains what, on which columns, what leaves, and who gets the model.

    Raises:
        DocumentError: UNKNOWN_MEMBER: the plan names somebody who is no member.
    """
    return list(_plan(plan, charter))


def explain_site_policy(policy: SitePolicy) -> list[str]:
    """The site policy in plain sentences."""
    return [
        f"Site policy of {policy.member}, until {write_time(policy.not_after)}. What is not listed is refused.",
        f"Under the charter {policy.charter.hex()}.",
        *([f"May run the plan {digest.hex()}." for digest in policy.plans] or ["May run no plan."]),
        *([f"May run the app {digest.hex()}." for digest in policy.bundles] or ["May run no app."]),
        f"At most {policy.max_rounds} round(s).",
        f"May read the columns: {_listed(policy.columns)}.",
        *explain_permission(policy.server_app_exchanges),
    ]


def _charter(charter: Charter) -> Iterator[str]:
    yield f'Charter "{charter.name}", version {charter.version}, profile {charter.profile.value}.'
    if charter.profile is Profile.DEVELOPMENT:
        yield "A development charter: not for real data."
    yield _validity(charter.validity)
    if charter.previous is not None:
        yield f"It replaces the charter {charter.previous.hex()}."
    for member in charter.members:
        yield f"Member {member.id}: {member.name}, {len(member.signing_keys)} signing key(s)."
    count = len(charter.members)
    yield f"{charter.thresholds.charter} of {count} members must sign a new charter, {charter.thresholds.plan} a plan."
    yield "Every member whose data a plan touches must sign that plan as well."
    for root in charter.roots:
        kind = _ROOTS.get(root.assurance, "a SOFTWARE root")
        yield f"Trusts {root.format.value} evidence of {root.product} under {kind} key {root.sha256.hex()}."
    yield from _assurance(charter)
    yield from _proofs(charter)


_ROOTS = {
    Assurance.HARDWARE: "the vendor's own",
    Assurance.PROVIDER: "a provider's, for which the members alone vouch:",
}


def _proofs(charter: Charter) -> Iterator[str]:
    """For each platform and device one sentence for each knob; where both roles agree, one for both."""
    roles = charter.policies
    for format in PLATFORMS:
        named = {role: policy.platforms[format] for role, policy in roles.items() if format in policy.platforms}
        for role, platform in named.items():
            yield from (f"The {role} may run {value} on {format.value}." for value in _references(platform))
        yield from _rules(format, named)
    for format in PLATFORMS:
        rules = {role: policy.devices[format] for role, policy in roles.items() if format in policy.devices}
        for role, rule in rules.items():
            yield f"The {role} must hold {_count(rule)} {format.value} beside its TEE, answering the same challenge."
            yield from (f"The {role}'s {format.value} may measure {value}." for value in _references(rule.policy))
        yield from _rules(format, {f"{role}'s {format.value}": rule.policy for role, rule in rules.items()})


def _references(policy: PlatformPolicy) -> Iterator[str]:
    references: tuple[ReferenceValue, ...] | Skip = getattr(policy, "measurements", ())
    return iter(()) if isinstance(references, Skip) else (_measurement(reference) for reference in references)


def _count(rule: DeviceRule) -> str:
    return str(rule.minimum) if rule.minimum == rule.maximum else f"{rule.minimum} to {rule.maximum}"


def _rules(format: EvidenceFormat, policies: Mapping[str, PlatformPolicy]) -> Iterator[str]:
    """A sentence for each knob but the measurements, unless those are skipped; ``policies`` by who they are for."""
    for knob in PLATFORMS[format].policy.KNOBS if policies else ():
        values = {who: policy.to_json()[knob.name] for who, policy in policies.items()}
        if knob.name == "measurements":
            values = {who: value for who, value in values.items() if isinstance(value, dict)}
        if values:
            yield from _knobs(knob, values)


def _knobs(knob: Knob, values: Mapping[str, Json]) -> Iterator[str]:
    named = f"{knob.name} ({knob.meaning.split(': {')[0].split(': [')[0]})"
    if len(values) > 1 and len({encode_json(value) for value in values.values()}) == 1:
        yield _knob(" and the ".join(values), named, next(iter(values.values())))
    else:
        yield from (_knob(role, named, value) for role, value in values.items())


def _knob(roles: str, knob: str, value: Json) -> str:
    if isinstance(value, dict) and set(value) == {"skip"}:
        return f'NOT CHECKED for the {roles}: {knob}, because "{value["skip"]}".'
    return f"Rule for the {roles}: {knob}: {_value(value)}."


def _plan(plan: Plan, charter: Charter) -> Iterator[str]:
    yield f'Plan "{plan.name}": {plan.purpose}'
    yield _validity(plan.validity)
    yield f"Under the charter {plan.charter.hex()}."
    yield f"App: {plan.app.kind.value} bundle {plan.app.bundle_sha256.hex()}."
    yield from (f"App setting {key} = {value!r}." for key, value in plan.app.config)
    first = "Every message" if not plan.app.changes else "From round 1 on, every message"
    yield from (f"{first} to train says {key} = {value!r}." for key, value in plan.app.train_config)
    yield from (f"{first} to evaluate says {key} = {value!r}." for key, value in plan.app.evaluate_config)
    for change in plan.app.changes:
        said = (("train", change.train_config), ("evaluate", change.evaluate_config))
        for kind, key, value in ((kind, *entry) for kind, settings in said for entry in settings):
            yield f"From round {change.from_round} on, messages to {kind} say {key} = {value!r}."
    yield f"Model: {len(plan.layout.tensors)} tensors, {plan.layout.elements} numbers."
    yield f"It starts as {plan.initial_sha256.hex()}."
    yield from explain_exchange(plan.exchange, plan.layout)
    for member_id in plan.cohort.members:
        yield f"{charter.member(member_id).name} ({member_id}) trains on its own data, inside its own worker."
    yield from explain_dataset(plan.dataset)
    if plan.aggregation.rule is Rule.SERVER_APP:
        yield f"{plan.rounds} round(s) by the app's own count, among {len(plan.cohort.members)} members."
    else:
        yield (
            f"{plan.rounds} round(s). Each samples {plan.cohort.size} of {len(plan.cohort.members)} members, "
            f"and counts only with {plan.cohort.minimum} or more of them."
        )
    yield (
        f"A round ends after {plan.deadlines.round_s} s; a lease lasts {plan.deadlines.lease_s} s; "
        f"everybody is attested again every {plan.deadlines.reattest_s} s."
    )
    yield from explain_aggregation(plan.aggregation, plan.cohort)
    yield from explain_server_app(plan)
    yield from explain_privacy(plan.privacy)
    yield from _leaves(plan, charter)
    yield from _assurance(charter)


def _leaves(plan: Plan, charter: Charter) -> Iterator[str]:
    if plan.aggregation.rule is Rule.SERVER_APP:
        yield "What leaves a site: whatever the app answers, sealed, for its own server; no worker filters it."
    else:
        yield "What leaves a site: one sealed update a round, its weight, and the metrics below. Never a row of data."
    yield from (explain_metric(metric) for metric in plan.metrics)
    if not plan.metrics:
        yield "No metric becomes public."
    yield from explain_evaluation(plan.evaluation)
    for member_id in plan.recipients:
        yield f"{charter.member(member_id).name} ({member_id}) receives the final model in clear."
    yield "Every host sees who takes part, when, sizes and the number of rounds."


def _assurance(charter: Charter) -> Iterator[str]:
    if any(root.assurance is Assurance.NONE for root in charter.roots):
        yield NO_HARDWARE


def _validity(validity: Validity) -> str:
    return f"Valid from {write_time(validity.not_before)} to {write_time(validity.not_after)}."


def _measurement(reference: ReferenceValue) -> str:
    until = "" if reference.until is None else f" until {write_time(reference.until)}"
    return reference.value.hex() + until


def _value(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(_value(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_value(entry)}" for key, entry in sorted(value.items())) or "none"
    return str(value)


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(values) or "none"
