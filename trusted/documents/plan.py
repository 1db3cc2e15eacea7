"""The plan: one training run, signed by everyone whose data it touches (docs/protocol.md §2). Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trusted.documents.charter import Profile, VerifiedCharter
from trusted.documents.dsse import (
    MAX_PAYLOAD_BYTES,
    Verified,
    open_envelope,
    require_signers,
    require_threshold,
    signers_among,
)
from trusted.documents.layout import Dtype, Layout, TensorSpec, initial_digest
from trusted.documents.schema import DIGEST_BYTES, Validity, read_line, read_members, rule, unique
from trusted.documents.terms import (
    MAX_COHORT,
    Aggregation,
    App,
    Cohort,
    DatasetContract,
    Deadlines,
    Evaluation,
    Exchange,
    Mechanism,
    MetricRule,
    Privacy,
    Rule,
)
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json, sha256

__all__ = [
    "MAX_ROUNDS",
    "PAYLOAD_TYPE",
    "Aggregation",
    "App",
    "Cohort",
    "DatasetContract",
    "Deadlines",
    "Dtype",
    "Exchange",
    "Layout",
    "MetricRule",
    "Plan",
    "Privacy",
    "TensorSpec",
    "VerifiedPlan",
    "initial_digest",
    "verify_plan",
]

PAYLOAD_TYPE = "application/vnd.cloister.plan.v1+json"
MAX_ROUNDS = 10_000
_IN_FULL = Exchange()
MIN_COHORT = {Profile.DEVELOPMENT: 2, Profile.PRODUCTION: 3}  # with two, each can subtract itself and see the other


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run, as parsed: its own bounds hold, and nobody's signature has been checked."""

    name: str
    purpose: str
    charter: bytes
    validity: Validity
    app: App
    initial_sha256: bytes
    layout: Layout
    rounds: int
    cohort: Cohort
    deadlines: Deadlines
    aggregation: Aggregation
    privacy: Privacy
    dataset: DatasetContract
    metrics: tuple[MetricRule, ...]
    recipients: tuple[str, ...]
    exchange: Exchange = _IN_FULL
    evaluation: Evaluation | None = None

    @classmethod
    def parse(cls, payload: bytes) -> Plan:
        """The plan of a payload, whose writer may be lying.

        Raises:
            WireError: not canonical JSON, or a field is missing, unknown or of another type.
            DocumentError: DOCUMENT_RULE: a bound does not hold.
        """
        return cls.from_json(decode_json(payload, max_bytes=MAX_PAYLOAD_BYTES))

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """The plan in a JSON object, by the same rules and with the same errors as :meth:`parse`."""
        with Fields(value, "plan") as fields:
            initial_sha256, layout = _read_model(fields.mapping("model"))
            plan = cls(
                name=read_line(fields, "name", max_length=100),
                purpose=read_line(fields, "purpose", max_length=1000),
                charter=fields.octets("charter", DIGEST_BYTES),
                validity=Validity.read(fields),
                app=App.read(fields.mapping("app")),
                initial_sha256=initial_sha256,
                layout=layout,
                rounds=fields.integer("rounds", low=1, high=MAX_ROUNDS),
                cohort=Cohort.read(fields.mapping("cohort")),
                deadlines=Deadlines.read(fields.mapping("deadlines")),
                aggregation=Aggregation.read(fields.mapping("aggregation")),
                privacy=Privacy.read(fields.mapping("privacy")),
                dataset=DatasetContract.read(fields.mapping("dataset")),
                metrics=tuple(MetricRule.read(entry) for entry in fields.items("metrics", max_items=256)),
                recipients=_read_recipients(fields.mapping("release")),
                exchange=Exchange.read(fields.mapping("exchange")) if fields.has("exchange") else _IN_FULL,
                evaluation=Evaluation.read(fields.mapping("evaluation")) if fields.has("evaluation") else None,
            )
        names = [tensor.name for tensor in plan.layout.tensors]
        in_order = [name for name in names if name in set(plan.exchange.tensors)]
        known = in_order == list(plan.exchange.tensors)
        rule(known, "plan.exchange.tensors", "different names of plan.model.layout, in its order, expected")
        plan.aggregation.check(plan.cohort)
        _require_changes(plan)
        unique([metric.name for metric in plan.metrics], "plan.metrics", low=0)
        reachable = all(metric.min_sites <= plan.cohort.size for metric in plan.metrics)
        rule(reachable, "plan.metrics.min_sites", "at most plan.cohort.size expected")
        _require_private(plan)
        _require_server_app(plan)
        if plan.evaluation is not None:
            plan.evaluation.check(plan.dataset, plan.cohort)
        return plan

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §2 names its fields."""
        return {
            "name": self.name,
            "purpose": self.purpose,
            "charter": self.charter.hex(),
            **self.validity.to_json(),
            "app": self.app.to_json(),
            "model": {"initial_sha256": self.initial_sha256.hex(), "layout": self.layout.to_json()},
            "rounds": self.rounds,
            "cohort": self.cohort.to_json(),
            "deadlines": self.deadlines.to_json(),
            "aggregation": self.aggregation.to_json(),
            "privacy": self.privacy.to_json(),
            "dataset": self.dataset.to_json(),
            "metrics": [metric.to_json() for metric in self.metrics],
            "release": {"recipients": list(self.recipients)},
            **({} if self.exchange == _IN_FULL else {"exchange": self.exchange.to_json()}),
            **({} if self.evaluation is None else {"evaluation": self.evaluation.to_json()}),
        }


@dataclass(frozen=True, slots=True)
class VerifiedPlan(Verified[Plan]):
    """A plan under its charter, signed by the charter's threshold and by every member whose data it touches."""


