"""The updates of a round, all of them kept until it is folded. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from coordinator.enclave.fold import Advance, fold_from, fold_noisily_from
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.rounds import Round
from simulations.aggregator import Answer, Stages
from simulations.aggregators.held_updates import HeldUpdates
from simulations.collecting import Arrival, Clock
from simulations.terms import Terms
from simulations.wire import Wire
from trusted.encoding import Vector
from trusted.errors import Reason


class Held:
    """One run's :class:`simulations.aggregators.unsealed.Updates`, under any rule and with noise."""

    def __init__(self, terms: Terms, wire: Wire, jobs: Jobs) -> None:
        self._terms, self._wire, self._jobs = terms, wire, jobs
        self._updates: Mapping[str, Vector] = {}

    def take(self, answers: Iterable[Answer], clock: Clock, stages: Stages) -> Sequence[Arrival]:
        """Bring the updates over the wire, once all are there."""
        came = list(answers)
        with stages.of("exchange"):
            good = [answer for answer in came if answer.arrival.reason is None]
            forged = {place for place, answer in enumerate(good) if answer.forged}
            self._wire.up([answer.update for answer in good], self._jobs, forged=forged)
            self._updates = {answer.arrival.member: answer.update for answer in came}
            return [self._read(answer.arrival, answer.update) for answer in came]

    def _read(self, arrival: Arrival, update: Vector) -> Arrival:
        """The aggregator may first read an update in the fold; where that costs budget, it has read it before."""
        private = self._terms.privacy.terms is not None
        if arrival.reason is None and private and not np.isfinite(update).all():
            return replace(arrival, reason=Reason.NON_FINITE)
        return arrival

    def fold(self, round_: Round, advance: Advance, spending: Spending | None) -> None:
        """Write the next model, with the noise that ``spending`` pays for.

        Raises:
            ContributionLost: somebody who counts is not finite. BlobError: the next model leaves the range of float32.
        """
        members = sorted(round_.counted)
        weights = [round_.counted[member].weight for member in members]
        vectors = [self._updates[member] for member in members]
        source = HeldUpdates(members, weights, vectors, self._wire.header(round_.number, members[0]))
        noise = None if spending is None else spending.noise(round_.number, round_.counted.values())
        if noise is None:
            fold_from(source, terms=self._terms.aggregation, advance=advance, jobs=self._jobs)
        else:
            fold_noisily_from(source, noise=noise, advance=advance, jobs=self._jobs)

    def unfit(self, round_: Round) -> dict[str, Reason]:
        """Everybody who counts and is not finite: many bad ones cost one more fold, and not one each."""
        bad = [member for member in round_.counted if not np.isfinite(self._updates[member]).all()]
        return dict.fromkeys(bad, Reason.NON_FINITE)
