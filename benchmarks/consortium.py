"""A federation to be measured: real documents, keys and evidence under a software root.

Trust zone: the developer's machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # its __init__ leaves __all__ away

from softtee.chip import Chip, SoftwareRoot
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.channel.aggregator import AggregatorChannel
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.channel.states import State
from trusted.channel.transcript import AGGREGATOR, WORKER
from trusted.channel.worker import Membership, WorkerChannel
from trusted.documents import charter as charters
from trusted.documents import credential as credentials
from trusted.documents import plan as plans
from trusted.documents import site_policy as site_policies
from trusted.documents.charter import Charter, Member, Profile, Thresholds, VerifiedCharter
from trusted.documents.credential import Credential
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.plan import Plan, VerifiedPlan
from trusted.documents.schema import Validity
from trusted.documents.site_policy import EffectiveRule, SitePolicy
from trusted.documents.terms import (
    Aggregation,
    App,
    AppKind,
    Cohort,
    DatasetContract,
    Deadlines,
    Exchange,
    Mechanism,
    Privacy,
    Rule,
)
from trusted.hpke import SealingKey

_MEASUREMENTS = {AGGREGATOR: b"\xaa" * 48, WORKER: b"\xbb" * 48}
_HOUR = timedelta(hours=1)
_ONE_NUMBER = Layout((TensorSpec("weight", Dtype.FLOAT32, (1,)),))


@dataclass(frozen=True, slots=True)
class ChipProvider:
    """Evidence as a software TEE gives it: the platform, not the guest, knows measurement and host data."""

    chip: Chip
    measurement: bytes
    host_data: bytes

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh report."""
        return self.chip.attest(report_data=report_data, measurement=self.measurement, host_data=self.host_data)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a plan a benchmark chooses.

    Attributes:
        members: how many; all of them train in every round.
        layout: of the model.
        initial_sha256: of the model to begin with; where nobody trains any.
        rounds: how many are to be committed.
    """

    members: int = 2
    layout: Layout = _ONE_NUMBER
    initial_sha256: bytes = bytes(32)
    rounds: int = 1
    exchange: Exchange = field(default_factory=Exchange)


@dataclass(frozen=True, slots=True)
class Consortium:
    """Members that agreed on a charter and a plan, and every secret of theirs."""

    root: SoftwareRoot
    keys: Mapping[str, Ed25519PrivateKey] = field(repr=False)
    charter: VerifiedCharter
    plan: VerifiedPlan
    now: datetime

    @classmethod
    def of(cls, root: SoftwareRoot, terms: Terms, now: datetime) -> Consortium:
        """New members who sign for ``terms``."""
        names = [f"site-{number}" for number in range(1, terms.members + 1)]
        keys = {name: Ed25519PrivateKey.generate() for name in names}
        charter = _charter(root, keys, now)
        return cls(root, keys, charter, _plan(charter, keys, terms, now), now)

    def provider(self, role: str) -> ChipProvider:
        """A new chip that runs ``role``."""
        data = host_data(role, self.charter.digest, self.plan.digest)
        return ChipProvider(self.root.issue_chip(now=self.now), _MEASUREMENTS[role], data)

    def membership(self, member: str) -> Membership:
        """What makes a worker ``member``'s."""
        worker_key = Ed25519PrivateKey.generate()
        document = Credential(
            member=member,
            charter=self.charter.digest,
            worker_key=worker_key.public_key().public_bytes_raw(),
            validity=Validity(self.now - _HOUR, self.now + _HOUR),
        )
        return Membership(_envelope(document, credentials.PAYLOAD_TYPE, [self.keys[member]]), worker_key, bytes(32))

    def rule(self, member: str) -> EffectiveRule:
        """What ``member``'s site lets happen: the plan."""
        document = SitePolicy(
            member=member,
            charter=self.charter.digest,
            plans=(self.plan.digest,),
            bundles=(self.plan.document.app.bundle_sha256,),
            max_rounds=self.plan.document.rounds,
            columns=self.plan.document.dataset.columns,
            not_after=self.now + _HOUR,
        )
        envelope = _envelope(document, site_policies.PAYLOAD_TYPE, [self.keys[member]])
        verified = site_policies.verify_site_policy(envelope, self.charter, self.now)
        return site_policies.effective(self.charter, self.plan, verified)


