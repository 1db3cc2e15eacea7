"""One training run, from its start order to its end. Trust zone: aggregator TEE. No I/O, no clock.

Rules: the run starts when the host says so and ends by the plan; the host can only pause or stop it. What members say
goes to the part of the run that it concerns; a fault in it costs its sender a contribution, or its session.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, unique
from typing import Any

from coordinator.enclave.admissions import Admissions, Arrival
from coordinator.enclave.answers import Answers
from coordinator.enclave.attendance import Attendance
from coordinator.enclave.beginning import Beginning
from coordinator.enclave.closing import ClosingNote
from coordinator.enclave.course import Course
from coordinator.enclave.ending import Ending
from coordinator.enclave.evaluating import Evaluating
from coordinator.enclave.initial import InitialModel
from coordinator.enclave.jobs import Inline, Jobs
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.record import SealedVector
from coordinator.enclave.resuming import Resumed
from coordinator.enclave.round_loop import RoundLoop
from coordinator.enclave.sealing import Sealer
from coordinator.enclave.server_app import Exchanges, ServerApp, Turns
from coordinator.enclave.stages import Stages
from coordinator.enclave.vigil import MAX_BEAT, STAGES, Sign
from coordinator.enclave.witnesses import Witnesses, refusal_event
from trusted.blob import BlobKind, ContentKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.encoding import Vector
from trusted.errors import DocumentError, LedgerError, ProtocolError, Reason, RoundError
from trusted.exchange import Exchanged
from trusted.ledger import leaves
from trusted.ledger.leaves import Outcome
from trusted.ledger.witness import Epoch
from trusted.wire import Fields

_MAX_ABANDONED_IN_A_ROW = 3
_KINDS = ("ready", "promised", "cosigned", "initial", "progress", "update", "failed", "heard", "away", "evaluated")
_SERVER_APP_KINDS = tuple("reply" if kind == "update" else kind for kind in _KINDS)


@unique
class RunState(Enum):
    """Where a run stands, as the public sees it."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


