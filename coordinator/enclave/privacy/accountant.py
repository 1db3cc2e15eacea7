"""How much privacy rounds cost, by dp-accounting's privacy loss distributions. Trust zone: aggregator TEE, consoles.

One accountant for both mechanisms. A round is paid for in full, as the plan allows it, whatever a site made of it: with
member clipping it is one Gaussian mechanism; with DP-SGD ``max_steps`` of them, each on a Poisson sample. No cohort
amplifies anything, for the log says who was in it. Sites share no unit, so what one of them pays is what all pay.

Neighbours are two runs in one of which a unit's data is replaced by nothing (``REPLACE_SPECIAL`` of dp-accounting),
which costs what adding or removing it would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trusted.documents.terms import DpSgd, MemberClipping
from trusted.documents.terms.privacy import MAX_EPSILON

# What the Rényi bound already puts far beyond every budget is not computed more closely: that may take any memory.
_FAR_BEYOND = 5 * MAX_EPSILON
_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024, 4096)  # whole ones: the others do not always converge


@dataclass(frozen=True, slots=True)
class Accountant:
    """What rounds under ``terms`` cost at ``delta``. Figures are upper bounds, and are remembered."""

    terms: MemberClipping | DpSgd
    delta: float

    def epsilon(self, rounds: int) -> float:
        """What ``rounds`` cost in all; 0 for none. The first answer takes seconds: the library is imported then."""
        return self._epsilon_of(rounds * self._steps) if rounds else 0.0

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

    def _epsilon_of(self, steps: int) -> float:
        rate = self.terms.sample_rate if isinstance(self.terms, DpSgd) else 1.0
        return _epsilon(self.terms.noise_multiplier, rate, steps, self.delta)


# The library is not imported above: it brings scipy, which takes a second and 100 MB, and most runs do without.


@lru_cache(maxsize=4096)
def _epsilon(deviation: float, rate: float, steps: int, delta: float) -> float:
    """What ``steps`` cost: the smaller of two upper bounds, by privacy loss and, where that is coarse, by Rényi's."""
    bound = _by_renyi(deviation, rate, steps, delta)
    return bound if bound > _FAR_BEYOND else min(bound, _by_loss(deviation, rate, steps, delta))


def _by_renyi(deviation: float, rate: float, steps: int, delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    event: Any = dp_event.GaussianDpEvent(deviation)
    if rate < 1.0:
        event = dp_event.PoissonSampledDpEvent(rate, event)
    return float(RdpAccountant(_ORDERS).compose(event, steps).get_epsilon(delta))


def _by_loss(deviation: float, rate: float, steps: int, delta: float) -> float:
    sampled = rate < 1.0  # else the composed Gaussians are one Gaussian
    loss = _loss(deviation, rate).self_compose(steps) if sampled else _loss(deviation / math.sqrt(steps), rate)
    return float(loss.get_epsilon_for_delta(delta))


@lru_cache(maxsize=4)
def _loss(deviation: float, rate: float) -> Any:
    """The privacy loss of one step: a distribution of some 10^5 numbers."""
    from dp_accounting.pld import privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    relation = NeighboringRelation.REPLACE_SPECIAL
    return privacy_loss_distribution.from_gaussian_mechanism(
        deviation, sampling_prob=rate, neighboring_relation=relation
    )
