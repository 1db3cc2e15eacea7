"""What sites do besides training honestly: who does it, and what is different. Trust zone: the developer's machine.

A behaviour is data: functions for what it changes, None for what is as usual. Several apply one after the other, in the
order in which they are given. Each gets a generator of its own for each round and site, drawn from the seed, so that
adding one moves no dice of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulations.dataset import Rows
from trusted.encoding import Vector

Sites = float | tuple[str, ...]
"""A share of all sites, drawn from the seed, or their names."""
Attends = Callable[[int, Generator], bool]
"""From the round's number to whether the site is there when the round opens."""
Answers = Callable[[int, Generator], bool]
"""From the round's number to whether a site that was drawn answers at all."""
Slows = Callable[[float, int, Generator], float]
"""From the seconds that a site's answer takes on the virtual clock, and its bytes, to the seconds that it takes now."""
Poisons = Callable[[Rows, Generator], Rows]
"""From a site's rows to those that it trains on instead."""
Probes = Callable[[Rows], Rows]
"""From rows that no site has to others: the accuracy on those is the share of rows with which the attack succeeds."""
Claims = Callable[[int], int]
"""From the rows that a site trained on to the number that it claims, before the plan's bound."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What those who forge in a round know: more than any site does under Cloister, so that attacks are at their worst.

    Attributes:
        round: counts from 1.
        own: what they trained, one float32[elements] each, in the order of their sites.
        others: what everybody else in the round trained.
        step: what the round before changed in the model, float32[elements]; zeros in the first. Any site knows this.
        rng: theirs together, for this round.
    """

    round: int
    own: Sequence[Vector]
    others: Sequence[Vector]
    step: Vector
    rng: Generator


Forges = Callable[[Sight], Sequence[Vector]]
"""To what those who behave so send instead of their own updates, one for each."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``sites``: a share of all (drawn from the seed), or their names. ``says``: one sentence for tables.

    ``probes`` changes nobody: it is for tasks, which may evaluate a model on those rows too.
    """

    name: str
    says: str
    sites: Sites
    attends: Attends | None = None
    answers: Answers | None = None
    slows: Slows | None = None
    poisons: Poisons | None = None
    forges: Forges | None = None
    claims: Claims | None = None
    probes: Probes | None = None

    def chosen(self, names: Sequence[str], rng: Generator) -> NDArray[np.int64]:
        """Places of the sites that behave so, in order; of a share that is not 0 at least one.

        Raises:
            ValueError: a name that is no site, or a share outside 0 to 1.
        """
        if isinstance(self.sites, tuple):
            places = {name: place for place, name in enumerate(names)}
            unknown = [name for name in self.sites if name not in places]
            if unknown:
                raise ValueError(f"behaviour {self.name}: no site is called {unknown[0]!r}")
            return np.array(sorted(places[name] for name in self.sites), dtype=np.int64)
        if not 0 <= self.sites <= 1:
            raise ValueError(f"behaviour {self.name}: a share of sites from 0 to 1 expected, not {self.sites}")
        count = 0 if self.sites == 0 else max(1, round(self.sites * len(names)))
        return np.sort(rng.choice(len(names), count, replace=False))