class Run:
    """The run of one plan. Its owner feeds it arrivals and time; it speaks through ``admissions`` and the store.

    Time is the run's own: the clock's, less all by which that ever ``jumped``. What is to last so long does so.

    ``jobs`` does what takes long (reading, folding, sealing); while the round's own job is at work nothing else of the
    run moves on, but members are admitted, challenged and answered. ``server_app`` is the child for a plan that has the
    app's own server, and only for one.
    """

    def __init__(
        self,
        admissions: Admissions,
        store: HostStore,
        jobs: Jobs | None = None,
        server_app: ServerApp | None = None,
    ) -> None:
        self._admissions = admissions
        jobs = jobs or Inline()
        exchanged = Exchanged.of(admissions.federation.plan)
        self._witnesses = Witnesses(admissions, self._epoch_began)
        sealer = Sealer(exchanged, store, admissions.identity)
        self._course = Course(admissions, store, jobs, exchanged, self._witnesses, sealer)
        self._answers = Answers(admissions, store, jobs, exchanged, self.proceed)
        self._beginning = Beginning(self._course, self._began, self._resumed, self._ended_before)
        self._initial = InitialModel(admissions, store, jobs, self._begin_with)
        if (server_app is not None) != self._course.has_server_app:
            raise ValueError("an app's own server is for a plan with this rule, and only for one")
        self._attendance = Attendance(self._course)
        self._exchanges: Exchanges | None = None
        self._rounds: RoundLoop | Exchanges
        if server_app is None:
            self._rounds = RoundLoop(self._course, self._answers, self._attendance, self._concluded)
        else:
            done, failing = self._concluded, self._server_app_failed
            turns = Turns(self._course, server_app, proceed=self.proceed, concluded=done, failing=failing)
            self._exchanges = Exchanges(self._course, turns, self._answers, self._attendance)
            self._rounds = self._exchanges
        self._ending = Ending(self._course, lambda now: self._end(RunState.FINISHED, now))
        self._evaluating = Evaluating(self._course, self._attendance.missing_since, self._ending.release)
        self._holders: set[str] = set()  # of the initial model
        self._paused: bool | None = None  # until an order says so
        self._invalid_since: datetime | None = None
        self._told_overtaken = False  # by another aggregator
        self.jumped = timedelta(0)
        self.state = RunState.WAITING

    @property
    def is_writing(self) -> bool:
        """Whether something is on its way to the host that a successor would miss."""
        journal = self._course.journal
        return journal is not None and journal.is_writing

    @property
    def _is_over(self) -> bool:
        return self.state not in {RunState.WAITING, RunState.RUNNING}

    @property
    def _stages(self) -> Stages | None:
        return None if isinstance(self._rounds, Exchanges) else self._rounds.stages

    @property
    def is_awaited(self) -> bool:
        """Somebody who took part has not heard yet that the run is over."""
        return self._is_over and bool(self._ending.awaited)

    # --- what the host may ask -------------------------------------------------------------------------------------

    def start(self, now: datetime) -> None:
        """Begin, or go on, if the run has not done so here."""
        if self.state is RunState.WAITING:
            self.state = RunState.RUNNING
            terms = self._course.plan.aggregation
            rounds = terms.max_exchanges if self._course.has_server_app else self._course.plan.rounds
            self._course.emit("run-started", rounds=rounds)
            self.proceed(now)

    def pause(self, now: datetime) -> None:
        """Open no further round; the one that is open comes to its end. A run that is over stays so."""
        if not self._is_over and not self._paused:
            self._paused = True
            self._course.emit("run-paused")
            self.proceed(now)

    def unpause(self, now: datetime) -> None:
        """Open rounds again. The public is told also of an order that an earlier aggregator did not live to hear."""
        if not self._is_over and self._paused is not False:
            self._paused = False
            self._course.emit("run-resumed")
            self.proceed(now)

    def stop(self, now: datetime) -> None:
        """End the run without a release. A host can always stop a run, and can do nothing else to its result."""
        if not self._is_over:
            self._end(RunState.STOPPED, now)

    def drain(self, now: datetime) -> None:
        """This aggregator is about to go: it opens nothing more, and a successor goes on from what is stored."""
        if not self._is_over:
            self._paused = True
            self._course.emit("aggregator-drains")

    # --- what members say ------------------------------------------------------------------------------------------

    def arrive(self, arrival: Arrival, now: datetime) -> None:
        """Take the messages of an admitted member. A fault ends that member's connection, or costs its contribution."""
        for message in arrival.messages:
            try:
                self._take(arrival.peer, message, now)
            except ProtocolError as error:
                self._admissions.refuse(arrival.connection, error.reason)
                break
        self.proceed(now)

    def _take(self, peer: AdmittedPeer, message: dict[str, Any], now: datetime) -> None:
        member = peer.member
        with Fields(message, "message") as fields:
            kind = fields.choice("type", _KINDS if self._exchanges is None else _SERVER_APP_KINDS)
            if kind == "ready":
                self._ready(member, fields, now)
            elif kind == "promised":
                if self._witnesses.take(peer, fields):
                    if self._witnesses.promised[member].record is not None:
                        self.start(now)  # an earlier aggregator did: a host does not say so of a run that is over
                    self._promised(member, now)
            elif kind == "cosigned":
                self._course.require_journal().take(peer, fields, now)
            elif kind == "initial":
                blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
                self._initial.take(peer, blob, key, now)
            elif kind == "progress":
                number = fields.integer("round", low=1, high=1 << 31)
                stage = fields.choice("stage", STAGES)
                percent = fields.integer("percent", low=0, high=100)
                beat = fields.integer("beat", low=0, high=MAX_BEAT) if fields.has("beat") else 0
                sign = Sign(stage, percent, beat, now)
                if self._evaluating.is_open:
                    self._evaluating.hear(member, sign)
                else:
                    self._attendance.hear(self._rounds.current, member, number, sign)
            elif kind == "evaluated":
                self._evaluating.take(peer, fields)
            elif kind == "failed" and self._evaluating.is_open:
                self._evaluating.failed(member, fields)
            elif kind == "heard":
                self._ending.heard(member)
            elif kind == "away":
                self._away(member, fields.take("reason", int, type(None)))
            elif kind == "failed":
                self._answers.failed(member, fields, self._rounds.current)
            elif self._exchanges is not None:
                self._exchanges.reply(peer, fields, now)
            else:
                self._answers.update(peer, fields, self._rounds.current, self._stages, now)

    def _away(self, member: str, number: int | None) -> None:
        """``member`` takes no task for now, goes, or takes tasks again. A site may always do less."""
        course, resting = self._course, self._course.resting
        if number is None:
            if resting.pop(member, None) is not None:
                course.emit("back", member=member)
        elif number == Reason.SITE_PAUSED:
            resting[member] = Reason.SITE_PAUSED
            course.emit("away", member=member, reason=Reason.SITE_PAUSED.code)
        elif number in (Reason.SITE_WITHDRAWS, Reason.SITE_LEAVES):
            reason = Reason(number)
            if reason is Reason.SITE_WITHDRAWS:
                resting[member] = reason  # until it comes back and says otherwise: no round waits for it to come
            self._attendance.part(self._rounds.current, member, reason)
            self._evaluating.part(member, reason)
            self._admissions.part(member, reason)
        else:
            raise RoundError(Reason.MALFORMED, "away.reason: SITE_PAUSED, SITE_WITHDRAWS, SITE_LEAVES or null expected")

    def _ready(self, member: str, fields: Fields, now: datetime) -> None:
        self._holders.discard(member)
        self._course.resting.pop(member, None)  # each session says so anew
        if fields.boolean("has_initial"):
            self._holders.add(member)
        promised = fields.take("promised", dict, type(None))
        epoch = None if promised is None else Epoch.read(promised, "ready.promised")
        self._ending.awaited.add(member)  # it says what a worker says: it is to hear how the run ends
        self._witnesses.greet(member, epoch, now)

    def _promised(self, member: str, now: datetime) -> None:
        """``member`` has promised itself: welcome it, or everybody, where it makes the quorum of a later epoch."""
        journal = self._course.journal
        if journal is None or not journal.is_held:
            self._welcome(member, now)
            return
        try:
            journal.settle()
        except LedgerError as error:
            if error.reason is not Reason.LEDGER_QUORUM and not self._told_overtaken:
                self._told_overtaken = True
                self._admissions.effects.append(refusal_event(error))
            return
        self._began(now)

    def _welcome(self, member: str, now: datetime) -> None:
        """``member`` is a witness of this run now; give it what there is to do."""
        if self._is_over:
            self._ending.welcome(member)
        elif self._course.journal is not None:
            self._course.journal.welcome(member)
            if self._course.model is None and member in self._holders:
                self._initial.ask(member)
            else:
                self._rounds.welcome(member, now)
                self._evaluating.welcome(member, now)

    # --- how it begins ---------------------------------------------------------------------------------------------

    def _began(self, now: datetime) -> None:
        for member in sorted(self._witnesses.promised):
            try:
                self._welcome(member, now)
            except ProtocolError as error:
                self._admissions.refuse_member(member, error.reason)
        self.proceed(now)

    def _begin_with(self, member: str, model: Vector, now: datetime) -> None:
        """``member`` brought the initial model. Where only a part is exchanged, the whole is sealed once for all."""
        course = self._course
        course.emit("initial-model", member=member)
        part = GlobalModel.first(course.exchanged.taken_from(model), course.plan.aggregation.moments)
        if not course.exchanged.is_partial:
            course.model = part
            self.proceed(now)
            return

        def sealed(base: tuple[SealedVector, bytes], later: datetime) -> None:
            course.base, course.base_sealed = model, base[0]
            course.model = part
            self.proceed(later)

        course.jobs.submit(lambda: course.sealer.seal(BlobKind.BASE, 0, model), sealed, now)

    def _resumed(self, found: Resumed, now: datetime) -> None:
        course, head = self._course, found.head
        self._ending.awaited |= {leaf.member for leaf in found.said if isinstance(leaf, leaves.Admitted)}
        if self._is_over:  # it was stopped meanwhile, and nothing here was told to anybody
            return
        if found.outcome is not None:
            self._end(RunState(found.outcome.value), now, logged=True)
            return
        course.emit("recovered", round=found.record.number, size=head.size, root=head.root.hex())
        course.model = GlobalModel(found.state)
        self._rounds.resume(found.record, now)
        self._began(now)

    def _ended_before(self, note: ClosingNote, now: datetime) -> None:
        """Too few witnesses are left to go on, because the run is over."""
        if not self._is_over:
            self.state = RunState(note.outcome.value)
            self._course.emit("run-ended", outcome=note.outcome.value)
            self._ending.end_as_noted(note, now)

    def _epoch_began(self, now: datetime) -> None:
        """A witness was promised to a later aggregator: the state is witnessed once more, if it is the newest."""
        journal, epoch = self._course.journal, self._witnesses.epoch
        if journal is not None:
            journal.hold()
            journal.append(leaves.Recovered(epoch.number, epoch.boot, journal.log.tree.size))
            journal.recommit(now)

    # --- how it goes on, and ends ----------------------------------------------------------------------------------

    def proceed(self, now: datetime) -> None:
        """Do whatever can be done now."""
        if self.state is not RunState.RUNNING:
            self._ending.proceed(now)
            return
        if not self._is_valid(now) or self.state is not RunState.RUNNING:
            return
        if self._course.journal is None:
            self._beginning.proceed(now)
        elif self._rounds.current is not None or not self._course.is_complete or not self._course.history.rounds:
            self._rounds.proceed(now, paused=bool(self._paused))
        else:
            self._evaluating.proceed(now)

    def _is_valid(self, now: datetime) -> bool:
        """Whether charter and plan hold. A clock may be wrong: the run is given up when they have not for one lease."""
        try:
            self._admissions.federation.require_valid(now + self.jumped)
        except DocumentError as error:
            if self._invalid_since is None:
                self._invalid_since = now
                self._course.emit("expired", reason=error.reason.code)
            if now - self._invalid_since >= self._course.lease:
                self._end(RunState.ABANDONED, now)
            return False
        self._invalid_since = None
        return True

    def _concluded(self, now: datetime) -> None:
        """A round is over: the next one, what comes after the last, or the end."""
        if self._course.is_complete and self._course.history.rounds:
            if self._course.is_exhausted and self._course.history.rounds < self._course.plan.rounds:
                self._tell_exhausted()
            is_judged = self._course.plan.evaluation is None or self._course.card is not None
            (self._ending.release if is_judged else self._evaluating.begin)(now)
        elif self._course.is_exhausted:  # it does not pay for one round
            self._tell_exhausted()
            self._end(RunState.ABANDONED, now)
        elif self._course.abandoned_in_a_row >= _MAX_ABANDONED_IN_A_ROW:
            self._end(RunState.ABANDONED, now)
        else:
            self.proceed(now)

    def _server_app_failed(self, reason: Reason, now: datetime) -> None:
        """There will be no final model, and it was told why."""
        if not self._is_over:
            self._end(RunState.ABANDONED, now)

    def _tell_exhausted(self) -> None:
        rounds = str(self._course.history.rounds)
        self._course.emit("budget-exhausted", outcome=rounds, reason=Reason.BUDGET_EXHAUSTED.code)

    def _end(self, state: RunState, now: datetime, *, logged: bool = False) -> None:
        self.state = state
        self._course.spent += [*self._rounds.end(), *self._evaluating.end()]
        self._ending.end(Outcome(state.value), now, logged=logged)
