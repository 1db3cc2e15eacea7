"""Sites that come late, and sites that leave for good. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.random import Generator

from simulations.behaviour import Behaviour, Sites
from simulations.behaviours.checks import require_within
from simulations.dice import Dice

_NEVER = 1 << 31


def joining(sites: Sites, *, first_round: int, name: str = "joining") -> Behaviour:
    """They are there from ``first_round`` on.

    Raises:
        ValueError: a round before the first.
    """
    require_within(name, "first_round", first_round, 1, _NEVER)
    return Behaviour(name, f"they join in round {first_round}", sites, attends=partial(_stays, first_round, _NEVER))


def leaving(sites: Sites, *, last_round: int, name: str = "leaving") -> Behaviour:
    """They are not there after ``last_round``; of 0 they never are.

    Raises:
        ValueError: a round below 0.
    """
    require_within(name, "last_round", last_round, 0, _NEVER)
    return Behaviour(name, f"they leave after round {last_round}", sites, attends=partial(_stays, 1, last_round))


def churn(names: Sequence[str], *, within: int, stays: float, seed: int = 0) -> tuple[Behaviour, ...]:
    """Every site joins in a round drawn from the first ``within``, and stays for ``stays`` rounds on average.

    How long is drawn from a geometric distribution: in every round as many of those that are there leave.

    Raises:
        ValueError: ``within`` or ``stays`` is below 1.
    """
    require_within("churn", "within", within, 1, _NEVER)
    require_within("churn", "stays", stays, 1, _NEVER)
    rng = Dice(seed, "churn").at(0)
    first = rng.integers(1, within, len(names), endpoint=True)
    last = first + rng.geometric(1 / stays, len(names)) - 1
    sites = np.array(names)
    joined = [(int(at), tuple(sites[first == at].tolist())) for at in np.unique(first)]
    left = [(int(at), tuple(sites[last == at].tolist())) for at in np.unique(last)]
    return (
        *(joining(some, first_round=at, name=f"churn: joining in {at}") for at, some in joined if at > 1),
        *(leaving(some, last_round=at, name=f"churn: leaving after {at}") for at, some in left),
    )


def _stays(first: int, last: int, number: int, rng: Generator) -> bool:
    return first <= number <= last
