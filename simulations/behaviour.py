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

Attends = Callable[[int, Generator], bool]
"""From the round's number to whether the site is there when the round opens."""
Answers = Callable[[int, Generator], bool]
"""From the round's number to whether a site that was drawn answers at all."""
Slows = Callable[[float, int, Generator], float]
"""From the seconds that a site's answer takes on the virtual clock, and its bytes, to the seconds that it takes now."""
Poisons = Callable[[Rows, Generator], Rows]
"""From a site's rows to those that it trains on instead."""
Forges = Callable[[Sequence[Vector], Sequence[Vector], Generator], Sequence[Vector]]
"""From the updates of all who behave so, and those of the others in the round, to what the former send instead."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``sites``: a share of all (drawn from the seed), or their names. ``says``: one sentence for tables."""

    name: str
    says: str
    sites: float | tuple[str, ...]
    attends: Attends | None = None
    answers: Answers | None = None
    slows: Slows | None = None
    poisons: Poisons | None = None
    forges: Forges | None = None

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
