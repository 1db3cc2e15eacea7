"""Members that agreed on a plan: real documents, keys and software evidence, in memory. Zone: the developer's machine.

Secrets of all members lie side by side here, as they never do outside of a simulation or a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not in __all__

from softtee.chip import Chip, SoftwareRoot
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.channel.worker import Membership, WorkerChannel
from trusted.documents import charter as charters
from trusted.documents import credential as credentials
from trusted.documents import plan as plans
from trusted.documents import site_policy as site_policies
from trusted.documents.charter import Charter, Member, Profile, Thresholds, VerifiedCharter
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.plan import Plan, VerifiedPlan, initial_digest
from trusted.documents.schema import Validity
from trusted.documents.terms import Aggregation, App, Cohort, DatasetContract, Deadlines, MetricRule, Privacy
from trusted.encoding import Vector
from trusted.hpke import SealingKey
from worker.memory import Keeper, Memory
from worker.participant import Participant

AGGREGATOR_MEASUREMENT = b"\xaa" * 48
WORKER_MEASUREMENT = b"\xbb" * 48
MEASUREMENTS = {"aggregator": AGGREGATOR_MEASUREMENT, "worker": WORKER_MEASUREMENT}
MEMBERS = ("site-1", "site-2", "site-3", "site-4")
LAYOUT = Layout((TensorSpec("weight", Dtype.FLOAT32, (40, 25)), TensorSpec("bias", Dtype.FLOAT32, (7,))))
INITIAL: Vector = np.linspace(-1, 1, LAYOUT.elements, dtype="<f4")


def soon() -> datetime:
    """A time at which certificates that are made now hold for sure."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)


def policy(measurement: bytes) -> AppraisalPolicy:
    """What a development charter asks for."""
    return AppraisalPolicy.of(snp=development_snp_policy([measurement]))


