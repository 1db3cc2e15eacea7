"""Round after round, as an aggregator goes through them, on virtual time. Trust zone: the developer's machine.

Cohorts, the round's state machine, weights, encodings, clipping, the fold, server optimisers, noise and budget are
those of production. What is not there: sealing, admission, the log and its witnesses, recovery (docs/simulation.md).

Rules, of :mod:`coordinator.enclave.round_loop`: 1. The cohort is drawn from those that are there. 2. Under a privacy
mechanism a round is paid for as it closes, and none closes, or opens, beyond the budget. 3. Who does not open for the
fold (here: is not finite) is left out, and the rest are folded again. 4. The model changes only by a committed round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.disclosure import Report, disclosed
from coordinator.enclave.fold import ContributionLost, fold_from, fold_noisily_from
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.record import Paid
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from simulations.cast import Cast
from simulations.collecting import Arrival, Clock
from simulations.dice import secret
from simulations.engine import Crew
from simulations.held_updates import HeldUpdates
from simulations.pace import Pace
from simulations.result import Ending, RoundRow
from simulations.task import Job, Task, Trained
from simulations.terms import Terms
from simulations.wire import Wire
from trusted.encoding import Vector
from trusted.errors import AppError, BlobError, Reason
from trusted.ledger.sampling import drawn

_MOST_ABANDONED_IN_A_ROW = 3  # as coordinator.enclave.run
_MOST_UNOPENED_IN_A_ROW = 1000  # a run waits for its members for as long as its plan is valid


@dataclass(frozen=True, slots=True)
class Setting:
    """What a simulated run is made of.

    Attributes:
        cohorts: the seed of cohorts, 32 bytes, as a run's log has it at its end.
        evaluate_every: rounds between two evaluations of the model; 0: never but at the end.
    """

    terms: Terms
    task: Task
    names: Sequence[str]
    sizes: Sequence[int] = field(repr=False)
    cast: Cast
    pace: Pace
    seed: int
    cohorts: bytes = field(repr=False)
    evaluate_every: int = 1


@dataclass(slots=True)
class _Stages:
    """How long a round takes here, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class _Work:
    """What the sites of a round gave: ``updates`` as they arrive, by member, and what was said with them."""

    updates: Mapping[str, Vector]
    arrivals: Sequence[Arrival]


