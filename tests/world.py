"""A small federation in memory: real documents, real keys, real evidence under a software root; no process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.effects import Close, Effect, Emit, Send
from softtee.chip import Chip, SoftwareRoot
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.blob import ContentKey, open_blob, seal
from trusted.channel.federation import Federation
from trusted.channel.refusal import refusal
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
from trusted.errors import ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.tables import Tables
from trusted.wire import sha256
from worker.memory import Included, Keeper, Memory
from worker.participant import Answer, Closed, Evaluate, Participant, Receipt, SendInitial, Train

NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)  # after the fixtures made their certificates
AGGREGATOR_MEASUREMENT = b"\xaa" * 48
WORKER_MEASUREMENT = b"\xbb" * 48
MEASUREMENTS = {"aggregator": AGGREGATOR_MEASUREMENT, "worker": WORKER_MEASUREMENT}
MEMBERS = ("site-1", "site-2", "site-3", "site-4")
LAYOUT = Layout((TensorSpec("weight", Dtype.FLOAT32, (40, 25)), TensorSpec("bias", Dtype.FLOAT32, (7,))))
INITIAL = np.linspace(-1, 1, LAYOUT.elements, dtype="<f4")


def policy(measurement: bytes) -> AppraisalPolicy:
    """What a development charter asks for."""
    return AppraisalPolicy.of(snp=development_snp_policy([measurement]))


def envelope(document: Any, payload_type: str, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """``document`` signed by ``keys``."""
    made = new_envelope(document.encode(), payload_type)
    for key in keys:
        made = sign(made, CryptoSigner(key))
    return made.encode()


@dataclass(frozen=True)
class ChipProvider:
    """Evidence as a software TEE gives it: the platform, not the guest, knows measurement and host data."""

    chip: Chip
    measurement: bytes
    host_data: bytes
    gpus: Callable[[bytes], tuple[Evidence, ...]] = lambda challenge: ()

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return self.gpus(challenge)

    def evidence(self, report_data: bytes) -> Evidence:
        return self.chip.attest(report_data=report_data, measurement=self.measurement, host_data=self.host_data)


@dataclass
class World:
    """Everything that a federation's members agreed on, and the secrets that only a test may hold all of."""

    root: SoftwareRoot
    chip: Chip
    members: tuple[str, ...] = MEMBERS
    plan_changes: dict[str, Any] = field(default_factory=dict)
    charter_changes: dict[str, Any] = field(default_factory=dict)
    site_changes: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.signing = {member: Ed25519PrivateKey.generate() for member in self.members}
        self.sealing = {member: SealingKey.generate() for member in self.members}
        self.worker_keys = {member: Ed25519PrivateKey.generate() for member in self.members}
        self.charter = self.make_charter()
        self.plan = self.make_plan(**self.plan_changes)
        self.federation = Federation(self.charter, self.plan)

    def make_charter(self) -> VerifiedCharter:
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
            validity=Validity(self.now - timedelta(days=1), self.now + timedelta(days=30)),
            members=members,
            thresholds=Thresholds(quorum, quorum),
            roots=(self.root.trust_root,),
            aggregator=policy(AGGREGATOR_MEASUREMENT),
            worker=policy(WORKER_MEASUREMENT),
        )
        document = replace(document, **self.charter_changes)
        return charters.verify_charter(envelope(document, charters.PAYLOAD_TYPE, self.signing.values()), self.now)

    def make_plan(self, **changes: Any) -> VerifiedPlan:
        data = INITIAL.tobytes()
        document = Plan(
            name="plan",
            purpose="tests",
            charter=self.charter.digest,
            validity=Validity(self.now - timedelta(days=1), self.now + timedelta(days=20)),
            app=App.read({"kind": "flower", "bundle_sha256": "00" * 32, "config": {}}),
            initial_sha256=initial_digest(LAYOUT, data),
            layout=LAYOUT,
            rounds=2,
            cohort=Cohort(self.members, 2, len(self.members)),
            deadlines=Deadlines(round_s=600, lease_s=120, reattest_s=60),
            aggregation=Aggregation.read({"rule": "weighted-mean", "max_weight": 1000}),
            privacy=Privacy.read({"mechanism": "none", "reason": "a test"}),
            dataset=DatasetContract(min_rows=1, columns=("x",)),
            metrics=(MetricRule("auc", 2, 3),),
            recipients=(self.members[0],),
        )
        document = replace(document, **changes)
        return plans.verify_plan(envelope(document, plans.PAYLOAD_TYPE, self.signing.values()), self.charter, self.now)

    def provider(
        self, role: str, *, measurement: bytes | None = None, plan: VerifiedPlan | None = None
    ) -> ChipProvider:
        data = host_data(role, self.charter.digest, (plan or self.plan).digest)
        return ChipProvider(self.chip, measurement or MEASUREMENTS[role], data)

    def identity(self, role: str, **changes: Any) -> Identity:
        return Identity.generate(self.provider(role, **changes))

    def membership(self, member: str, *, signed_by: str | None = None) -> Membership:
        document = credentials.Credential(
            member=member,
            charter=self.charter.digest,
            worker_key=self.worker_keys[member].public_key().public_bytes_raw(),
            validity=Validity(self.now - timedelta(days=1), self.now + timedelta(days=10)),
        )
        signed = envelope(document, credentials.PAYLOAD_TYPE, [self.signing[signed_by or member]])
        return Membership(signed, self.worker_keys[member], b"\xcc" * 32)

    def worker_channel(self, member: str, **identity: Any) -> WorkerChannel:
        return WorkerChannel(self.federation, self.identity("worker", **identity), self.membership(member))

    def participant(self, member: str, keeper: Keeper | None = None) -> Participant:
        document = site_policies.SitePolicy(
            member=member,
            charter=self.charter.digest,
            plans=(self.plan.digest,),
            bundles=(self.plan.document.app.bundle_sha256,),
            max_rounds=100,
            columns=self.plan.document.dataset.columns,
            not_after=self.now + timedelta(days=10),
        )
        document = replace(document, **self.site_changes)
        signed = envelope(document, site_policies.PAYLOAD_TYPE, [self.signing[member]])
        verified = site_policies.verify_site_policy(signed, self.charter, self.now)
        memory = Memory.recall(member, self.plan.digest, self.worker_keys[member], keeper)
        return Participant(self.federation, site_policies.effective(self.charter, self.plan, verified), memory)