def envelope(document: Any, payload_type: str, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """``document`` signed by ``keys``."""
    made = new_envelope(document.encode(), payload_type)
    for key in keys:
        made = sign(made, CryptoSigner(key))
    return made.encode()


def plan_of(members: tuple[str, ...], **changes: Any) -> Plan:
    """A plan of two rounds with the weighted mean of at least two of ``members``, but for its ``changes``."""
    now = soon()
    document = Plan(
        name="plan",
        purpose="tests",
        charter=bytes(32),
        validity=Validity(now, now + timedelta(days=1)),
        app=App.read({"kind": "flower", "bundle_sha256": "00" * 32, "config": {}}),
        initial_sha256=initial_digest(LAYOUT, INITIAL.tobytes()),
        layout=LAYOUT,
        rounds=2,
        cohort=Cohort(members, 2, len(members)),
        deadlines=Deadlines(round_s=600, lease_s=120, reattest_s=60),
        aggregation=Aggregation.read({"rule": "weighted-mean", "max_weight": 1000}),
        privacy=Privacy.read({"mechanism": "none", "reason": "a test"}),
        dataset=DatasetContract(min_rows=1, columns=("x",)),
        metrics=(MetricRule("auc", 2, 3),),
        recipients=(members[0],),
    )
    return replace(document, **changes)


def _no_gpus(challenge: bytes) -> tuple[Evidence, ...]:
    return ()


@dataclass(frozen=True)
class ChipProvider:
    """Evidence as a software TEE gives it: the platform, not the guest, knows measurement and host data."""

    chip: Chip
    measurement: bytes
    host_data: bytes
    gpus: Callable[[bytes], tuple[Evidence, ...]] = _no_gpus

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """Evidence of the GPUs over ``challenge``."""
        return self.gpus(challenge)

    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence over ``report_data`` (64 bytes)."""
        return self.chip.attest(report_data=report_data, measurement=self.measurement, host_data=self.host_data)


@dataclass
class Consortium:
    """Everything that a federation's members agreed on, and the secrets of all of them.

    ``plan_changes``, ``charter_changes`` and ``site_changes`` are fields of the documents that differ from those of a
    plan of two rounds with the weighted mean of at least two members. Credentials and site policies hold for ``lasts``,
    the plan for twice and the charter for three times as long.
    """

    root: SoftwareRoot
    chip: Chip
    members: tuple[str, ...] = MEMBERS
    plan_changes: dict[str, Any] = field(default_factory=dict)
    charter_changes: dict[str, Any] = field(default_factory=dict)
    site_changes: dict[str, Any] = field(default_factory=dict)
    now: datetime = field(default_factory=soon)
    initial: Vector = field(default_factory=lambda: INITIAL, repr=False)
    lasts: timedelta = timedelta(days=10)

    @classmethod
    def found(cls, **plan_changes: Any) -> Consortium:
        """Four members with a throw-away root of their own; its keys take a second or more to draw."""
        now = datetime.now(UTC).replace(microsecond=0)
        root = SoftwareRoot.create(now=now)
        return cls(root, root.issue_chip(now=now), plan_changes=plan_changes)

    def agreeing(self, **changes: Any) -> Consortium:
        """The same members, keys and charter with another plan, which differs by ``changes``."""
        other = copy(self)
        other.plan = self.make_plan(**changes)
        other.federation = Federation(self.charter, other.plan)
        return other

    def __post_init__(self) -> None:
        self.signing = {member: Ed25519PrivateKey.generate() for member in self.members}
        self.sealing = {member: SealingKey.generate() for member in self.members}
        self.worker_keys = {member: Ed25519PrivateKey.generate() for member in self.members}
        self.charter = self.make_charter()
        self.plan = self.make_plan(**self.plan_changes)
        self.federation = Federation(self.charter, self.plan)

    def make_charter(self) -> VerifiedCharter:
        """A development charter that all members signed."""
        members = tuple(
            Member(name, name, (self.signing[name].public_key().public_bytes_raw(),), self.sealing[name].public)
            for name in self.members
        )
        quorum = len(members) // 2 + 1
        document = Charter(
            name="test",
            version=1,
            previous=None,
            profile=Profile.DEVELOPMENT,
            validity=Validity(self.now - timedelta(days=1), self.now + 3 * self.lasts),
            members=members,
            thresholds=Thresholds(quorum, quorum),
            roots=(self.root.trust_root,),
            aggregator=policy(AGGREGATOR_MEASUREMENT),
            worker=policy(WORKER_MEASUREMENT),
        )
        document = replace(document, **self.charter_changes)
        return charters.verify_charter(envelope(document, charters.PAYLOAD_TYPE, self.signing.values()), self.now)

    def make_plan(self, **changes: Any) -> VerifiedPlan:
        """A plan that all members signed."""
        validity = Validity(self.now - timedelta(days=1), self.now + 2 * self.lasts)
        document = plan_of(self.members, **({"charter": self.charter.digest, "validity": validity} | changes))
        return plans.verify_plan(envelope(document, plans.PAYLOAD_TYPE, self.signing.values()), self.charter, self.now)

    def provider(
        self, role: str, *, measurement: bytes | None = None, plan: VerifiedPlan | None = None
    ) -> ChipProvider:
        """A machine that proves ``role``."""
        data = host_data(role, self.charter.digest, (plan or self.plan).digest)
        return ChipProvider(self.chip, measurement or MEASUREMENTS[role], data)

    def identity(self, role: str, **changes: Any) -> Identity:
        """Fresh keys of a process that can prove ``role``."""
        return Identity.generate(self.provider(role, **changes))

    def membership(self, member: str, *, signed_by: str | None = None) -> Membership:
        """What a worker shows of the member that it works for."""
        document = credentials.Credential(
            member=member,
            charter=self.charter.digest,
            worker_key=self.worker_keys[member].public_key().public_bytes_raw(),
            validity=Validity(self.now - timedelta(days=1), self.now + self.lasts),
        )
        signed = envelope(document, credentials.PAYLOAD_TYPE, [self.signing[signed_by or member]])
        return Membership(signed, self.worker_keys[member], b"\xcc" * 32)

    def worker_channel(self, member: str, **identity: Any) -> WorkerChannel:
        """A worker that has not said hello yet."""
        return WorkerChannel(self.federation, self.identity("worker", **identity), self.membership(member))

    def participant(self, member: str, keeper: Keeper | None = None) -> Participant:
        """A worker's part in the run, by a site policy that the member signed."""
        document = site_policies.SitePolicy(
            member=member,
            charter=self.charter.digest,
            plans=(self.plan.digest,),
            bundles=(self.plan.document.app.bundle_sha256,),
            max_rounds=100,
            columns=self.plan.document.dataset.columns,
            not_after=self.now + self.lasts,
        )
        document = replace(document, **self.site_changes)
        signed = envelope(document, site_policies.PAYLOAD_TYPE, [self.signing[member]])
        verified = site_policies.verify_site_policy(signed, self.charter, self.now)
        memory = Memory.recall(member, self.plan.digest, self.worker_keys[member], keeper)
        return Participant(self.federation, site_policies.effective(self.charter, self.plan, verified), memory)
