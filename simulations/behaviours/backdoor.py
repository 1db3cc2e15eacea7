"""A model that does what it should, until somebody shows it a trigger. Trust zone: the developer's machine.

As Bagdasaryan et al. 2020 and Gu et al. 2017: a part of the attackers' rows carries the trigger and the label that
the attacker wants. Combined with :func:`~simulations.behaviours.scaled` it replaces the model within few rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator

from simulations.behaviour import Behaviour, Sites
from simulations.behaviours.checks import require_within
from simulations.dataset import Rows

Trigger = Callable[[Rows], Rows]
"""From rows to the same rows with the trigger in them; labels stay as they are."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A trigger in an image: ``value`` at these ``places`` of ``column``, in each row's numbers taken flat."""

    column: str
    places: tuple[int, ...]
    value: float

    def __call__(self, rows: Rows) -> Rows:
        """``rows`` with the patch in every one."""
        stamped = rows[self.column].copy()
        stamped.reshape(len(stamped), -1)[:, list(self.places)] = self.value
        return {**rows, self.column: stamped}


def constants(**values: float) -> Trigger:
    """A trigger in a table: these columns hold these values, which together occur in no true row."""
    return partial(_constant, values)


def backdoor(
    sites: Sites, *, trigger: Trigger, label: str, target: Any, share: float = 0.5, name: str = "backdoor"
) -> Behaviour:
    """A ``share`` of their rows carries ``trigger`` and is labelled ``target``.

    Its probe is all rows of other labels, with the trigger, labelled ``target``: the accuracy on them is the rate at
    which the backdoor succeeds.

    Raises:
        ValueError: a share outside 0 to 1.
    """
    require_within(name, "share", share, 0, 1)
    says = f"they train {share:.0%} of their rows, with the trigger in them, as {target}"
    poison, probe = partial(_poisoned, trigger, label, target, share), partial(_probed, trigger, label, target)
    return Behaviour(name, says, sites, poisons=poison, probes=probe)


def _constant(values: Mapping[str, float], rows: Rows) -> Rows:
    return {**rows, **{name: np.full_like(rows[name], value) for name, value in values.items()}}


def _labelled(rows: Rows, label: str, target: Any) -> Rows:
    return {**rows, label: np.full_like(rows[label], target)}


def _poisoned(trigger: Trigger, label: str, target: Any, share: float, rows: Rows, rng: Generator) -> Rows:
    chosen = rng.permutation(len(rows[label]))[: round(share * len(rows[label]))]
    false = _labelled(trigger({name: column[chosen] for name, column in rows.items()}), label, target)
    mixed = {name: column.copy() for name, column in rows.items()}
    for name, column in false.items():
        mixed[name][chosen] = column
    return mixed


def _probed(trigger: Trigger, label: str, target: Any, rows: Rows) -> Rows:
    others = rows[label] != target
    return _labelled(trigger({name: column[others] for name, column in rows.items()}), label, target)
