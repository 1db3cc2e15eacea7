"""One training run: gathers members, opens rounds, folds, releases. Trust zone: aggregator TEE. No I/O, no clock.

Rules: the run starts when the host says so and ends by the plan; the host can only stop it. The cohort is drawn here,
from a cryptographic generator. A round opens when enough members are admitted: all that are sampled, or the minimum
once one lease has passed. The model changes only by a committed round.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, unique
from secrets import SystemRandom, token_bytes
from typing import Any

from coordinator.enclave.admissions import Admissions, Arrival
from coordinator.enclave.disclosure import disclosed, parse_metrics
from coordinator.enclave.effects import Emit
from coordinator.enclave.fold import Contribution, ContributionLost, require_finite, weighted_mean
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore, stored_pieces
from coordinator.enclave.release import History, release_model
from coordinator.enclave.rounds import ENDED, Round, RoundEvent, RoundState
from trusted.blob import BlobHeader, BlobKind, ContentKey, open_blob, seal
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import BlobError, DocumentError, ProtocolError, Reason, RoundError
from trusted.wire import Fields, sha256

SENDER = "aggregator"
_MAX_ABANDONED_IN_A_ROW = 3


@unique
class RunState(Enum):
    """Where a run stands, as the public sees it."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


class Run:
    """The run of one plan. Its owner feeds it arrivals and time; it speaks through ``admissions`` and the store."""

    def __init__(self, admissions: Admissions, store: HostStore) -> None:
        self._admissions = admissions
        self._federation = admissions.federation
        self._plan = admissions.federation.plan.document
        self._store = store
        self._random = SystemRandom()
        self._model: GlobalModel | None = None
        self._initial_blobs: dict[str, bytes] = {}
        self._round: Round | None = None
        self._task: dict[str, Any] = {}
        self._model_blob = b""
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
                self._take_initial(arrival.peer, blob, key)
            elif kind == "progress":
                number = fields.integer("round", low=1, high=1 << 31)
                stage = fields.choice("stage", ("download", "train", "upload"))
                percent = fields.integer("percent", low=0, high=100)
                self._emit("progress", member=member, round=number, outcome=f"{stage} {percent} %")
            elif kind == "failed":
                number = fields.integer("round", low=0, high=1 << 31)
                self._failed(member, number, _reason(fields))
            else:
                self._answer(arrival.peer, fields)

    def _ready(self, member: str, *, has_initial: bool) -> None:
        if self.state in {RunState.FINISHED, RunState.STOPPED, RunState.ABANDONED}:
            self._say_closed(member)
        elif self._model is None and has_initial:
            blob = self._initial_blobs.setdefault(member, token_bytes(BLOB_NAME_BYTES))
            size = self._header(BlobKind.INITIAL, 0, member).sealed_bytes
            self._store.expect(blob, size)
            self._admissions.send(member, {"type": "send-initial", "blob": blob.hex(), "bytes": size})
        elif self._round is not None and member in self._round.waiting_for:
            self._send_task(self._round, member)

    def _take_initial(self, peer: AdmittedPeer, blob: bytes, key: ContentKey) -> None:
        if self._model is not None:
            return
        if self._initial_blobs.get(peer.member) != blob:
            raise RoundError(Reason.INITIAL_MODEL, "initial.blob: not the one that was asked for")
        header = self._header(BlobKind.INITIAL, 0, peer.member)
        sealed = stored_pieces(self._store, blob, header)
        opened = open_blob(sealed, expected=header, key=key, verify_key=peer.verify_key)
        self._model = GlobalModel.from_initial(self._plan, opened)
        for name in self._initial_blobs.values():
            self._store.discard(name)
        self._initial_blobs.clear()
        self._emit("initial-model", member=peer.member)

    def _failed(self, member: str, number: int, reason: Reason) -> None:
        if self._round is not None and self._round.number == number:
            self._round.lose(member, reason)
            self._emit("contribution", round=number, member=member, outcome="failed", reason=reason.code)

    def _answer(self, peer: AdmittedPeer, fields: Fields) -> None:
        """Count an update, or refuse it and say why; the round goes on either way."""
        number = fields.integer("round", low=1, high=1 << 31)
        blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
        weight = fields.integer("weight", low=-(1 << 53), high=1 << 53)
        claimed_metrics = fields.mapping("metrics")
        reason: Reason | None = None
        try:
            current = self._require_round(peer.member, number, blob)
            if not 1 <= weight <= self._plan.aggregation.max_weight:
                raise RoundError(Reason.WEIGHT, "update.weight: 1 to the plan's max_weight expected")
            metrics = parse_metrics(dict(claimed_metrics), self._plan)
            header = self._header(BlobKind.UPDATE, number, peer.member)
            contribution = Contribution(peer.member, weight, blob, header, key, peer.verify_key)
            require_finite(self._open(contribution))
            current.count(contribution, metrics)
        except (RoundError, BlobError) as error:
            reason = error.reason
            self._lose_if_answerable(peer.member, number, reason)
        outcome = {"outcome": "counted"} if reason is None else {"outcome": "refused", "reason": reason.code}
        self._emit("contribution", round=number, member=peer.member, **outcome)
        receipt = {"type": "receipt", "round": number, "reason": None if reason is None else int(reason)}
        self._admissions.send(peer.member, receipt)

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
        if self._round is None and self._history.rounds >= self._plan.rounds:
            self._release()  # a door broke while it was stored
            return
        if self._round is None:
            self._open_when_gathered(now)
            return
        self._lose_absent(self._round, now)
        self._round.settle(now)
        if self._round.state is RoundState.CLOSED:
            self._fold(self._round)
        if self._round.state in ENDED:
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
        uploads = {member: token_bytes(BLOB_NAME_BYTES) for member in cohort}
        deadline = now + timedelta(seconds=self._plan.deadlines.round_s)
        opened = Round(self._attempts, uploads, self._plan.cohort.minimum, deadline)
        header = self._header(BlobKind.MODEL, opened.number, SENDER)
        key, name = ContentKey.generate(), token_bytes(BLOB_NAME_BYTES)
        signing_key = self._admissions.identity.signing_key
        self._store.write(name, header.sealed_bytes, seal(header, model.pieces(), key=key, signing_key=signing_key))
        announced = {"blob": name.hex(), "key": key.secret.hex(), "header_sha256": sha256(header.encode()).hex()}
        self._task = {"type": "task", "round": opened.number, "model": announced}
        self._model_blob = name
        opened.advance(RoundEvent.ANNOUNCED)
        self._round = opened
        self._emit("round-opened", round=opened.number, waiting_for=list(opened.waiting_for), bytes=header.sealed_bytes)
        for member in cohort:
            self._send_task(opened, member)

    def _send_task(self, current: Round, member: str) -> None:
        size = self._header(BlobKind.UPDATE, current.number, member).sealed_bytes
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

    def _fold(self, closed: Round) -> None:
        if self._model is None:
            raise RuntimeError("a round was opened without a model")
        while closed.state is RoundState.CLOSED:
            contributions = list(closed.counted.values())
            try:
                update = weighted_mean(contributions, self._open, self._plan.layout.elements)
                folded = self._model.with_update(update)
            except ContributionLost as lost:
                closed.exclude(lost.member, lost.error.reason)
                fields = {"member": lost.member, "outcome": "lost", "reason": lost.error.reason.code}
                self._emit("contribution", round=closed.number, **fields)
                continue
            except BlobError:
                closed.advance(RoundEvent.TOO_FEW)
                return
            closed.advance(RoundEvent.FOLDED)
            self._model = folded
            closed.advance(RoundEvent.COMMITTED)

    def _conclude(self, ended: Round, now: datetime) -> None:
        for blob in (self._model_blob, *ended.uploads.values()):
            self._store.discard(blob)
        self._round = None
        if ended.state is RoundState.COMMITTED:
            self._abandoned_in_a_row = 0
            self._history.committed(ended)
            told = disclosed(self._plan, ended)
            self._emit("round-committed", round=ended.number, outcome=str(self._history.rounds), metrics=told)
        else:
            self._abandoned_in_a_row += 1
            self._emit("round-abandoned", round=ended.number, reason=Reason.COHORT_MINIMUM.code)
        if self._history.rounds >= self._plan.rounds:
            self._release()
        elif self._abandoned_in_a_row >= _MAX_ABANDONED_IN_A_ROW:
            self._end(RunState.ABANDONED)
        else:
            self.proceed(now)

    def _release(self) -> None:
        if self._model is None:
            raise RuntimeError("a run finished without a model")
        identity = self._admissions.identity
        release_model(self._federation, identity, self._store, model=self._model, history=self._history)
        self._emit("released")
        self._end(RunState.FINISHED)

    def _end(self, state: RunState) -> None:
        self.state = state
        self._emit("run-ended", outcome=state.value)
        for member in list(self._admissions.members):
            self._say_closed(member)

    def _say_closed(self, member: str) -> None:
        message = {"type": "closed", "outcome": self.state.value, "rounds": self._history.rounds}
        self._admissions.send(member, message)

    # --- names -----------------------------------------------------------------------------------------------------

    def _header(self, kind: BlobKind, number: int, sender: str) -> BlobHeader:
        layout = self._plan.layout
        return BlobHeader(kind, self._federation.plan.digest, number, sender, layout.digest, layout.elements)

    def _open(self, contribution: Contribution) -> Any:
        sealed = stored_pieces(self._store, contribution.blob, contribution.header)
        return open_blob(sealed, expected=contribution.header, key=contribution.key, verify_key=contribution.verify_key)

    def _emit(self, event: str, **fields: Any) -> None:
        self._admissions.effects.append(Emit(event, fields))


def _reason(fields: Fields) -> Reason:
    """The reason that a worker gives for its failure; it may be lying, but only by a number that exists."""
    try:
        return Reason(fields.integer("reason", low=0, high=999))
    except ValueError:
        raise RoundError(Reason.MALFORMED, "failed.reason: no such reason") from None
