"""Sites that send something else than what they trained. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from simulations.behaviour import Behaviour, Sight, Sites
from simulations.behaviours.checks import require_within
from trusted.encoding import Vector

_MOST = 1e30  # well within float32: what overflows is another attack


def sign_flip(sites: Sites, *, times: float = 4.0, name: str = "sign flip") -> Behaviour:
    """They send −``times`` their update: away from where everybody else goes.

    Raises:
        ValueError: ``times`` is below 0.
    """
    require_within(name, "times", times, 0, _MOST)
    return Behaviour(name, f"they send -{times:g} times their update", sites, forges=partial(_times, -times))


def scaled(sites: Sites, *, times: float = 20.0, name: str = "scaled") -> Behaviour:
    """They send ``times`` their update, so that it outweighs all others; worth little without poisoned rows.

    Raises:
        ValueError: ``times`` is below 0.
    """
    require_within(name, "times", times, 0, _MOST)
    return Behaviour(name, f"they send {times:g} times their update", sites, forges=partial(_times, times))


def noise(sites: Sites, *, deviation: float = 1.0, name: str = "noise") -> Behaviour:
    """They send a normal distribution of this ``deviation`` at every place.

    Raises:
        ValueError: ``deviation`` is below 0.
    """
    require_within(name, "deviation", deviation, 0, _MOST)
    says = f"they send a normal distribution of deviation {deviation:g} at every place"
    return Behaviour(name, says, sites, forges=partial(drawn, deviation))


def nan(sites: Sites, *, name: str = "NaN") -> Behaviour:
    """They send not-a-number at every place."""
    return Behaviour(name, "they send NaN at every place", sites, forges=_no_numbers)


def overweight(sites: Sites, *, times: float, name: str = "overweight") -> Behaviour:
    """They claim ``times`` the rows that they trained on; the plan's ``max_weight`` is what bounds it.

    Raises:
        ValueError: ``times`` is below 1.
    """
    require_within(name, "times", times, 1, _MOST)
    return Behaviour(name, f"they claim {times:g} times the rows that they have", sites, claims=partial(_more, times))


def drawn(deviation: float, sight: Sight) -> Sequence[Vector]:
    """One vector for each of ``sight.own``, float32, normal of this deviation."""
    return [sight.rng.normal(0, deviation, len(update)).astype(np.float32) for update in sight.own]


def _times(factor: float, sight: Sight) -> Sequence[Vector]:
    with np.errstate(over="ignore"):
        return [np.float32(factor) * update for update in sight.own]


def _no_numbers(sight: Sight) -> Sequence[Vector]:
    return [np.full_like(update, np.nan) for update in sight.own]


def _more(times: float, rows: int) -> int:
    return round(times * rows)
