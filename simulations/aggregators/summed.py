"""A weighted mean that is folded while its updates come, so that none is kept. Trust zone: the developer's machine.

Rules: 1. To the bit what :meth:`coordinator.enclave.fold.passes.Updates.mean` makes of the same updates: the same sums
of the same products, in the order of member ids; only that all of one update is added before anything of the next.
2. What is added cannot be taken away: an update is added if it will count, which its own time, weight and numbers say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from coordinator.enclave.fold import Advance, ContributionLost
from coordinator.enclave.fold.lanes import in_lanes
from coordinator.enclave.fold.passes import BLOCK, add_weighted, divided
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.rounds import Round
from simulations.aggregator import Answer, Stages
from simulations.collecting import Arrival, Clock
from simulations.setting import Setting
from simulations.terms import Terms
from simulations.wire import Wire
from trusted.blob import Piece
from trusted.documents.terms import Rule
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason


class Summed:
    """One run's :class:`simulations.aggregators.unsealed.Updates`, one round after the other."""

    def __init__(self, terms: Terms, wire: Wire, jobs: Jobs) -> None:
        self._terms, self._wire, self._jobs = terms, wire, jobs
        self._sum, self._room = np.empty(wire.part.elements), np.empty(BLOCK)
        self._weights: dict[str, int] = {}
        self._unfit: set[str] = set()

    @staticmethod
    def suits(setting: Setting) -> bool:
        """Whether nothing in a run looks at an update after it came."""
        terms = setting.terms
        is_mean = terms.aggregation.rule is Rule.WEIGHTED_MEAN and terms.privacy.terms is None
        return is_mean and not setting.cast.forges

    def take(self, answers: Iterable[Answer], clock: Clock, stages: Stages) -> Sequence[Arrival]:
        """Bring each update over the wire and add it."""
        arrivals = []
        self._weights, self._unfit = {}, set()
        for answer in answers:
            arrivals.append(answer.arrival)
            if clock.counts(self._terms, answer.arrival):
                with stages.of("exchange"):
                    self._wire.up([answer.update], self._jobs, forged=())
                with stages.of("fold"):
                    self._add(answer.arrival, answer.update)
        return arrivals

    def _add(self, arrival: Arrival, update: Vector) -> None:
        if self._weights and arrival.member <= next(reversed(self._weights)):
            raise RuntimeError("simulation: updates come in the order of member ids")
        if not _is_finite(update):
            self._unfit.add(arrival.member)
            return
        add_weighted(self._sum, update, arrival.weight, self._room, first=not self._weights)
        self._weights[arrival.member] = arrival.weight

    def fold(self, round_: Round, advance: Advance, spending: Spending | None) -> None:
        """Write the next model.

        Raises:
            ContributionLost: somebody who counts is not finite. BlobError: the next model leaves the range of float32.
        """
        if unfit := self.unfit(round_):
            raise ContributionLost(min(unfit), BlobError(Reason.NON_FINITE, "update: NaN or infinity"))
        if set(round_.counted) != set(self._weights):
            raise RuntimeError("simulation: other updates were added up than count")
        total = float(sum(self._weights.values()))

        def write(piece: Piece) -> None:
            advance.write(piece, divided(self._sum[piece.start : piece.start + piece.elements], total))

        header = self._wire.header(round_.number, next(iter(self._weights)))
        in_lanes(self._jobs, list(header.pieces()), lambda: write)

    def unfit(self, round_: Round) -> dict[str, Reason]:
        """Everybody who counts and is not finite."""
        return dict.fromkeys(self._unfit & set(round_.counted), Reason.NON_FINITE)


def _is_finite(update: Vector) -> bool:
    """Block by block, which stay in the cache."""
    return all(np.isfinite(update[start : start + BLOCK]).all() for start in range(0, len(update), BLOCK))
