"""The end of a run: what is released, what the log says last, who is sent home. Trust zone: aggregator TEE.

Rules: the model is sealed, then the log says so and a quorum witnesses it, and only then it is published. Everybody is
sent home once the last checkpoint is witnessed and the closing note written, or a moment later: a host that holds them
back keeps nobody. Whoever took part is waited for until it says that it has heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from coordinator.enclave.closing import ClosingNote
from coordinator.enclave.course import Course
from coordinator.enclave.release import publish, seal_release, withdraw
from trusted.ledger import leaves
from trusted.ledger.leaves import Outcome
from trusted.release import Release
from trusted.wire import sha256

_FAREWELL = timedelta(seconds=10)


@dataclass(slots=True)
class Ending:
    """Ends the run of ``course``, once. ``released`` is told that the release is where its recipients look."""

    course: Course
    released: Callable[[datetime], None]
    outcome: Outcome | None = None
    awaited: set[str] = field(default_factory=set)  # who took part, and has not said that it heard of the end
    _rounds: int = 0
    _releasing: bool = False
    _farewell_at: datetime | None = None

    def release(self, now: datetime) -> None:
        """Seal, have it witnessed, publish: in this order. An end in between takes it back."""
        if self._releasing:
            return
        self._releasing = True
        course, federation = self.course, self.course.admissions.federation
        identity, history, model = course.admissions.identity, course.history, course.require_model().vector
        if course.base is not None:
            course.exchanged.put_into(course.base, model)
            model = course.base

        def sealed(release: Release, later: datetime) -> None:
            if self.outcome is not None:
                withdraw(release, course.store)
                return
            journal = course.require_journal()
            recipients = tuple(sorted(course.plan.recipients))
            journal.append(leaves.Released(release.model_sha256, release.blob, recipients, release.card_sha256))
            journal.recommit(later, then=lambda witnessed: self._publish(release, witnessed), card=course.card)

        card_sha256 = None if course.card is None else sha256(course.card)

        def seal() -> Release:
            made = seal_release(federation, identity, course.store, model=model, history=history)
            return replace(made, card_sha256=card_sha256)

        course.jobs.submit(seal, sealed, now)

    def _publish(self, release: Release, now: datetime) -> None:
        course, identity = self.course, self.course.admissions.identity

        def published(_: None, later: datetime) -> None:
            if self.outcome is not None:
                withdraw(release, course.store)
            else:
                course.emit("released")
                self.released(later)

        if self.outcome is not None:
            withdraw(release, course.store)
        else:
            card = course.card
            course.jobs.submit(lambda: publish(release, identity, course.store, card), published, now)

    def end(self, outcome: Outcome, now: datetime, *, logged: bool = False) -> None:
        """The run is over. ``logged``: an earlier aggregator wrote that already, and did not live to tell everybody."""
        course, self.outcome = self.course, outcome
        self._rounds = course.history.rounds
        course.emit("run-ended", outcome=outcome.value)
        if course.base_sealed is not None:
            course.spent.append(course.base_sealed.blob)
        self._farewell_at = now + _FAREWELL
        if logged or course.journal is None or not course.journal.has_state:
            course.discard(course.take_spent())
            if logged:
                self._write_note(now)
            else:  # no worker was told the key of a run that never opened a round
                self._go(None, now)
        else:
            course.journal.append(leaves.Ended(outcome, course.seed))
            course.journal.recommit(now, then=self._witnessed, spent=course.take_spent())
        self.proceed(now)

    def end_as_noted(self, note: ClosingNote, now: datetime) -> None:
        """An earlier aggregator ended the run and sent some home: tell the others."""
        self.outcome, self._rounds, self._farewell_at = note.outcome, note.rounds, now
        self.awaited |= set(self.course.plan.cohort.members)  # who has gone home is not known: they come, or do not
        self.proceed(now)

    def heard(self, member: str) -> None:
        """``member`` knows how the run ended."""
        self.awaited.discard(member)

    def proceed(self, now: datetime) -> None:
        """Send everybody home, when it is time."""
        if self._farewell_at is not None and now >= self._farewell_at:
            self._farewell_at = None
            for member in list(self.course.admissions.members):
                self.say_closed(member)

    def welcome(self, member: str) -> None:
        """``member`` comes when the run is over: as a witness of its end, or to hear of it."""
        if self._farewell_at is None or self.course.journal is None:
            self.say_closed(member)
        else:
            self.course.journal.welcome(member)

    def say_closed(self, member: str) -> None:
        """Tell ``member`` how the run ended."""
        if self.outcome is not None:
            closed = {"type": "closed", "outcome": self.outcome.value, "rounds": self._rounds}
            self.course.admissions.send(member, closed)

    def _witnessed(self, now: datetime) -> None:
        if self._farewell_at is not None:
            self._write_note(now)

    def _write_note(self, now: datetime) -> None:
        course, journal = self.course, self.course.journal
        if journal is None or self.outcome is None:
            raise RuntimeError("only a run that was witnessed leaves a note")
        note, plan = ClosingNote(self.outcome, self._rounds), course.admissions.federation.plan.digest
        course.jobs.submit(lambda: note.write(course.store, journal.key, plan), self._go, now)

    def _go(self, _: None, now: datetime) -> None:
        if self._farewell_at is not None:
            self._farewell_at = now
            self.proceed(now)
