"""A run begins, or goes on from where an earlier aggregator left it. Trust zone: aggregator TEE. No I/O, no clock.

Rules: nothing happens before a quorum of witnesses has promised itself. If none of them knows a log, the run begins;
else it goes on from the newest that any of them cosigned, and from nothing else. What the host gives is checked against
that; while it gives something else the run waits, and says why (docs/protocol.md §13.2). A witness may lie about what
it cosigned: where the others are a quorum, the newest of theirs is asked for next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from secrets import token_bytes

from coordinator.enclave.closing import ClosingNote
from coordinator.enclave.course import Course
from coordinator.enclave.journal import Journal, Log
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.record import SECRET_BYTES, RecoveryKey
from coordinator.enclave.resuming import Resumed, resume
from coordinator.enclave.witnesses import Memories, Remembered, refusal_event
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.sampling import commitment

_AGAIN = timedelta(seconds=5)  # until a host that gave no state, or a wrong one, is asked again


@dataclass(slots=True)
class Beginning:
    """Until ``course`` has a journal. ``began`` and ``resumed`` are told which of the two it was, once.

    ``ended_before`` is told of a closing note: then it is neither. ``draw`` gives the run's seed; what runs in a TEE
    leaves it to the processor, and only who has the whole aggregator in its own hands could set another.
    """

    course: Course
    began: Callable[[datetime], None]
    resumed: Callable[[Resumed, datetime], None]
    ended_before: Callable[[ClosingNote, datetime], None]
    draw: Callable[[int], bytes] = token_bytes
    _asking: bool = False
    _ask_at: datetime | None = None
    _refused: Reason | None = field(default=None)
    _refused_since: datetime | None = None
    _noted: set[str] = field(default_factory=set)  # witnesses with whose key a closing note was looked for

    def proceed(self, now: datetime) -> None:
        """Ask the witnesses, and then the host, as soon as that can be."""
        course = self.course
        if self._asking or (self._ask_at is not None and now < self._ask_at):
            return
        if course.witnesses.missing:
            course.wait_for(set(course.plan.cohort.members) - set(course.witnesses.promised), "witnesses")
            self._look_for_note(now)
            return
        try:
            memories = course.witnesses.memories()
        except LedgerError as error:
            self._refuse(error, now)
            return
        if memories.choices:
            self._ask_host(memories, now)
        else:
            self._begin(now)

    def _look_for_note(self, now: datetime) -> None:
        """They may be so few because the run is over, and the others have gone home."""
        course = self.course
        store, plan = course.store, course.admissions.federation.plan.digest

        def found(note: ClosingNote | None, later: datetime) -> None:
            if note is not None:
                self.ended_before(note, later)

        for member, said in course.witnesses.promised.items():
            if member not in self._noted and said.recovery_key is not None:
                self._noted.add(member)
                course.jobs.submit(partial(ClosingNote.read, store, said.recovery_key, plan), found, now)

    def _begin(self, now: datetime) -> None:
        course, quorum = self.course, self.course.witnesses.quorum
        federation = course.admissions.federation
        course.seed = self.draw(SECRET_BYTES)
        course.privacy = Spending.begin(course.plan.privacy, federation.plan.digest)
        log, seed = Log(), commitment(course.seed)
        log.append(
            leaves.Genesis(federation.plan.digest, federation.charter.digest, seed, quorum.members, quorum.needed)
        )
        course.journal = self._journal(RecoveryKey.generate(), log)
        self.began(now)

    def _ask_host(self, memories: Memories, now: datetime) -> None:
        self._asking = True
        exchanged, store, epoch = self.course.exchanged, self.course.store, self.course.witnesses.epoch
        newest, waited = memories.choices[0].head, self._has_waited(now)
        choices = [choice for choice in memories.choices if choice.head == newest or choice.is_firm or waited]

        def ask() -> tuple[Remembered, Resumed] | ProtocolError:
            refused: ProtocolError | None = None
            for choice in choices:
                found = resume(exchanged, store, choice)
                if isinstance(found, Resumed):
                    return choice, found
                refused = refused or found
            return refused or LedgerError(Reason.STATE_MISSING, "recovery: nothing to go on from")

        def answered(found: tuple[Remembered, Resumed] | ProtocolError, later: datetime) -> None:
            self._asking = False
            if self.course.witnesses.epoch != epoch:  # another aggregator may have gone on: what was heard is old
                self.proceed(later)
                return
            if not isinstance(found, ProtocolError):
                self._go_on(found[1], found[0], later)
                return
            self._refuse(found, later)
            if waited and memories.blank:
                self._begin(later)

        self.course.jobs.submit(ask, answered, now)

    def _has_waited(self, now: datetime) -> bool:
        """Whether the host had one lease to find the right disk: who remembers less may only have forgotten."""
        lease = timedelta(seconds=self.course.plan.deadlines.lease_s)
        return self._refused_since is not None and now - self._refused_since >= lease

    def _refuse(self, error: ProtocolError, now: datetime) -> None:
        """Say it once for each reason, and ask again later: the host may find the right disk."""
        self._ask_at = now + _AGAIN
        self._refused_since = self._refused_since or now
        if error.reason is not self._refused:
            self._refused = error.reason
            self.course.admissions.effects.append(refusal_event(error))

    def _go_on(self, found: Resumed, remembered: Remembered, now: datetime) -> None:
        course, record = self.course, found.record
        journal = course.journal = self._journal(remembered.key, Log(found.tree, remembered.head))
        journal.continue_from(found.sequence, found.state_blob)
        course.seed, course.history = record.seed, found.history()
        course.attempts, course.abandoned_in_a_row = record.number, record.abandoned_in_a_row
        course.privacy = Spending.resume(course.plan.privacy, course.admissions.federation.plan.digest, record.paid)
        course.base, course.base_sealed = found.base, record.base
        course.card = record.card
        if found.outcome is None:
            epoch = course.witnesses.epoch
            journal.append(leaves.Recovered(epoch.number, epoch.boot, remembered.head.size))
        self.resumed(found, now)

    def _journal(self, key: RecoveryKey, log: Log) -> Journal:
        course = self.course
        return Journal(course.admissions, course.store, course.jobs, course.witnesses, key, log)
