"""The turns of the app's own server, from the plan's initial model to its final one. Trust zone: aggregator TEE.

No I/O, no clock. Rules:

1. The app's server asks one thing at a time (:mod:`asks`); between an answer and its next ask it has its turn.
2. A model that heard fewer members than the plan's minimum in the whole run is not released.
3. What the app's server remembers dies with this aggregator. A later one does not pretend to go on: it ends the run,
   unless the final model was there already.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import numpy as np

from coordinator.enclave.course import Course
from coordinator.enclave.fold import State
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.record import Phase, RunRecord, SealedVector
from coordinator.enclave.server_app.asks import Answer, Ask, Begin, ServerApp
from trusted.blob import BlobKind
from trusted.encoding import Vector
from trusted.errors import Reason
from trusted.ledger import leaves


class Turns:
    """Of one run. ``concluded`` is called once the final model is there, ``failing`` if none will be.

    Attributes:
        ask: what the app's server asked last, until it has an answer.
        has_begun: whether it was ever given a turn, here or by an earlier aggregator.
        is_busy: while the model of one end or the other is sealed.
    """

    def __init__(
        self,
        course: Course,
        app: ServerApp,
        *,
        proceed: Callable[[datetime], None],
        concluded: Callable[[datetime], None],
        failing: Callable[[Reason, datetime], None],
    ) -> None:
        self._course = course
        self._app = app
        self._proceed = proceed
        self._concluded = concluded
        self._failing = failing
        self._asked_at: datetime | None = None
        self._kept: SealedVector | None = None  # the model that the sealed state holds
        self._over = False
        self.ask: Ask | None = None
        self.has_begun = self.is_busy = False

    def begin(self, now: datetime) -> None:
        """Seal the plan's initial model, and give the app's server its first turn with it."""
        course, model = self._course, self._course.require_model().vector
        self.has_begun = self.is_busy = True

        def sealed(made: tuple[SealedVector, bytes], later: datetime) -> None:
            self.is_busy = False
            if self._over:
                course.discard([made[0].blob])
                return
            self._kept = made[0]
            app, bundle = self._app, course.plan.app.bundle_sha256
            course.require_journal().append(leaves.ServerApp(bundle, app.component, app.flower))
            course.emit("server-app-started")
            self.give(Begin(model), later)

        course.jobs.submit(lambda: course.sealer.seal(BlobKind.STATE, 0, model), sealed, now)

    def give(self, answer: Answer, now: datetime) -> None:
        """Answer what is asked; after its turn the app's server comes back with what it asks next."""
        self.ask = None
        self._course.jobs.submit(partial(self._app.turn, answer), self._asked, now)

    def _asked(self, ask: Ask, now: datetime) -> None:
        if not self._over:
            self.ask, self._asked_at = ask, now
            self._proceed(now)

    def wait(self, now: datetime) -> None:
        """The run is paused: what is asked has waited for nobody so far."""
        self._asked_at = now

    def is_late(self, now: datetime) -> bool:
        """Whether what the app's server asks has waited for sites for a whole turn."""
        asked_at = self._asked_at or now
        return now - asked_at >= timedelta(seconds=self._course.plan.aggregation.turn_s)

    def fail(self, reason: Reason, now: datetime) -> None:
        """There will be no final model: tell why."""
        self._course.emit("server-app-failed", reason=reason.code)
        self._failing(reason, now)

    # --- the end ---------------------------------------------------------------------------------------------------

    def finish(self, model: Vector, now: datetime, *, heard: int, left: tuple[bytes, ...]) -> None:
        """The app's server is done: its model is the run's, if it can be.

        Args:
            model: float32[elements], unchecked.
            now: the time.
            heard: how many members it has heard in the run.
            left: blobs that nobody needs once the model is kept.
        """
        course = self._course
        if model.shape != (course.plan.layout.elements,) or not np.isfinite(model).all():
            self.fail(Reason.SERVER_APP_MODEL, now)
        elif heard < course.plan.cohort.minimum:
            self.fail(Reason.COHORT_MINIMUM, now)
        else:
            self.is_busy, self.ask = True, None
            self._app.stop()
            number = course.attempts
            keep = partial(self._keep_final, model, left)
            course.jobs.submit(lambda: course.sealer.seal(BlobKind.STATE, number, model), keep, now)

    def _keep_final(
        self, model: Vector, left: tuple[bytes, ...], made: tuple[SealedVector, bytes], now: datetime
    ) -> None:
        course, before = self._course, self._kept
        if self._over:
            course.discard([made[0].blob])
            return
        self._kept = made[0]
        course.spent += left if before is None else (before.blob, *left)
        course.model = GlobalModel(State(model))
        record = self.record(course.attempts, course.plan.cohort.members, phase=Phase.CLOSED)

        def stored(later: datetime) -> None:
            self.is_busy = False
            if not self._over:
                course.finished = True
                course.emit("server-app-finished", outcome=str(course.history.rounds))
                self._concluded(later)

        course.require_journal().keep(record, now, stored=stored, spent=course.take_spent())

    def resume(self, record: RunRecord, now: datetime) -> None:
        """An earlier aggregator left the run at ``record``: it goes on from a final model, or it is over."""
        course, self.has_begun, self._kept = self._course, True, record.kept
        course.require_journal().commit(record, now)
        if record.phase is Phase.CLOSED:
            course.finished = True
            self._app.stop()
            self._concluded(now)
        else:
            self.fail(Reason.SERVER_APP_LOST, now)

    def end(self) -> tuple[bytes, ...]:
        """Give no turn any more; the blobs that nobody needs now."""
        self._over = True
        self._app.stop()
        return () if self._kept is None else (self._kept.blob,)

    def record(self, number: int, cohort: tuple[str, ...], *, phase: Phase = Phase.COLLECTING) -> RunRecord:
        """What is kept of the run beside its model."""
        course = self._course
        if self._kept is None:
            raise RuntimeError("an exchange was opened before the model was kept")
        return RunRecord(
            phase=phase,
            number=max(number, 1),
            abandoned_in_a_row=course.abandoned_in_a_row,
            seed=course.seed,
            sent=self._kept,
            kept=self._kept,
            moments=(),
            base=None,
            cohort=cohort,
        )