class Rounds:
    """One run. :meth:`run` gives each round as it ends; then ``ending`` says why there are no more."""

    def __init__(self, setting: Setting, crew: Crew, jobs: Jobs) -> None:
        terms = setting.terms
        initial = setting.task.initial()
        self._setting = setting
        self._crew = crew
        self._jobs = jobs
        self._exchanged = terms.exchanged(setting.task.layout)
        self._wire = Wire(self._exchanged, terms.privacy, initial)
        part = np.array(self._exchanged.taken_from(initial), dtype=np.float32)
        self._model = GlobalModel.first(part, terms.aggregation.moments)
        self._step: Vector = np.zeros_like(part)  # what the last committed round changed, for who forges
        self._spending = Spending.resume(terms.privacy, self._exchanged.plan, Paid(0, secret(setting.seed, "noise")))
        self._clock = Clock()
        self._places = {name: place for place, name in enumerate(setting.names)}
        self._committed = 0
        self._in_a_row = self._unopened_in_a_row = 0
        self.ending = Ending.COMPLETE

    @property
    def model(self) -> Vector:
        """The whole model, as it is now: float32[elements]."""
        if not self._exchanged.is_partial:
            return self._model.vector
        whole = self._wire.whole.copy()
        self._exchanged.put_into(whole, self._model.vector)
        return whole

    def run(self) -> Iterator[RoundRow]:
        """Every round, until the plan's are committed, the budget is spent, or too many come to nothing."""
        number = 0
        while self._goes_on():
            number += 1
            row = self._round(number)
            self._committed += row.abandoned is None
            self._in_a_row = 0 if row.abandoned is None else self._in_a_row + bool(row.drawn)
            self._unopened_in_a_row = 0 if row.drawn else self._unopened_in_a_row + 1
            yield row

    def _goes_on(self) -> bool:
        if self._committed >= self._setting.terms.rounds:
            self.ending = Ending.COMPLETE
        elif self._spending is not None and not self._spending.affords_next:
            self.ending = Ending.BUDGET
        elif self._in_a_row >= _MOST_ABANDONED_IN_A_ROW or self._unopened_in_a_row >= _MOST_UNOPENED_IN_A_ROW:
            self.ending = Ending.ABANDONED
        else:
            return True
        return False

    # --- one round -------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> RoundRow:
        setting, terms, stages, opened = self._setting, self._setting.terms, _Stages(), self._clock.now
        with stages.of("draw"):
            present = setting.cast.present(number)
            enough = len(present) >= terms.cohort.minimum
            cohort = drawn(setting.cohorts, number, present, terms.cohort.size) if enough else ()
        if enough:
            work = self._work(number, cohort, stages)
            round_ = self._clock.collect(terms, number, cohort, work.arrivals)
            sent = [arrival for arrival in work.arrivals if arrival.member in round_.counted]
            reason = self._close(round_, work, stages)
        else:
            self._clock.wait(terms)
            round_, sent, reason = Round(number, (), 0, opened), [], Reason.COHORT_MINIMUM
        with stages.of("evaluate"):
            evaluated = self._evaluated(number) if reason is None else {}
        return RoundRow(
            number=number,
            present=len(present),
            drawn=cohort,
            counted=tuple(sorted(round_.counted)) if reason is None else (),
            lost=dict(sorted(round_.lost.items())),
            abandoned=reason,
            reported=self._reported(round_) if reason is None else {},
            evaluated=evaluated,
            epsilon=None if self._spending is None else self._spending.epsilon,
            bytes_down=len(cohort) * self._wire.down_bytes(number),
            bytes_up=sum(arrival.header.sealed_bytes for arrival in sent),
            virtual_s=(self._clock.now - opened).total_seconds(),
            wall_s=stages.seconds,
        )

    def _work(self, number: int, cohort: Sequence[str], stages: _Stages) -> _Work:
        """Have the cohort train, and bring its updates over the wire."""
        cast = self._setting.cast
        sites = [site for site in map(self._places.__getitem__, cohort) if cast.answers(number, site)]
        with stages.of("exchange"):
            seen = self._wire.down(self._model.vector)
        with stages.of("train"):
            answers = self._crew.train(seen, [Job(site, number) for site in sites])
        if number == 1:
            _require_any(answers.trained)
        with stages.of("exchange"):
            good = [at for at, trained in enumerate(answers.trained) if trained.failure is None]
            updates = self._wire.taken(answers.updates)
            forged = cast.forge(number, [sites[at] for at in good], [updates[at] for at in good], self._step)
            self._wire.up([updates[at] for at in good], self._jobs, forged=forged)
            arrivals = [
                self._arrival(number, site, trained, update)
                for site, trained, update in zip(sites, answers.trained, updates, strict=True)
            ]
        members = [self._setting.names[site] for site in sites]
        return _Work(dict(zip(members, updates, strict=True)), arrivals)

    def _arrival(self, number: int, site: int, trained: Trained, update: Vector) -> Arrival:
        """What ``site`` sends, and when. Its claims are its own; how many rows it has is told under no mechanism."""
        setting, private = self._setting, self._setting.terms.privacy.terms is not None
        member = setting.names[site]
        header = self._wire.header(number, member)
        down = self._wire.down_bytes(number)
        seconds = setting.pace.seconds(setting.sizes[site], down, header.sealed_bytes)
        seconds = setting.cast.seconds(number, site, seconds, header.sealed_bytes)
        weight = 1 if private else setting.cast.claimed(site, trained.num_examples)
        reason = trained.failure
        # The aggregator may first read an update in the fold; where that costs budget, it has read it before.
        if reason is None and private and not np.isfinite(update).all():
            reason = Reason.NON_FINITE
        return Arrival(member, seconds, header, weight, trained.metrics, reason)

    # --- closing ---------------------------------------------------------------------------------------------------

    def _close(self, round_: Round, work: _Work, stages: _Stages) -> Reason | None:
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

    def _fold(self, round_: Round, work: _Work) -> None:
        terms, members = self._setting.terms, sorted(round_.counted)
        weights = [round_.counted[member].weight for member in members]
        vectors = [work.updates[member] for member in members]
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
        np.subtract(self._model.vector, advance.before.model, out=self._step)
        round_.advance(RoundEvent.COMMITTED)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _evaluated(self, number: int) -> Mapping[str, float]:
        every, last = self._setting.evaluate_every, self._committed + 1 >= self._setting.terms.rounds
        if last or (every and (self._committed + 1) % every == 0):
            return self._setting.task.evaluate(self.model)
        return {}

    def _reported(self, round_: Round) -> Mapping[str, float]:
        """By the plan's list, where there is one; else every metric's mean over those who name it, by weight."""
        reports = [Report(round_.counted[member].weight, found) for member, found in sorted(round_.metrics.items())]
        if self._setting.terms.metrics:
            return disclosed(self._setting.terms.metrics, reports).told
        names = dict.fromkeys(name for report in reports for name in report.metrics)
        means = {}
        for name in names:
            naming = [report for report in reports if name in report.metrics]
            total = sum(report.rows for report in naming)
            means[name] = sum(report.rows / total * report.metrics[name] for report in naming)
        return means


def _require_any(trained: Sequence[Trained]) -> None:
    """Stop a simulation in which nobody can train: what is wrong is wrong at every site, and with the app.

    Raises:
        AppError: what the first one said.
    """
    first = next(iter(trained), None)
    if first is not None and first.words and all(one.failure is first.failure for one in trained):
        raise AppError(first.failure or Reason.APP_FAILED, f"every site failed in the first round: {first.words}")


def _not_finite(round_: Round, work: _Work) -> dict[str, Reason]:
    """Everybody who counts and is not finite: many bad ones cost one more fold, and not one each."""
    bad = [member for member in round_.counted if not np.isfinite(work.updates[member]).all()]
    return dict.fromkeys(bad, Reason.NON_FINITE)
