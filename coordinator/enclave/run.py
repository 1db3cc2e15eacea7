"""One training run: gathers members, opens rounds, folds, releases. Trust zone: aggregator TEE. No I/O, no clock.

Rules: the run starts when the host says so and ends by the plan; the host can only stop it. The cohort is drawn here,
from a cryptographic generator. A round opens when enough members are admitted: all that are sampled, or the minimum
once one lease has passed. The model changes only by a committed round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, unique
from secrets import SystemRandom, token_bytes
from typing import Any

from coordinator.enclave.admissions import Admissions, Arrival
from coordinator.enclave.disclosure import disclosed, parse_metrics
from coordinator.enclave.effects import Emit
from coordinator.enclave.fold import Contribution, ContributionLost, check, weighted_mean
from coordinator.enclave.initial import InitialModel
from coordinator.enclave.jobs import Inline, Jobs
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.release import History, release_model
from coordinator.enclave.rounds import ENDED, Round, RoundEvent, RoundState
from coordinator.enclave.stages import Stages, read_stages
from trusted.blob import BlobKind, ContentKey, seal_vector
from trusted.channel.aggregator import AdmittedPeer
from trusted.encoding import Vector
from trusted.errors import BlobError, DocumentError, ProtocolError, Reason, RoundError
from trusted.exchange import AGGREGATOR, Exchanged, announced
from trusted.wire import Fields

_MAX_ABANDONED_IN_A_ROW = 3


@unique
class RunState(Enum):
    """Where a run stands, as the public sees it."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class _Folded:
    """What became of a fold: nothing said is a new model; else who does not open, or that the sum overflowed."""

    lost: Mapping[str, Reason] = field(default_factory=dict)
    overflowed: bool = False


