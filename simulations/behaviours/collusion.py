"""Sites that act together, knowing each other's updates and those of all others. Trust zone: the developer's machine.

No site knows another's update under Cloister: these attacks are stronger than any that its sites can make.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coordinator.enclave.fold import weighing
from simulations.behaviour import Behaviour, Sight, Sites
from simulations.behaviours.checks import require_within
from trusted.encoding import Vector

_BISECTIONS, _FURTHEST = 30, 63.0
_MOST = 1e6


def a_little(sites: Sites, *, deviations: float = 4.0, name: str = "a little") -> Behaviour:
    """As Baruch et al. 2019: all send the honest mean less so many ``deviations`` at every place, and no more.

    Raises:
        ValueError: ``deviations`` is below 0.
    """
    require_within(name, "deviations", deviations, 0, _MOST)
    says = f"they all send the honest mean less {deviations:g} deviations at every place"
    return Behaviour(name, says, sites, forges=partial(_a_little, deviations))


def against_mean(sites: Sites, *, times: float = 1.0, name: str = "against the mean") -> Behaviour:
    """As Xie et al. 2020 ("Fall of Empires"): all send −``times`` the honest mean.

    Raises:
        ValueError: ``times`` is below 0.
    """
    require_within(name, "times", times, 0, _MOST)
    says = f"they all send -{times:g} times the honest mean"
    return Behaviour(name, says, sites, forges=partial(_against_mean, times))


def around_krum(sites: Sites, *, byzantine: int, kept: int = 1, name: str = "around Krum") -> Behaviour:
    """As Shejwalkar and Houmansadr 2021: all send the honest mean less as many times itself as the rule still takes.

    They try it out on the aggregator's own ``krum``, or ``multi_krum`` where it keeps more than one.

    Raises:
        ValueError: ``byzantine`` is below 0, or ``kept`` below 1.
    """
    require_within(name, "byzantine", byzantine, 0, _MOST)
    require_within(name, "kept", kept, 1, _MOST)
    says = "they all send what goes furthest against the honest mean and Krum still takes"
    return Behaviour(name, says, sites, forges=partial(_around_krum, byzantine, kept))


def _known(sight: Sight) -> NDArray[np.float64]:
    """Honest updates, float64[n, elements]; where the round has none, what the attackers trained."""
    return np.array(sight.others or sight.own, dtype=np.float64)


def _a_little(deviations: float, sight: Sight) -> Sequence[Vector]:
    known = _known(sight)
    same = (known.mean(axis=0) - deviations * known.std(axis=0)).astype(np.float32)
    return [same for _ in sight.own]


def _against_mean(times: float, sight: Sight) -> Sequence[Vector]:
    same = (-times * _known(sight).mean(axis=0)).astype(np.float32)
    return [same for _ in sight.own]


def _around_krum(byzantine: int, kept: int, sight: Sight) -> Sequence[Vector]:
    known, count = _known(sight), len(sight.own)
    gram = known @ known.T
    taken, refused = 1.0, -_FURTHEST  # times the mean; what is sent is of the first kind
    for _ in range(_BISECTIONS):
        middle = (taken + refused) / 2
        if _is_taken(middle, gram, count, byzantine, kept):
            taken = middle
        else:
            refused = middle
    same = (taken * known.mean(axis=0)).astype(np.float32)
    return [same for _ in sight.own]


def _is_taken(times: float, known: NDArray[np.float64], count: int, byzantine: int, kept: int) -> bool:
    """Whether the rule takes one of ``count`` vectors, ``times`` the honest mean, beside those of the Gram matrix."""
    honest = len(known)
    gram = np.empty((honest + count, honest + count))
    gram[:honest, :honest] = known
    gram[:honest, honest:] = times * known.mean(axis=1)[:, np.newaxis]
    gram[honest:, :honest] = gram[:honest, honest:].T
    gram[honest:, honest:] = times * times * known.mean()
    if kept == 1:
        shares = weighing.krum(gram, byzantine)
    else:
        shares = weighing.multi_krum(gram, byzantine, kept, [1] * len(gram))
    return bool(shares[honest:].any())
