"""Sites that were asked and do not answer. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

from numpy.random import Generator

from simulations.behaviour import Behaviour, Sites
from simulations.behaviours.checks import require_within
from simulations.dice import Dice


def dropouts(sites: Sites, *, chance: float, name: str = "dropouts") -> Behaviour:
    """Each site misses a round with this ``chance``, whatever the others do.

    Raises:
        ValueError: a chance outside 0 to 1.
    """
    require_within(name, "chance", chance, 0, 1)
    says = f"they give no answer in {chance:.0%} of the rounds, each for itself"
    return Behaviour(name, says, sites, answers=partial(_answers, chance))


def outages(groups: Mapping[str, Sequence[str]], *, chance: float, seed: int = 0) -> tuple[Behaviour, ...]:
    """All sites of a group miss the same rounds: one network, one region, one cloud. Groups miss rounds independently.

    Raises:
        ValueError: a chance outside 0 to 1.
    """
    require_within("outages", "chance", chance, 0, 1)
    says = f"none of the group answers in {chance:.0%} of the rounds"
    return tuple(
        Behaviour(f"outage of {group}", says, tuple(sites), answers=partial(_answers_as_one, chance, seed, group))
        for group, sites in groups.items()
    )


def _answers(chance: float, number: int, rng: Generator) -> bool:
    return bool(rng.random() >= chance)


def _answers_as_one(chance: float, seed: int, group: str, number: int, rng: Generator) -> bool:
    return _is_up(chance, seed, group, number)


@lru_cache(maxsize=1 << 14)  # every site of the group asks
def _is_up(chance: float, seed: int, group: str, number: int) -> bool:
    return _answers(chance, number, Dice(seed, f"outage of {group}").at(number))
