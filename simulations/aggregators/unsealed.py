"""Production's rules on bare vectors: nobody is admitted, and nothing is sealed. Trust zone: the developer's machine.

Rules, of :mod:`coordinator.enclave.round_loop`: 1. The cohort is drawn from those that are there. 2. Under a privacy
mechanism a round is paid for as it closes, and none closes, or opens, beyond the budget. 3. Who does not open for the
fold (here: is not finite) is left out, and the rest are folded again. 4. The model changes only by a committed round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from coordinator.enclave.fold import ContributionLost, fold_from, fold_noisily_from
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.record import Paid
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from simulations.aggregator import Closed, Opened, Stages, Work
from simulations.collecting import Arrival, Clock
from simulations.dice import secret
from simulations.held_updates import HeldUpdates
from simulations.result import Ending
from simulations.setting import Setting
from simulations.wire import Wire
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.ledger.sampling import drawn

_MOST_ABANDONED_IN_A_ROW = 3  # as coordinator.enclave.run


class Unsealed:
    """One run's :class:`simulations.aggregator.Aggregator`."""

    def __init__(self, setting: Setting, wire: Wire, jobs: Jobs) -> None:
        terms, exchanged = setting.terms, wire.exchanged
        part = np.array(exchanged.taken_from(wire.whole), dtype=np.float32)
        self._terms, self._cohorts, self._wire, self._jobs = terms, setting.cohorts, wire, jobs
        self._model = GlobalModel.first(part, terms.aggregation.moments)
        self._spending = Spending.resume(terms.privacy, exchanged.plan, Paid(0, secret(setting.seed, "noise")))
        self._clock = Clock()
        self._opened = self._committed = self._in_a_row = 0

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return self._clock.now

    @property
    def part(self) -> Vector:
        """What is exchanged of the model."""
        return self._model.vector

    @property
    def model(self) -> Vector:
        """The whole of it."""
        return self._wire.whole_with(self.part)

    @property
    def epsilon(self) -> float | None:
        """What is spent."""
        return None if self._spending is None else self._spending.epsilon

    @property
    def ending(self) -> Ending | None:
        """All rounds are committed, the budget is spent, or too many came to nothing."""
        if self._committed >= self._terms.rounds:
            return Ending.COMPLETE
        if self._spending is not None and not self._spending.affords_next:
            return Ending.BUDGET
        return Ending.ABANDONED if self._in_a_row >= _MOST_ABANDONED_IN_A_ROW else None

    def open(self, present: Sequence[str], stages: Stages) -> Opened | None:
        """The next round, unless too few are there."""
        cohort = self._terms.cohort
        if len(present) < cohort.minimum:
            self._clock.wait(self._terms)
            return None
        self._opened += 1
        with stages.of("draw"):
            return Opened(self._opened, drawn(self._cohorts, self._opened, present, cohort.size))

    def close(self, opened: Opened, work: Work, stages: Stages) -> Closed:
        """Bring the updates over the wire, see who counts, and fold."""
        with stages.of("exchange"):
            good = [answer for answer in work.answers.values() if answer.arrival.reason is None]
            forged = {place for place, answer in enumerate(good) if answer.forged}
            self._wire.up([answer.update for answer in good], self._jobs, forged=forged)
            arrivals = [self._read(answer.arrival, answer.update) for answer in work.answers.values()]
        round_ = self._clock.collect(self._terms, opened.number, opened.cohort, arrivals)
        sent = tuple(round_.counted)
        reason = self._settle(round_, work, stages)
        self._committed += reason is None
        self._in_a_row = 0 if reason is None else self._in_a_row + 1
        return Closed(round_, reason, sent)

    def _read(self, arrival: Arrival, update: Vector) -> Arrival:
        """The aggregator may first read an update in the fold; where that costs budget, it has read it before."""
        private = self._terms.privacy.terms is not None
        if arrival.reason is None and private and not np.isfinite(update).all():
            return replace(arrival, reason=Reason.NON_FINITE)
        return arrival

    def _settle(self, round_: Round, work: Work, stages: Stages) -> Reason | None:
        """Fold a closed round into the model. Why it came to nothing, or None."""
        spending = self._spending
        while round_.state is RoundState.CLOSED:
            if spending is not None and not spending.affords_next:
                round_.advance(RoundEvent.TOO_FEW)
                return Reason.BUDGET_EXHAUSTED
            if spending is not None:
                with stages.of("privacy"):
                    spending.pay()
            with stages.of("fold"):
                self._fold(round_, work)
        return Reason.COHORT_MINIMUM if round_.state is RoundState.ABANDONED else None

    def _fold(self, round_: Round, work: Work) -> None:
        terms, members = self._terms, sorted(round_.counted)
        weights = [round_.counted[member].weight for member in members]
        vectors = [work.answers[member].update for member in members]
        source = HeldUpdates(members, weights, vectors, self._wire.header(round_.number, members[0]))
        advance = self._model.advance(terms.aggregation.server, 1 + self._committed)
        noise = None if self._spending is None else self._spending.noise(round_.number, round_.counted.values())
        try:
            if noise is None:
                fold_from(source, terms=terms.aggregation, advance=advance, jobs=self._jobs)
            else:
                fold_noisily_from(source, noise=noise, advance=advance, jobs=self._jobs)
        except ContributionLost as lost:
            round_.exclude({lost.member: lost.error.reason} | _not_finite(round_, work))
            return
        except BlobError:  # the next model left the range of float32
            round_.advance(RoundEvent.TOO_FEW)
            return
        round_.advance(RoundEvent.FOLDED)
        self._model = self._model.advanced()
        round_.advance(RoundEvent.COMMITTED)


def _not_finite(round_: Round, work: Work) -> dict[str, Reason]:
    """Everybody who counts and is not finite: many bad ones cost one more fold, and not one each."""
    bad = [member for member in round_.counted if not np.isfinite(work.answers[member].update).all()]
    return dict.fromkeys(bad, Reason.NON_FINITE)
