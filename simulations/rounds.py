"""Round after round on virtual time: who is there, who trains, what becomes of it. Trust zone: the developer's machine.

Cohorts, the round's state machine, weights, encodings, clipping, the fold, server optimisers, noise and budget are
those of production, in :mod:`simulations.aggregators`: with or without the protocol around them (docs/simulation.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from coordinator.enclave.disclosure import Report, disclosed
from coordinator.enclave.rounds import Round
from simulations.aggregator import Aggregator, Answer, Closed, Opened, Stages, Work
from simulations.collecting import Arrival
from simulations.engine import Crew, Done
from simulations.result import Ending, RoundRow
from simulations.setting import Setting
from simulations.task import Job, Trained
from simulations.wire import Wire
from trusted.encoding import Vector
from trusted.errors import AppError, Reason

_MOST_UNOPENED_IN_A_ROW = 1000  # a run waits for its members for as long as its plan is valid


class Rounds:
    """One run. :meth:`run` gives each round as it ends; then ``ending`` says why there are no more."""

    def __init__(self, setting: Setting, crew: Crew, wire: Wire, aggregator: Aggregator) -> None:
        self._setting = setting
        self._crew = crew
        self._wire = wire
        self._aggregator = aggregator
        self._step: Vector = np.zeros_like(aggregator.part)  # of the last committed round, for who forges
        self._places = {name: place for place, name in enumerate(setting.names)}
        self._committed = 0
        self.ending = Ending.COMPLETE

    def run(self) -> Iterator[RoundRow]:
        """Every round, until the plan's are committed, the budget is spent, or too many come to nothing."""
        number = unopened_in_a_row = 0
        while self._aggregator.ending is None and unopened_in_a_row < _MOST_UNOPENED_IN_A_ROW:
            number += 1
            row = self._round(number)
            if row is None:
                break
            unopened_in_a_row = 0 if row.drawn else unopened_in_a_row + 1
            yield row
        self.ending = self._aggregator.ending or Ending.ABANDONED

    # --- one round -------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> RoundRow | None:
        """The row of this ``number``, which counts also those in which no round opened. None: the run is over."""
        aggregator, stages, begun = self._aggregator, Stages(), self._aggregator.now
        with stages.of("draw"):
            present = self._setting.cast.present(number)
        opened, came = aggregator.open(present, stages), dict[str, Arrival]()
        if opened is not None:
            before = aggregator.part
            closed = aggregator.close(opened, self._work(number, opened, came, stages), stages)
            if closed.reason is None:
                np.subtract(aggregator.part, before, out=self._step)
        elif aggregator.ending is not None:
            return None
        else:
            opened = Opened(0, ())
            closed = Closed(Round(0, (), 0, begun), Reason.COHORT_MINIMUM, ())
        is_committed = closed.reason is None
        with stages.of("evaluate"):
            evaluated = self._evaluated() if is_committed else {}
        self._committed += is_committed
        return RoundRow(
            number=number,
            present=len(present),
            drawn=opened.cohort,
            counted=tuple(sorted(closed.round.counted)) if is_committed else (),
            lost=dict(sorted(closed.round.lost.items())),
            abandoned=closed.reason,
            reported=self._reported(closed.round, came) if is_committed else {},
            evaluated=evaluated,
            epsilon=aggregator.epsilon,
            bytes_down=len(opened.cohort) * self._wire.down_bytes(opened.number),
            bytes_up=sum(came[member].header.sealed_bytes for member in closed.sent),
            virtual_s=(aggregator.now - begun).total_seconds(),
            wall_s=stages.seconds,
        )

    def _work(self, number: int, opened: Opened, came: dict[str, Arrival], stages: Stages) -> Work:
        """What the cohort gives; ``came``: what is known of it from outside, by member, as it is taken."""
        with stages.of("exchange"):
            seen = self._wire.down(self._aggregator.part)
        return Work(self._answers(number, opened, seen, came, stages), seen)

    def _answers(
        self, number: int, opened: Opened, seen: Vector, came: dict[str, Arrival], stages: Stages
    ) -> Iterator[Answer]:
        """Have the cohort train, and its false sites forge."""
        cast, names = self._setting.cast, self._setting.names
        sites = [site for site in map(self._places.__getitem__, opened.cohort) if cast.answers(number, site)]
        said: list[Trained] = []
        made = self._made(self._crew.train(seen, [Job(site, opened.number) for site in sites]), stages)
        forged: set[int] = set()
        if cast.forges:
            together = list(made)
            with stages.of("exchange"):
                forged, made = self._forge(number, sites, together), iter(together)
        for place, (site, (done, update)) in enumerate(zip(sites, made, strict=True)):
            said.append(done.trained)
            arrival = came[names[site]] = self._arrival(number, opened, site, done.trained)
            yield Answer(arrival, done.trained, done.update, update, place in forged)
        if number == 1:
            _require_any(said)

    def _forge(self, number: int, sites: Sequence[int], made: Sequence[tuple[Done, Vector]]) -> set[int]:
        """Have false sites overwrite what they send; the places of theirs. They see what all others send."""
        good = [place for place, (done, _) in enumerate(made) if done.trained.failure is None]
        sent = [made[place][1] for place in good]
        false = self._setting.cast.forge(number, [sites[place] for place in good], sent, self._step)
        return {good[place] for place in false}

    def _made(self, work: Iterator[Done], stages: Stages) -> Iterator[tuple[Done, Vector]]:
        """Each with what travels of its update."""
        while True:
            with stages.of("train"):
                done = next(work, None)
            if done is None:
                return
            with stages.of("exchange"):
                update = self._wire.taken(done.update)
            yield done, update

    def _arrival(self, number: int, opened: Opened, site: int, trained: Trained) -> Arrival:
        """What ``site`` sends, and when. Its claims are its own; how many rows it has is told under no mechanism."""
        setting, private = self._setting, self._setting.terms.privacy.terms is not None
        member = setting.names[site]
        header = self._wire.header(opened.number, member)
        down = self._wire.down_bytes(opened.number)
        seconds = setting.pace.seconds(setting.sizes[site], down, header.sealed_bytes)
        seconds = setting.cast.seconds(number, site, seconds, header.sealed_bytes)
        weight = 1 if private else setting.cast.claimed(site, trained.num_examples)
        return Arrival(member, seconds, header, weight, trained.metrics, trained.failure)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _evaluated(self) -> Mapping[str, float]:
        every, last = self._setting.evaluate_every, self._committed + 1 >= self._setting.terms.rounds
        if last or (every and (self._committed + 1) % every == 0):
            return self._setting.task.evaluate(self._aggregator.model)
        return {}

    def _reported(self, round_: Round, came: Mapping[str, Arrival]) -> Mapping[str, float]:
        """By the plan's list, where there is one; else every metric's mean over those who name it, by weight."""
        counted = sorted(round_.counted.items())
        reports = [Report(entry.weight, came[member].metrics) for member, entry in counted]
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
