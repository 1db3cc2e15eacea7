"""How much privacy rounds cost, by dp-accounting's privacy loss distributions. Trust zone: aggregator TEE, consoles.

One accountant for both mechanisms. A round is paid for in full, as the plan allows it, whatever a site made of it: with
member clipping it is one Gaussian mechanism; with DP-SGD ``max_steps`` of them, each on a Poisson sample. No cohort
amplifies anything, for the log says who was in it. Sites share no unit, so what one of them pays is what all pay.

Neighbours are two runs in one of which a unit's data is replaced by nothing (``REPLACE_SPECIAL`` of dp-accounting),
which costs what adding or removing it would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trusted.documents.terms import DpSgd, MemberClipping
from trusted.documents.terms.privacy import MAX_EPSILON

# What the Rényi bound already puts far beyond every budget is not computed more closely: that may take any memory.
_FAR_BEYOND = 5 * MAX_EPSILON
_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024, 4096)  # whole ones: the others do not always converge


@dataclass(slots=True)
class Accountant:
    """What rounds under ``terms`` cost at ``delta``. Figures are upper bounds, and are remembered."""

    terms: MemberClipping | DpSgd
    delta: float
    _known: dict[int, float] = field(default_factory=dict)
    _step: Any = None  # the privacy loss of one step, where steps are on a sample

    def epsilon(self, rounds: int) -> float:
        """What ``rounds`` cost in all; 0 for none. The first answer takes seconds: the library is imported then."""
        if rounds not in self._known:
            self._known[rounds] = self._epsilon_of(rounds * self._steps) if rounds else 0.0
        return self._known[rounds]

    def most_rounds(self, epsilon: float, *, limit: int) -> int:
        """The largest number of rounds, up to ``limit``, that ``epsilon`` pays for."""
        fits, breaks = 0, 1
        while breaks <= limit and self.epsilon(breaks) <= epsilon:
            fits, breaks = breaks, 2 * breaks
        breaks = min(breaks, limit + 1)
        while breaks - fits > 1:
            middle = (fits + breaks) // 2
            fits, breaks = (middle, breaks) if self.epsilon(middle) <= epsilon else (fits, middle)
        return fits

    @property
    def _steps(self) -> int:
        return self.terms.max_steps if isinstance(self.terms, DpSgd) else 1

    @property
    def _rate(self) -> float:
        return self.terms.sample_rate if isinstance(self.terms, DpSgd) else 1.0

    def _epsilon_of(self, steps: int) -> float:
        """The smaller of two upper bounds: by privacy loss distributions, and, where they are coarse, by Rényi's."""
        bound = self._by_renyi(steps)
        return bound if bound > _FAR_BEYOND else min(bound, self._by_loss(steps))

    # The library is not imported above: it brings scipy, which takes a second and 100 MB, and most runs do without.

    def _by_renyi(self, steps: int) -> float:
        from dp_accounting import dp_event
        from dp_accounting.rdp import RdpAccountant

        event: Any = dp_event.GaussianDpEvent(self.terms.noise_multiplier)
        if self._rate < 1.0:
            event = dp_event.PoissonSampledDpEvent(self._rate, event)
        return float(RdpAccountant(_ORDERS).compose(event, steps).get_epsilon(self.delta))

    def _by_loss(self, steps: int) -> float:
        from dp_accounting.pld import privacy_loss_distribution
        from dp_accounting.privacy_accountant import NeighboringRelation

        relation = NeighboringRelation.REPLACE_SPECIAL
        deviation = self.terms.noise_multiplier
        if self._rate >= 1.0:  # composed Gaussians are one Gaussian
            loss = privacy_loss_distribution.from_gaussian_mechanism(
                deviation / math.sqrt(steps), neighboring_relation=relation
            )
        else:
            self._step = self._step or privacy_loss_distribution.from_gaussian_mechanism(
                deviation, sampling_prob=self._rate, neighboring_relation=relation
            )
            loss = self._step.self_compose(steps)
        return float(loss.get_epsilon_for_delta(self.delta))
