"""Production's rules on bare vectors: nobody is admitted, and nothing is sealed. Trust zone: the developer's machine.

Rules, of :mod:`coordinator.enclave.round_loop`: 1. The cohort is drawn from those that are there. 2. Under a privacy
mechanism a round is paid for as it closes, and none closes, or opens, beyond the budget. 3. Who does not open for the
fold (here: is not finite) is left out, and the rest are folded again. 4. The model changes only by a committed round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np

from coordinator.enclave.fold import Advance, ContributionLost
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.record import Paid
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from simulations.aggregator import Answer, Closed, Opened, Stages, Work
from simulations.aggregators.held import Held
from simulations.aggregators.summed import Summed
from simulations.collecting import Arrival, Clock
from simulations.dice import secret
from simulations.result import Ending
from simulations.setting import Setting
from simulations.wire import Wire
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.ledger.sampling import drawn

_MOST_ABANDONED_IN_A_ROW = 3  # as coordinator.enclave.run


class Updates(Protocol):
    """The updates of a round, as they come, and their fold."""

    def take(self, answers: Iterable[Answer], clock: Clock, stages: Stages) -> Sequence[Arrival]:
        """Take all ``answers`` of a round that opens now on the ``clock``: what arrives, and when."""

    def fold(self, round_: Round, advance: Advance, spending: Spending | None) -> None:
        """Write the next model of those that count.

        Raises:
            ContributionLost: somebody's is not finite; fold again without it. BlobError: the next model is not.
        """

    def unfit(self, round_: Round) -> dict[str, Reason]:
        """Everybody who counts and cannot be folded."""


class Unsealed:
    """One run's :class:`simulations.aggregator.Aggregator`."""

    def __init__(self, setting: Setting, wire: Wire, jobs: Jobs) -> None:
        terms, exchanged = setting.terms, wire.exchanged
        part = np.array(exchanged.taken_from(wire.whole), dtype=np.float32)
        self._terms, self._cohorts, self._wire = terms, setting.cohorts, wire
        self._updates: Updates = (Summed if Summed.suits(setting) else Held)(terms, wire, jobs)
        self._model = GlobalModel.first(part, terms.aggregation.moments)
        self._spending = Spending.resume(terms.privacy, exchanged.plan, Paid(0, secret(setting.seed, "noise")))
        self._clock = Clock()
        self._opened = self._committed = self._in_a_row = 0

    @staticmethod
    def holds_all(setting: Setting) -> bool:
        """Whether all updates of a round must be there at once."""
        return not Summed.suits(setting)

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
        """Take the updates, see who counts, and fold."""
        arrivals = self._updates.take(work.answers, self._clock, stages)
        round_ = self._clock.collect(self._terms, opened.number, opened.cohort, arrivals)
        sent = tuple(round_.counted)
        reason = self._settle(round_, stages)
        self._committed += reason is None
        self._in_a_row = 0 if reason is None else self._in_a_row + 1
        return Closed(round_, reason, sent)

    def _settle(self, round_: Round, stages: Stages) -> Reason | None:
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
                self._fold(round_)
        return Reason.COHORT_MINIMUM if round_.state is RoundState.ABANDONED else None

    def _fold(self, round_: Round) -> None:
        advance = self._model.advance(self._terms.aggregation.server, 1 + self._committed)
        try:
            self._updates.fold(round_, advance, self._spending)
        except ContributionLost as lost:
            round_.exclude({lost.member: lost.error.reason} | self._updates.unfit(round_))
            return
        except BlobError:  # the next model left the range of float32
            round_.advance(RoundEvent.TOO_FEW)
            return
        round_.advance(RoundEvent.FOLDED)
        self._model = self._model.advanced()
        round_.advance(RoundEvent.COMMITTED)
