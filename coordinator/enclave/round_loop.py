"""Round after round: gather, open, collect, close, fold, commit (docs/protocol.md §7). Trust zone: aggregator TEE.

Rules:

1. The cohort is drawn here, from those that are there and take tasks. A round opens when they are enough: all that are
   sampled, or the minimum once all others have been gone for a lease, and always with a quorum of witnesses.
2. Which contributions a round folds is witnessed before anything of its result leaves. The fold goes on meanwhile.
3. The model changes only by a committed round.
4. Progress keeps a member in its round: one that is gone, or stands still, for a lease is waited for no longer.
5. Under a privacy mechanism a round is paid for as it closes: none opens, and none closes, beyond the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from coordinator.enclave.answers import Answers
from coordinator.enclave.attendance import Attendance
from coordinator.enclave.course import Course
from coordinator.enclave.disclosure import disclosed_round
from coordinator.enclave.fold import ContributionLost, fold, fold_noisily
from coordinator.enclave.record import Counted, Phase, RunRecord
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from coordinator.enclave.sampling import expect_upload
from coordinator.enclave.sealing import RoundModel
from coordinator.enclave.stages import Stages
from trusted.blob import BlobKind
from trusted.errors import BlobError, Reason
from trusted.ledger import leaves
from trusted.ledger.sampling import drawn


@dataclass(frozen=True, slots=True)
class _Folded:
    """What became of a fold: nothing said is a new model; else who does not open, or that the sum overflowed."""

    lost: Mapping[str, Reason] = field(default_factory=dict)
    overflowed: bool = False


@dataclass(slots=True)
class _Closing:
    """A closed round on its way to the model: both must be true. ``places``: of its contributions in the log."""

    folded: bool = False
    witnessed: bool = False
    places: dict[leaves.Counted, int] = field(default_factory=dict)

    @property
    def is_due(self) -> bool:
        """Nothing more is waited for."""
        return self.folded and self.witnessed


class RoundLoop:
    """The rounds of one run. ``concluded`` is called after each; it opens the next by :meth:`proceed`, or does not."""

    def __init__(
        self, course: Course, answers: Answers, attendance: Attendance, concluded: Callable[[datetime], None]
    ) -> None:
        self._course = course
        self._answers = answers
        self._attendance = attendance
        self._concluded = concluded
        self.current: Round | None = None
        self.stages: Stages | None = None
        self._sent: RoundModel | None = None
        self._closing = _Closing()
        self._busy = False
        self._over = False

    def proceed(self, now: datetime, *, paused: bool = False) -> None:
        """Do whatever can be done now; a loop that is ``paused`` opens no round."""
        self._attendance.note_missing(now)
        if self._busy:
            self._tell_waiting()
        elif self.current is not None:
            self._wait_on(self.current, now)
        elif not paused:
            self._open_when_gathered(now)

    def _tell_waiting(self) -> None:
        """A round that is folded waits for its witnesses."""
        missing = self._course.require_journal().waiting_for_witnesses
        if self._closing == _Closing(folded=True) and missing:
            self._course.wait_for(missing, "witnesses")

    def end(self) -> tuple[bytes, ...]:
        """Open and fold nothing any more; the blobs of the round that was open."""
        self._over = True
        sent = () if self._sent is None else self._sent.blobs
        return sent if self.current is None else (*sent, *self.current.uploads.values())

    def welcome(self, member: str, now: datetime) -> None:
        """Give ``member``, which has just come, the task that it may still have to do."""
        if self._attendance.welcome(self.current, member) and self.current is not None:
            self._send_task(self.current, member, now)

    def resume(self, record: RunRecord, now: datetime) -> None:
        """Go on with the round that an earlier aggregator left at ``record``."""
        self._sent = RoundModel(record.sent, record.kept, record.moments, b"")
        self.stages = Stages(now)
        current = self.current = Round(record.number, record.cohort, *self._bounds(now))
        current.advance(RoundEvent.ANNOUNCED)
        if record.phase is Phase.COLLECTING:
            self._course.require_journal().commit(record, now)
        else:
            current.close_as(record.counted, record.lost)
            self._close(current, record, now)

    def _bounds(self, now: datetime) -> tuple[int, datetime]:
        plan = self._course.plan
        return plan.cohort.minimum, now + timedelta(seconds=plan.deadlines.round_s)

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open_when_gathered(self, now: datetime) -> None:
        course = self._course
        if course.model is None:
            self._attendance.forget_missing()  # before the first round everybody has a whole lease to come
            return
        if course.require_journal().is_held or course.model is None or course.history.rounds >= course.plan.rounds:
            return
        if course.is_exhausted:
            self._concluded(now)
            return
        present = self._attendance.gathered(now)
        if present is not None:
            self._open(present, now)

    def _open(self, present: tuple[str, ...], now: datetime) -> None:
        course = self._course
        course.attempts += 1
        course.moves()
        number, state = course.attempts, course.require_model().state
        cohort = drawn(course.seed, number, present, course.plan.cohort.size)
        self._busy, self.stages = True, Stages(now)

        def sealed(made: RoundModel, later: datetime) -> None:
            if self._over:
                course.discard(made.blobs)
                return
            opened = Round(number, cohort, *self._bounds(later))
            opened.advance(RoundEvent.ANNOUNCED)
            self._sent = made
            journal = course.require_journal()
            journal.append(leaves.Opened(number, present, cohort, made.prefix_sha256))
            record, spent = self._record(opened), course.take_spent()
            stored = partial(self._announce, opened, made)
            journal.keep(record, later, stored=stored, spent=spent, urgent=course.is_large(spent))

        def seal() -> RoundModel:
            if course.privacy is not None:
                course.privacy.foresee()
            return course.sealer.seal_round(number, state)

        course.jobs.submit(seal, sealed, now)

    def _announce(self, opened: Round, made: RoundModel, now: datetime) -> None:
        """The host has the state in which this round is open: from now on it survives this aggregator."""
        if self._over:
            return
        course, self.current, self._busy = self._course, opened, False
        self._require_stages().mark("broadcast", now)
        size = made.sent.header(course.exchanged).sealed_bytes
        course.emit("round-opened", round=opened.number, waiting_for=list(opened.waiting_for), bytes=size)
        self._attendance.opened(opened)
        for member in opened.cohort:
            self._send_task(opened, member, now)
        self._attendance.part_again(opened)

    def _send_task(self, current: Round, member: str, now: datetime) -> None:
        course, made = self._course, self._require_sent()
        upload = expect_upload(course, current, member, BlobKind.UPDATE)
        if upload is None:
            return  # it is sent when it comes
        task = {"type": "task", "round": current.number, "model": course.sealer.announce(made.sent).to_json()}
        if course.base_sealed is not None:
            task["base"] = course.sealer.announce(course.base_sealed).to_json()
        self._attendance.begin(member, now)
        course.admissions.send(member, task | {"upload": upload})

    # --- collecting ------------------------------------------------------------------------------------------------

    def _wait_on(self, current: Round, now: datetime) -> None:
        course = self._course
        self._attendance.lose(current, now)
        current.settle(now)
        if current.state is RoundState.CLOSED and course.is_exhausted:  # it closes again, and could be paid for once
            current.advance(RoundEvent.TOO_FEW)
            self._conclude(current, now, Reason.BUDGET_EXHAUSTED)
        elif current.state is RoundState.CLOSED:
            spending = self._course.privacy
            if spending is not None:
                spending.pay()
            self._close(current, self._closed_record(current), now)
        elif current.state is RoundState.ABANDONED:
            self._conclude(current, now, Reason.COHORT_MINIMUM)

    # --- closing ---------------------------------------------------------------------------------------------------

    def _close(self, closed: Round, record: RunRecord, now: datetime) -> None:
        """Have it witnessed which contributions count, and fold them meanwhile."""
        course, journal = self._course, self._course.require_journal()
        self._require_stages().mark("collect", now)
        closing = self._closing = _Closing()
        self._busy = True
        counted = [
            leaves.Counted(closed.number, entry.contribution.member, entry.prefix_sha256) for entry in record.counted
        ]
        closing.places = {leaf: journal.append(leaf) for leaf in counted}
        lost = [leaves.Lost(member, reason) for member, reason in sorted(record.lost.items())]
        journal.append(leaves.Closed(closed.number, tuple(leaf.member for leaf in counted), tuple(lost)))
        if course.privacy is not None:
            journal.append(course.privacy.leaf())

        def witnessed(later: datetime) -> None:
            closing.witnessed = True
            self._commit_when_due(closed, closing, later)

        journal.commit(record, now, then=witnessed)
        terms, unread = course.plan.aggregation, frozenset(closed.unread)
        advance = course.require_model().advance(terms.server, 1 + course.history.before(closed.number))
        contributions = list(closed.counted.values())
        noise = None if course.privacy is None else course.privacy.noise(closed.number, contributions)

        def fold_them() -> _Folded:
            try:
                if noise is None:
                    fold(contributions, course.store, terms=terms, advance=advance, jobs=course.jobs)
                else:
                    fold_noisily(contributions, course.store, noise=noise, advance=advance, jobs=course.jobs)
            except ContributionLost as one:
                others = [entry for entry in contributions if entry.member in unread - {one.member}]
                return _Folded({one.member: one.error.reason} | self._answers.faults(others))
            except BlobError:
                return _Folded(overflowed=True)
            return _Folded()

        course.jobs.submit(fold_them, lambda folded, later: self._folded(closed, folded, later), now)

    def _folded(self, closed: Round, folded: _Folded, now: datetime) -> None:
        if self._over:
            return
        self._require_stages().mark("fold", now)
        if not (folded.overflowed or folded.lost):
            self._closing.folded = True
            self._commit_when_due(closed, self._closing, now)
            self._tell_waiting()
            return
        self._busy = False
        if folded.overflowed:
            closed.advance(RoundEvent.TOO_FEW)
        else:
            self._lose_in_fold(closed, folded.lost)
        self._wait_on(closed, now)

    def _lose_in_fold(self, closed: Round, lost: Mapping[str, Reason]) -> None:
        """Go on without whoever does not open; but who was finite when it was read, and now is not, has two faces."""
        two_faced = [member for member, reason in lost.items() if reason is Reason.NON_FINITE]
        two_faced = [member for member in two_faced if member not in closed.unread]
        for member, reason in lost.items():
            if member in closed.unread:
                self._answers.tell(member, closed.number, reason)
            else:
                self._answers.tell_lost(member, closed.number, reason)
        if two_faced:
            closed.advance(RoundEvent.TOO_FEW)
        else:
            closed.exclude(lost)

    def _commit_when_due(self, closed: Round, closing: _Closing, now: datetime) -> None:
        """Once it is both folded and witnessed, the new model is in place."""
        course = self._course
        if closing is not self._closing or not closing.is_due or self._over:
            return
        self._closing, self._busy = _Closing(), False
        closed.advance(RoundEvent.FOLDED)
        for member in sorted(closed.unread):
            closed.found_good(member)
            self._answers.tell(member, closed.number, None)
        course.model = course.require_model().advanced()
        closed.advance(RoundEvent.COMMITTED)
        self._conclude(closed, now)
        for leaf, index in closing.places.items():
            course.require_journal().prove(leaf.member, leaf, index)

    def _conclude(self, ended: Round, now: datetime, reason: Reason | None = None) -> None:
        """``reason``: why it came to nothing, if it did."""
        course, journal = self._course, self._course.require_journal()
        course.spent += [*self._require_sent().blobs, *ended.uploads.values()]
        course.moves()
        self.current = self._sent = None
        if reason is not None:
            course.abandoned_in_a_row += 1
            journal.append(leaves.Abandoned(ended.number, reason))
            course.emit("round-abandoned", round=ended.number, reason=reason.code)
        else:
            course.abandoned_in_a_row = 0
            self._tell_committed(ended)
        self._concluded(now)

    def _tell_committed(self, ended: Round) -> None:
        course = self._course
        if ended.number in course.history.numbers:  # an earlier aggregator committed it, and told so
            return
        course.require_journal().append(leaves.Committed(ended.number))
        course.history.committed(ended)
        found = disclosed_round(course.plan, ended)
        told: dict[str, Any] = {"metrics": found.told} | ({"withheld": found.refused} if found.withheld else {})
        course.emit("round-committed", round=ended.number, outcome=str(course.history.rounds), **told)
        if course.privacy is not None:
            spent = {"epsilon": course.privacy.epsilon, "delta": course.privacy.budget.delta}
            course.emit("privacy-spent", round=ended.number, metrics=spent)
        course.emit("round-stages", round=ended.number, metrics=self._require_stages().to_json())

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _record(self, current: Round) -> RunRecord:
        course, made = self._course, self._require_sent()
        return RunRecord(
            phase=Phase.COLLECTING,
            number=current.number,
            abandoned_in_a_row=course.abandoned_in_a_row,
            seed=course.seed,
            sent=made.sent,
            kept=made.kept,
            moments=made.moments,
            base=course.base_sealed,
            cohort=current.cohort,
            paid=None if course.privacy is None else course.privacy.paid,
        )

    def _closed_record(self, closed: Round) -> RunRecord:
        counted = tuple(Counted(entry, closed.metrics[member]) for member, entry in sorted(closed.counted.items()))
        lost = dict(sorted(closed.lost.items()))
        return replace(self._record(closed), phase=Phase.CLOSED, counted=counted, lost=lost)

    def _require_sent(self) -> RoundModel:
        if self._sent is None:
            raise RuntimeError("a round was opened without a model")
        return self._sent

    def _require_stages(self) -> Stages:
        if self.stages is None:
            raise RuntimeError("a round was opened at no time")
        return self.stages
