"""Sites, groups of sites and triggers, as a command line writes them. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulations.behaviour import Behaviour
from simulations.behaviours import constants
from simulations.behaviours.backdoor import Trigger
from simulations.dataset import Dataset
from simulations.dice import Dice
from simulations.site_data import sites_of


def sites(who: str) -> float | tuple[str, ...]:
    """``0.2``, a share; or ``site-0001+site-0004``, names."""
    try:
        return float(who)
    except ValueError:
        return tuple(who.split("+"))


def chosen(behaviour: str, who: str, names: Sequence[str], seed: int) -> tuple[str, ...]:
    """The names of those whom :func:`sites` means, of all ``names``, in their order.

    Raises:
        ValueError: a name that is no site, or a share outside 0 to 1.
    """
    return tuple(names[place] for place in sites_of(Behaviour(behaviour, "", sites(who)), names, seed))


def groups(behaviour: str, who: str, names: Sequence[str], seed: int) -> Mapping[str, tuple[str, ...]]:
    """``0.3/0.3`` or ``site-0001+site-0002/site-0003``: by the group's number, from 1; nobody is in two.

    Raises:
        ValueError: a name that is no site or stands twice, or shares that are more than all sites.
    """
    parts = [sites(text) for text in who.split("/")]
    named = [name for part in parts if isinstance(part, tuple) for name in part]
    for place, name in enumerate(named):
        if name not in names:
            raise ValueError(f"behaviour {behaviour}: no site is called {name!r}")
        if name in named[:place]:
            raise ValueError(f"behaviour {behaviour}: {name} is in two groups")
    others = [name for name in names if name not in named]
    left = [others[place] for place in Dice(seed, f"behaviour {behaviour}: sites").at(0).permutation(len(others))]
    found: dict[str, tuple[str, ...]] = {}
    for number, part in enumerate(parts, 1):
        if not isinstance(part, tuple):
            part, left = _share(behaviour, part, len(names), left)
        found[str(number)] = part
    return found


def _share(behaviour: str, share: float, count: int, left: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """So many of those ``left``, and who is left then."""
    if not 0 < share <= 1:
        raise ValueError(f"behaviour {behaviour}: a share of sites from 0 to 1 expected, not {share}")
    size = max(1, round(share * count))
    if size > len(left):
        raise ValueError(f"behaviour {behaviour}: the groups are more than all {count} sites")
    return tuple(sorted(left[:size])), left[size:]


def trigger(behaviour: str, text: str, dataset: Dataset) -> Trigger:
    """``age:99+visits:77``: these columns of a table hold these numbers.

    Raises:
        ValueError: no such column, one that holds no plain numbers, or a value that is none.
    """
    values: dict[str, float] = {}
    for pair in text.split("+"):
        name, colon, value = pair.rpartition(":")
        if not colon or name not in dataset.columns:
            there = ", ".join(dataset.columns)
            raise ValueError(f"behaviour {behaviour}: trigger is COLUMN:NUMBER, not {pair!r}; columns are {there}")
        if not np.issubdtype(dataset.column(name).dtype, np.number) or dataset.column(name).ndim != 1:
            raise ValueError(f"behaviour {behaviour}: trigger: column {name!r} does not hold numbers")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"behaviour {behaviour}: trigger: {name} is set to a number, not {value!r}") from None
    return constants(**values)