def verify_plan(envelope: bytes, charter: VerifiedCharter, now: datetime) -> VerifiedPlan:
    """The plan in ``envelope``, whose bearer may be lying, at the time ``now``.

    1. It is a plan and names exactly this charter. 2. Cohort and recipients are members; the cohort is not under the
    profile's minimum. 3. Signed by the charter's plan threshold, and by every cohort member. 4. Both hold now.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE)
    plan = Plan.parse(opened.payload)
    if plan.charter != charter.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "plan.charter: the digest of another charter")
    check_against(plan, charter)
    found = signers_among(opened, charter.owners)
    require_threshold(found, charter.document.thresholds.plan, "plan")
    require_signers(found, plan.cohort.members, "plan")
    charter.document.validity.check(now, "charter")
    plan.validity.check(now, "plan")
    return VerifiedPlan(plan, sha256(opened.payload), envelope, found)


def check_against(plan: Plan, charter: VerifiedCharter) -> None:
    """Refuse a plan that the charter's members and profile do not allow, whoever signed it.

    Raises:
        DocumentError: UNKNOWN_MEMBER, DOCUMENT_RULE.
    """
    for member in (*plan.cohort.members, *plan.recipients):
        charter.document.member(member)
    minimum = MIN_COHORT[charter.document.profile]
    rule(plan.cohort.minimum >= minimum, "plan.cohort.minimum", f"at least {minimum} expected under this charter")


def _require_changes(plan: Plan) -> None:
    """Refuse a change of messages after the last round, or of what plan.aggregation says in them."""
    path = "plan.app.changes"
    for change in plan.app.changes:
        rule(change.from_round <= plan.rounds, path, "from_round: at most plan.rounds expected")
        ours = plan.aggregation.train_config.keys() & dict(change.train_config).keys()
        rule(not ours, path, "train_config: nothing expected that plan.aggregation says")


def _require_private(plan: Plan) -> None:
    """Refuse a privacy mechanism whose sums the other terms would make meaningless."""
    if plan.privacy.mechanism is Mechanism.NONE:
        return
    # A weight says how many rows a site has, exactly, and lets one site move the result more than the noise hides.
    rule(plan.aggregation.max_weight == 1, "plan.aggregation.max_weight", "1 expected under plan.privacy")
    mean = plan.aggregation.rule is Rule.WEIGHTED_MEAN
    rule(mean or plan.privacy.member_clipping is None, "plan.aggregation.rule", "a mean expected: noise is for a sum")
    dp_sgd = plan.privacy.dp_sgd
    person = None if dp_sgd is None else dp_sgd.person_column
    contained = person is None or person in plan.dataset.columns
    rule(contained, "plan.privacy.person_column", "one of plan.dataset.columns expected")


def _require_server_app(plan: Plan) -> None:
    """Refuse what only our own fold can do, where the app's own server is to do its work."""
    if plan.aggregation.rule is not Rule.SERVER_APP:
        return
    path = "plan.aggregation.rule"
    rule(plan.privacy.mechanism is Mechanism.NONE, path, "server-app has no plan.privacy: its own fold is not ours")
    rule(plan.exchange == _IN_FULL, path, "server-app has no plan.exchange: the app says what travels")


def _read_model(value: Any) -> tuple[bytes, Layout]:
    with Fields(value, "plan.model") as fields:
        return fields.octets("initial_sha256", DIGEST_BYTES), Layout.parse(
            fields.take("layout", list), "plan.model.layout"
        )


def _read_recipients(value: Any) -> tuple[str, ...]:
    with Fields(value, "plan.release") as fields:
        return read_members(fields, "recipients", low=1, high=MAX_COHORT)