class MemoryStore:
    """An honest host's store; a test makes it dishonest by changing ``blobs``."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.expected: dict[bytes, int] = {}

    def expect(self, blob: bytes, size_bytes: int) -> None:
        self.expected[blob] = size_bytes

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        return self.blobs.get(blob, b"")[offset : offset + size_bytes]

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[bytes]) -> None:
        self.blobs[blob] = b"".join(bytes(piece) for piece in pieces)
        if len(self.blobs[blob]) != size_bytes:
            raise ValueError("not the announced size")

    def discard(self, blob: bytes) -> None:
        self.blobs.pop(blob, None)


class SimpleSite:
    """A worker in memory: really attested, really sealed, and training by a formula."""

    def __init__(self, world: World, member: str, *, has_initial: bool = False, **identity: Any) -> None:
        self.world = world
        self.member = member
        self.identity = world.identity("worker", **identity)
        self.channel = WorkerChannel(world.federation, self.identity, world.membership(member))
        self.participant = world.participant(member)
        self.has_initial = has_initial
        self.receipts: list[Reason | None] = []
        self.included: list[Included] = []
        self.closed: Closed | None = None
        self.error: ProtocolError | None = None
        self.tasks: list[Train] = []
        self.models: list[np.ndarray] = []
        self.weight = 10 * (1 + world.members.index(member))
        self.metrics: dict[str, float] = {"auc": 0.5}
        self.automatic = True
        self.evaluations: list[Evaluate] = []
        self.tables: Tables | None = None

    def delta(self, model: np.ndarray) -> np.ndarray:
        return np.full_like(model, 0.25 * (1 + self.world.members.index(self.member)))


class Net:
    """The host between sites and aggregator, honest until a test overrides one of its methods."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        self.world = world
        self.store = store or MemoryStore()
        self.aggregator = self.make_aggregator()
        self.sites: dict[int, SimpleSite] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.closed: dict[int, Reason] = {}
        self.now = world.now
        self.due: deque[Effect] = deque()
        self.is_performing = False
        self.messages: dict[int, dict[str, Any]] = {}  # the last of each type that a site was sent

    def make_aggregator(self) -> Aggregator:
        return Aggregator(self.world.federation, self.world.identity("aggregator"), self.store)

    # what a host may do with a frame or an update on its way
    def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
        return [frame]

    def to_worker(self, connection: int, frame: bytes) -> list[bytes]:
        return [frame]

    def join(self, site: SimpleSite) -> int:
        connection = len(self.sites) + 1
        self.sites[connection] = site
        self.perform(self.aggregator.attach(connection, self.now))
        self.up(connection, site.channel.begin())
        return connection

    def up(self, connection: int, frame: bytes) -> None:
        for passed in self.to_aggregator(connection, frame):
            self.perform(self.aggregator.receive(connection, passed, self.now))

    def perform(self, effects: tuple[Effect, ...]) -> None:
        """Do what the aggregator asks, in its order, also where that makes it ask for more."""
        self.due.extend(effects)
        if self.is_performing:
            return
        self.is_performing = True
        try:
            while self.due:
                self.perform_one(self.due.popleft())
        finally:
            self.is_performing = False

    def perform_one(self, effect: Effect) -> None:
        if isinstance(effect, Emit):
            self.events.append((effect.event, dict(effect.fields)))
        elif isinstance(effect, Close):
            self.closed[effect.connection] = effect.reason
        elif isinstance(effect, Send) and effect.connection in self.sites:
            for frame in self.to_worker(effect.connection, effect.frame):
                self.down(effect.connection, frame)

    def down(self, connection: int, frame: bytes) -> None:
        site = self.sites[connection]
        opened_before = site.channel.state
        try:
            received = site.channel.receive(frame, self.now)
        except ProtocolError as error:
            site.error = error
            if error.reason is not Reason.PEER_REFUSED:
                self.up(connection, refusal(error.reason))
            return
        opened_now = site.channel.state is not opened_before and site.channel.state.value == "open"
        for reply in received.replies:
            self.up(connection, reply)
        if opened_now:
            self.say(connection, site.participant.ready(has_initial=site.has_initial))
        for message in received.messages:
            self.messages.setdefault(connection, {})[message["type"]] = message
            self.act(connection, site.participant.take(message, self.now))

    def say(self, connection: int, message: dict[str, Any]) -> None:
        self.up(connection, self.sites[connection].channel.session.send(message))

    def act(self, connection: int, action: Any) -> None:
        site = self.sites[connection]
        if isinstance(action, Answer):
            self.say(connection, action.message)
        elif isinstance(action, Included):
            site.included.append(action)
        elif isinstance(action, Receipt):
            site.receipts.append(action.reason)
        elif isinstance(action, Closed):
            site.closed = action
        elif isinstance(action, SendInitial):
            key = ContentKey.generate()
            pieces = seal(action.header, [INITIAL.tobytes()], key=key, signing_key=site.identity.signing_key)
            self.store.blobs[action.blob] = b"".join(pieces)
            self.say(connection, {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()})
        elif isinstance(action, Evaluate):
            site.evaluations.append(action)
            if site.automatic:
                self.evaluate(connection, action)
        elif isinstance(action, Train):
            site.tasks.append(action)
            if site.automatic:
                self.contribute(connection, action)

    def train(self, site: SimpleSite, task: Train) -> np.ndarray:
        opened = open_blob(
            [self.store.blobs[task.model_blob]],
            expected=task.model_header,
            key=task.model_key,
            verify_key=task.model.signer,
        )
        model = np.frombuffer(b"".join(opened), dtype="<f4")
        site.models.append(model)
        return site.delta(model)

    def contribute(self, connection: int, task: Train, **changes: Any) -> dict[str, Any]:
        site = self.sites[connection]
        delta = changes.pop("delta", None)
        delta = self.train(site, task) if delta is None else delta
        key = ContentKey.generate()
        header = changes.pop("header", task.upload_header)
        signing_key = changes.pop("signing_key", site.identity.signing_key)
        pieces = seal(header, [np.asarray(delta, dtype="<f4").tobytes()], key=key, signing_key=signing_key)
        sealed = b"".join(pieces)
        self.store.blobs[task.upload] = self.stored(connection, sealed)
        message = {
            "type": "update",
            "round": task.round,
            "blob": task.upload.hex(),
            "key": key.secret.hex(),
            "prefix_sha256": sha256(sealed[: header.prefix_bytes]).hex(),
            "weight": site.weight,
            "metrics": site.metrics,
        } | changes
        self.say(connection, message)
        return message

    def evaluate(self, connection: int, task: Evaluate, **changes: Any) -> None:
        """The final model opens for its sites, which answer with the tables that a test gave them."""
        site, model = self.sites[connection], task.model
        stored = [self.store.blobs[model.blob]]
        opened = open_blob(stored, expected=model.header, key=model.key, verify_key=model.signer)
        site.models.append(np.frombuffer(b"".join(opened), dtype="<f4"))
        tables = None if site.tables is None else site.tables.encode().hex()
        reasons = {} if site.tables is not None else {"scores": int(Reason.APP_ROWS)}
        message = {"type": "evaluated", "round": task.round, "rows": site.weight, "metrics": site.metrics}
        self.say(connection, message | {"tables": tables, "reasons": reasons} | changes)

    def stored(self, connection: int, sealed: bytes) -> bytes:
        return sealed

    def start(self) -> None:
        self.perform(self.aggregator.start(self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.perform(self.aggregator.tick(self.now))

    def outcomes(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]
