"""A federation in memory, to be admitted into: real documents, keys and evidence, no process and no socket.

Trust zone: the developer's machine. Aggregator and worker stand on two software chips of one root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
from trusted.documents.charter import Charter, Member, Profile, Thresholds, VerifiedCharter
from trusted.documents.credential import Credential
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.plan import Plan, VerifiedPlan
from trusted.documents.schema import Validity
from trusted.documents.terms import (
    Aggregation,
    App,
    AppKind,
    Cohort,
    DatasetContract,
    Deadlines,
    Mechanism,
    Privacy,
    Rule,
)
from trusted.hpke import SealingKey

_MEMBERS = ("site-1", "site-2")
_MEASUREMENTS = {AGGREGATOR: b"\xaa" * 48, WORKER: b"\xbb" * 48}
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _ChipProvider:
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
class Federated:
    """Both sides of one federation, ready to be joined again and again.

    Attributes:
        federation: charter and plan as both sides hold them.
        identities: of aggregator and worker.
        membership: what makes the worker its member's.
        now: the time of everything.
    """

    federation: Federation
    identities: dict[str, Identity]
    membership: Membership
    now: datetime

    @classmethod
    def of(cls, root: SoftwareRoot, now: datetime) -> Federated:
        """A new federation of two members under ``root``."""
        keys = {member: Ed25519PrivateKey.generate() for member in _MEMBERS}
        charter = _charter(root, keys, now)
        plan = _plan(charter, keys, now)
        identities = {
            role: Identity.generate(
                _ChipProvider(root.issue_chip(now=now), measurement, host_data(role, charter.digest, plan.digest))
            )
            for role, measurement in _MEASUREMENTS.items()
        }
        return cls(Federation(charter, plan), identities, _membership(charter, keys[_MEMBERS[0]], now), now)

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


def _plan(charter: VerifiedCharter, keys: dict[str, Ed25519PrivateKey], now: datetime) -> VerifiedPlan:
    document = Plan(
        name="benchmark",
        purpose="to be joined",
        charter=charter.digest,
        validity=Validity(now - _HOUR, now + _HOUR),
        app=App(AppKind.FLOWER, bytes(32), ()),
        initial_sha256=bytes(32),
        layout=Layout((TensorSpec("weight", Dtype.FLOAT32, (1,)),)),
        rounds=1,
        cohort=Cohort(_MEMBERS, len(_MEMBERS), len(_MEMBERS)),
        deadlines=Deadlines(round_s=600, lease_s=120, reattest_s=60),
        aggregation=Aggregation(Rule.WEIGHTED_MEAN, 1.0),
        privacy=Privacy(Mechanism.NONE, "nothing is trained"),
        dataset=DatasetContract(min_rows=1, columns=("x",)),
        metrics=(),
        recipients=(_MEMBERS[0],),
    )
    return plans.verify_plan(_envelope(document, plans.PAYLOAD_TYPE, keys.values()), charter, now)


def _membership(charter: VerifiedCharter, key: Ed25519PrivateKey, now: datetime) -> Membership:
    worker_key = Ed25519PrivateKey.generate()
    document = Credential(
        member=_MEMBERS[0],
        charter=charter.digest,
        worker_key=worker_key.public_key().public_bytes_raw(),
        validity=Validity(now - _HOUR, now + _HOUR),
    )
    return Membership(_envelope(document, credentials.PAYLOAD_TYPE, [key]), worker_key, bytes(32))