class Run:
    """The run of one plan. Its owner feeds it arrivals and time; it speaks through ``admissions`` and the store.

    ``jobs`` does what takes long (reading, folding, sealing); while the round's own job is at work nothing else of the
    run moves on, but members are admitted, challenged and answered.
    """

    def __init__(self, admissions: Admissions, store: HostStore, jobs: Jobs | None = None) -> None:
        self._admissions = admissions
        self._federation = admissions.federation
        self._plan = admissions.federation.plan.document
        self._exchanged = Exchanged.of(admissions.federation.plan)
        self._store = store
        self._jobs: Jobs = jobs or Inline()
        self._random = SystemRandom()
        self._initial = InitialModel(admissions, store, self._jobs, self._begin_with)
        self._model: GlobalModel | None = None
        self._base: Vector | None = None
        self._base_named: dict[str, Any] = {}
        self._round: Round | None = None
        self._stages: Stages | None = None
        self._task: dict[str, Any] = {}
        self._model_blob = b""
        self._busy = False
        self._attempts = 0
        self._abandoned_in_a_row = 0
        self._gathering_since: datetime | None = None
        self._absent_since: dict[str, datetime] = {}
        self._history = History()
        self.state = RunState.WAITING

    # --- what the host may ask -------------------------------------------------------------------------------------

    def start(self, now: datetime) -> None:
        """Begin, if the run has not begun."""
        if self.state is RunState.WAITING:
            self.state = RunState.RUNNING
            self._emit("run-started", rounds=self._plan.rounds)
            self.proceed(now)

    def stop(self) -> None:
        """End the run without a release. A host can always stop a run, and can do nothing else to it."""
        if self.state in {RunState.WAITING, RunState.RUNNING}:
            self._end(RunState.STOPPED)

    # --- what members say ------------------------------------------------------------------------------------------

    def arrive(self, arrival: Arrival, now: datetime) -> None:
        """Take the messages of an admitted member. A fault ends that member's connection, or costs its contribution."""
        for message in arrival.messages:
            try:
                self._take(arrival, message, now)
            except ProtocolError as error:
                self._admissions.refuse(arrival.connection, error.reason)
                break
        self.proceed(now)

    def _take(self, arrival: Arrival, message: dict[str, Any], now: datetime) -> None:
        member = arrival.peer.member
        with Fields(message, "message") as fields:
            kind = fields.choice("type", ("ready", "initial", "progress", "update", "failed"))
            if kind == "ready":
                self._ready(member, has_initial=fields.boolean("has_initial"))
            elif kind == "initial":
                blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
                self._initial.take(arrival.peer, blob, key, now)
            elif kind == "progress":
                number = fields.integer("round", low=1, high=1 << 31)
                stage = fields.choice("stage", ("download", "train", "upload"))
                percent = fields.integer("percent", low=0, high=100)
                self._emit("progress", member=member, round=number, outcome=f"{stage} {percent} %")
            elif kind == "failed":
                number = fields.integer("round", low=0, high=1 << 31)
                self._failed(member, number, _reason(fields))
            else:
                self._answer(arrival.peer, fields, now)

    def _ready(self, member: str, *, has_initial: bool) -> None:
        if self.state in {RunState.FINISHED, RunState.STOPPED, RunState.ABANDONED}:
            self._say_closed(member)
        elif self._model is None and has_initial:
            self._initial.ask(member)
        elif self._round is not None and self._round.awaits(member):
            self._send_task(self._round, member)

    def _begin_with(self, member: str, model: GlobalModel, now: datetime) -> None:
        """``member`` brought the initial model. Where only a part is exchanged, the whole is sealed once for all."""
        self._emit("initial-model", member=member)
        if not self._exchanged.is_partial:
            self._model = model
            self.proceed(now)
            return
        self._base = model.vector
        part = GlobalModel(self._exchanged.taken_from(model.vector))

        def sealed(base: dict[str, Any], later: datetime) -> None:
            self._base_named = base
            self._model = part
            self.proceed(later)

        self._jobs.submit(lambda: self._seal(BlobKind.BASE, 0, model.vector), sealed, now)

    def _failed(self, member: str, number: int, reason: Reason) -> None:
        if self._round is not None and self._round.number == number:
            self._round.lose(member, reason)
            self._emit("contribution", round=number, member=member, outcome="failed", reason=reason.code)

    def _answer(self, peer: AdmittedPeer, fields: Fields, now: datetime) -> None:
        """Count an update and read it, or refuse it and say why; the round goes on either way."""
        number = fields.integer("round", low=1, high=1 << 31)
        blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
        weight = fields.integer("weight", low=-(1 << 53), high=1 << 53)
        claimed_metrics = fields.mapping("metrics")
        seconds = read_stages(fields.mapping("seconds")) if fields.has("seconds") else None
        try:
            current = self._require_round(peer.member, number, blob)
            if not 1 <= weight <= self._plan.aggregation.max_weight:
                raise RoundError(Reason.WEIGHT, "update.weight: 1 to the plan's max_weight expected")
            metrics = parse_metrics(dict(claimed_metrics), self._plan)
        except RoundError as error:
            self._lose_if_answerable(peer.member, number, error.reason)
            self._tell(peer.member, number, error.reason)
            return
        header = self._exchanged.header(BlobKind.UPDATE, number, peer.member)
        contribution = Contribution(peer.member, weight, blob, header, key, peer.verify_key)
        current.count(contribution, metrics)
        if seconds is not None and self._stages is not None:
            self._stages.add_worker(seconds)
        self._read(current, contribution, now)

    def _require_round(self, member: str, number: int, blob: bytes) -> Round:
        if self._round is None:
            raise RoundError(Reason.ROUND_CLOSED, "update: no round is open")
        self._round.require_accepts(member, number)
        if self._round.uploads[member] != blob:
            raise RoundError(Reason.ROUND_STATE, "update.blob: not the one that this member was given")
        return self._round

    def _lose_if_answerable(self, member: str, number: int, reason: Reason) -> None:
        """A refused update is this member's answer, unless it answers another round or a second time."""
        if self._round is not None and self._round.number == number and reason is not Reason.DUPLICATE:
            self._round.lose(member, reason)

    def _read(self, current: Round, contribution: Contribution, now: datetime) -> None:
        """Read an update while the round collects; once the round is closed the fold reads what is left."""

        def read() -> Reason | None:
            closed = lambda: current.state is not RoundState.COLLECTING  # noqa: E731
            return _fault_of(contribution, self._store, closed)

        def was_read(fault: Reason | None, _: datetime) -> None:
            member = contribution.member
            if current.state is not RoundState.COLLECTING or member not in current.unread:
                return
            if fault is None:
                current.found_good(member)
            else:
                current.found_bad(member, fault)
            self._tell(member, current.number, fault)

        def was_read_and_on(fault: Reason | None, later: datetime) -> None:
            was_read(fault, later)
            self.proceed(later)

        self._jobs.submit_later(read, was_read_and_on, now)

    def _tell(self, member: str, number: int, fault: Reason | None) -> None:
        """Everybody, and the member itself, whether its update counts."""
        outcome = {"outcome": "counted"} if fault is None else {"outcome": "refused", "reason": fault.code}
        self._emit("contribution", round=number, member=member, **outcome)
        receipt = {"type": "receipt", "round": number, "reason": None if fault is None else int(fault)}
        self._admissions.send(member, receipt)

    # --- time ------------------------------------------------------------------------------------------------------

    def proceed(self, now: datetime) -> None:
        """Do whatever can be done now: open a round, close it, fold it, finish."""
        if self.state is not RunState.RUNNING:
            return
        try:
            self._federation.require_valid(now)
        except DocumentError as error:
            self._emit("expired", reason=error.reason.code)
            self._end(RunState.ABANDONED)
            return
        if self._busy:
            return
        if self._round is None and self._history.rounds >= self._plan.rounds:
            self._release(now)  # no round too many, whatever kept the release from its beginning
            return
        if self._round is None:
            self._open_when_gathered(now)
            return
        self._lose_absent(self._round, now)
        self._round.settle(now)
        if self._round.state is RoundState.CLOSED:
            self._fold(self._round, now)
        elif self._round.state in ENDED:
            self._conclude(self._round, now)

    def _open_when_gathered(self, now: datetime) -> None:
        present = sorted(self._admissions.members)
        cohort = self._plan.cohort
        if self._model is None or len(present) < cohort.minimum:
            self._gathering_since = None
            return
        self._gathering_since = self._gathering_since or now
        patience = timedelta(seconds=self._plan.deadlines.lease_s)
        if len(present) < cohort.size and now - self._gathering_since < patience:
            return
        self._gathering_since = None
        sampled = self._random.sample(present, min(cohort.size, len(present)))
        self._open_round(sampled, self._model, now)

    def _open_round(self, cohort: list[str], model: GlobalModel, now: datetime) -> None:
        self._attempts += 1
        number, vector = self._attempts, model.vector
        uploads = {member: token_bytes(BLOB_NAME_BYTES) for member in cohort}
        self._busy, self._stages = True, Stages(now)

        def sealed(named: dict[str, Any], later: datetime) -> None:
            self._busy = False
            self._model_blob = bytes.fromhex(named["blob"])
            if self.state is not RunState.RUNNING:
                self._store.discard(self._model_blob)
                return
            deadline = later + timedelta(seconds=self._plan.deadlines.round_s)
            self._announce(Round(number, uploads, self._plan.cohort.minimum, deadline), named, later)

        self._jobs.submit(lambda: self._seal(BlobKind.MODEL, number, vector), sealed, now)

    def _announce(self, opened: Round, named: dict[str, Any], now: datetime) -> None:
        if self._stages is not None:
            self._stages.mark("broadcast", now)
        self._task = {"type": "task", "round": opened.number, "model": named}
        if self._base_named:
            self._task["base"] = self._base_named
        opened.advance(RoundEvent.ANNOUNCED)
        self._round = opened
        size = self._exchanged.header(BlobKind.MODEL, opened.number, AGGREGATOR).sealed_bytes
        self._emit("round-opened", round=opened.number, waiting_for=list(opened.waiting_for), bytes=size)
        for member in opened.uploads:
            self._send_task(opened, member)

    def _send_task(self, current: Round, member: str) -> None:
        size = self._exchanged.header(BlobKind.UPDATE, current.number, member).sealed_bytes
        blob = current.uploads[member]
        self._store.expect(blob, size)
        self._admissions.send(member, self._task | {"upload": {"blob": blob.hex(), "bytes": size}})

    def _lose_absent(self, current: Round, now: datetime) -> None:
        """A member that has been gone for one lease costs its own contribution, and nobody else's time."""
        gone = set(current.waiting_for) - set(self._admissions.members)
        self._absent_since = {member: self._absent_since.get(member, now) for member in gone}
        for member, since in self._absent_since.items():
            if now - since >= timedelta(seconds=self._plan.deadlines.lease_s):
                current.lose(member, Reason.LEASE_EXPIRED)
                fields = {"member": member, "outcome": "gone", "reason": Reason.LEASE_EXPIRED.code}
                self._emit("contribution", round=current.number, **fields)

    def _fold(self, closed: Round, now: datetime) -> None:
        if self._model is None or self._stages is None:
            raise RuntimeError("a round was opened without a model")
        self._busy, model = True, self._model
        self._stages.mark("collect", now)
        contributions, unread = list(closed.counted.values()), frozenset(closed.unread)

        def fold() -> _Folded:
            try:
                weighted_mean(contributions, self._store, model=model.vector, out=model.room(), jobs=self._jobs)
            except ContributionLost as lost:
                others = [entry for entry in contributions if entry.member in unread - {lost.member}]
                return _Folded({lost.member: lost.error.reason} | _faults(others, self._store))
            except BlobError:
                return _Folded(overflowed=True)
            return _Folded()

        self._jobs.submit(fold, lambda folded, later: self._folded(closed, folded, later), now)

    def _folded(self, closed: Round, folded: _Folded, now: datetime) -> None:
        self._busy = False
        if self.state is not RunState.RUNNING or self._model is None or self._stages is None:
            return
        self._stages.mark("fold", now)
        if folded.overflowed:
            closed.advance(RoundEvent.TOO_FEW)
        elif folded.lost:
            self._lose_in_fold(closed, folded.lost)
        else:
            closed.advance(RoundEvent.FOLDED)
            for member in sorted(closed.unread):
                closed.found_good(member)
                self._tell(member, closed.number, None)
            self._model = self._model.advanced()
            closed.advance(RoundEvent.COMMITTED)
        self.proceed(now)

    def _lose_in_fold(self, closed: Round, lost: Mapping[str, Reason]) -> None:
        """Go on without whoever does not open; but who was finite when it was read, and now is not, has two faces."""
        two_faced = [member for member, reason in lost.items() if reason is Reason.NON_FINITE]
        two_faced = [member for member in two_faced if member not in closed.unread]
        for member, reason in lost.items():
            if member in closed.unread:
                self._tell(member, closed.number, reason)
            else:
                fields = {"member": member, "outcome": "lost", "reason": reason.code}
                self._emit("contribution", round=closed.number, **fields)
        if two_faced:
            closed.advance(RoundEvent.TOO_FEW)
        else:
            closed.exclude(lost)

    def _conclude(self, ended: Round, now: datetime) -> None:
        for blob in (self._model_blob, *ended.uploads.values()):
            self._store.discard(blob)
        self._round = None
        if ended.state is RoundState.COMMITTED:
            self._abandoned_in_a_row = 0
            self._history.committed(ended)
            told = disclosed(self._plan, ended)
            self._emit("round-committed", round=ended.number, outcome=str(self._history.rounds), metrics=told)
            if self._stages is not None:
                self._emit("round-stages", round=ended.number, metrics=self._stages.to_json())
        else:
            self._abandoned_in_a_row += 1
            self._emit("round-abandoned", round=ended.number, reason=Reason.COHORT_MINIMUM.code)
        if self._history.rounds >= self._plan.rounds:
            self._release(now)
        elif self._abandoned_in_a_row >= _MAX_ABANDONED_IN_A_ROW:
            self._end(RunState.ABANDONED)
        else:
            self.proceed(now)

    def _release(self, now: datetime) -> None:
        if self._model is None:
            raise RuntimeError("a run finished without a model")
        whole = self._model.vector
        if self._base is not None:
            whole = self._base
            self._exchanged.put_into(whole, self._model.vector)
        identity, history = self._admissions.identity, self._history
        self._busy = True

        def released(_: None, later: datetime) -> None:
            self._busy = False
            if self.state is RunState.RUNNING:
                self._emit("released")
                self._end(RunState.FINISHED)

        self._jobs.submit(
            lambda: release_model(self._federation, identity, self._store, model=whole, history=history), released, now
        )

    def _end(self, state: RunState) -> None:
        self.state = state
        self._emit("run-ended", outcome=state.value)
        for member in list(self._admissions.members):
            self._say_closed(member)

    def _say_closed(self, member: str) -> None:
        message = {"type": "closed", "outcome": self.state.value, "rounds": self._history.rounds}
        self._admissions.send(member, message)

    def _seal(self, kind: BlobKind, number: int, vector: Vector) -> dict[str, Any]:
        """Seal ``vector`` once for everybody and store it; how a task names it."""
        header = self._exchanged.header(kind, number, AGGREGATOR)
        key, name = ContentKey.generate(), token_bytes(BLOB_NAME_BYTES)
        sealed = seal_vector(header, vector, key=key, signing_key=self._admissions.identity.signing_key)
        self._store.write(name, header.sealed_bytes, sealed)
        return announced(name, key.secret, header)

    def _emit(self, event: str, **fields: Any) -> None:
        self._admissions.effects.append(Emit(event, fields))


def _fault_of(contribution: Contribution, store: HostStore, given_up: Callable[[], bool]) -> Reason | None:
    """What is wrong with an update, or None. Once it is ``given_up`` the answer means nothing."""
    try:
        check(contribution, store, given_up=given_up)
    except ContributionLost as lost:
        return lost.error.reason
    return None


def _faults(contributions: Iterable[Contribution], store: HostStore) -> dict[str, Reason]:
    """Everybody among them whose update does not open: so that many bad ones cost one more fold, and not one each."""
    found = {entry.member: _fault_of(entry, store, lambda: False) for entry in contributions}
    return {member: fault for member, fault in found.items() if fault is not None}


def _reason(fields: Fields) -> Reason:
    """The reason that a worker gives for its failure; it may be lying, but only by a number that exists."""
    try:
        return Reason(fields.integer("reason", low=0, high=999))
    except ValueError:
        raise RoundError(Reason.MALFORMED, "failed.reason: no such reason") from None