@dataclass(frozen=True, slots=True)
class Admission:
    """Both sides of one admission, to be done again and again without a process or a socket."""

    federation: Federation
    identities: dict[str, Identity]
    membership: Membership
    now: datetime

    @classmethod
    def of(cls, root: SoftwareRoot, now: datetime) -> Admission:
        """Aggregator and worker stand on two chips of ``root``."""
        consortium = Consortium.of(root, Terms(), now)
        identities = {role: Identity.generate(consortium.provider(role)) for role in _MEASUREMENTS}
        federation = Federation(consortium.charter, consortium.plan)
        return cls(federation, identities, consortium.membership("site-1"), now)

    def admit(self) -> None:
        """One worker, from its first frame to an open session on both sides.

        Raises:
            RuntimeError: it was not admitted, so nothing was measured.
        """
        worker = WorkerChannel(self.federation, self.identities[WORKER], self.membership)
        aggregator = AggregatorChannel(self.federation, self.identities[AGGREGATOR], self.now)
        to_aggregator = [worker.begin()]
        while to_aggregator and worker.state is not State.OPEN:
            for frame in aggregator.receive(to_aggregator.pop(), self.now).replies:
                to_aggregator.extend(worker.receive(frame, self.now).replies)
        aggregator.receive(worker.session.send({"type": "hello"}), self.now)
        if aggregator.state is not State.OPEN:
            raise RuntimeError("the worker was not admitted")


def _envelope(document: Any, payload_type: str, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    made = new_envelope(document.encode(), payload_type)
    for key in keys:
        made = sign(made, CryptoSigner(key))
    return made.encode()


def _policy(role: str) -> AppraisalPolicy:
    return AppraisalPolicy.of(snp=development_snp_policy([_MEASUREMENTS[role]]))


def _charter(root: SoftwareRoot, keys: dict[str, Ed25519PrivateKey], now: datetime) -> VerifiedCharter:
    members = tuple(
        Member(name, name, (key.public_key().public_bytes_raw(),), SealingKey.generate().public)
        for name, key in keys.items()
    )
    document = Charter(
        name="benchmark",
        version=1,
        previous=None,
        profile=Profile.DEVELOPMENT,
        validity=Validity(now - _HOUR, now + _HOUR),
        members=members,
        thresholds=Thresholds(len(members), len(members)),
        roots=(root.trust_root,),
        aggregator=_policy(AGGREGATOR),
        worker=_policy(WORKER),
    )
    return charters.verify_charter(_envelope(document, charters.PAYLOAD_TYPE, keys.values()), now)


def _plan(charter: VerifiedCharter, keys: dict[str, Ed25519PrivateKey], terms: Terms, now: datetime) -> VerifiedPlan:
    document = Plan(
        name="benchmark",
        purpose="to be measured",
        charter=charter.digest,
        validity=Validity(now - _HOUR, now + _HOUR),
        app=App(AppKind.FLOWER, bytes(32), ()),
        initial_sha256=terms.initial_sha256,
        layout=terms.layout,
        rounds=terms.rounds,
        cohort=Cohort(tuple(keys), len(keys), len(keys)),
        deadlines=Deadlines(round_s=600, lease_s=120, reattest_s=60),
        aggregation=Aggregation(Rule.WEIGHTED_MEAN, 1.0),
        privacy=Privacy(Mechanism.NONE, "nothing is trained"),
        dataset=DatasetContract(min_rows=1, columns=("x",)),
        metrics=(),
        recipients=("site-1",),
        exchange=terms.exchange,
    )
    return plans.verify_plan(_envelope(document, plans.PAYLOAD_TYPE, keys.values()), charter, now)
