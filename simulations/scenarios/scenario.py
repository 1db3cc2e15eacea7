"""What a scenario is to the command line. Trust zone: the developer's machine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulations.drawing import Picture
from simulations.sweep import Point, Sweep, Swept
from simulations.table import Table

# One module for each; by their names they are found without importing any.
NAMES = (
    "digits",
    "hospitals",
    "bank_fraud",
    "non_iid",
    "rules_attacks",
    "privacy_utility",
    "dropouts_quorum",
    "sites_time",
)
Told = Callable[[int, int, str], None]
"""How much is done, of how much, and what comes now."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for.

    Attributes:
        seeds: how many repetitions, where a scenario has them; they begin at ``seed``.
        rounds: None: as many as the scenario thinks right.
        folder: where finished points of a sweep are kept, and found again.
        processes: that simulate side by side.
    """

    folder: Path
    told: Told
    seed: int = 7
    seeds: int = 3
    rounds: int | None = None
    processes: int | None = None

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of all repetitions."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def sweep(self, sweep: Sweep, *, processes: int | None = None) -> Swept:
        """Run it in the folder, finished points taken from there.

        Raises:
            ValueError: a point failed; the first one's reason.
        """

        def told(done: int, total: int, point: Point | None) -> None:
            said = {} if point is None else {name: point.settings[name] for name in sweep.grid}
            self.told(done, total, ", ".join(f"{name} {value}" for name, value in said.items()))

        swept = sweep.run(self.folder, processes=processes or self.processes, told=told)
        if swept.failures:
            settings, why = swept.failures[0]
            raise ValueError(f"scenario: {len(swept.failures)} point(s) failed; the first, {dict(settings)}: {why}")
        return swept


@dataclass(frozen=True, slots=True)
class Outcome:
    """One table, one figure (drawn when asked for, since it needs matplotlib), and what they say in words."""

    table: Table
    picture: Callable[[], Picture]
    says: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``asks``: the question, in one sentence. ``takes``: about how long on two cores, in words."""

    name: str
    asks: str
    takes: str
    run: Callable[[Wishes], Outcome]


def find(name: str) -> Scenario:
    """The scenario of this name.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    key = name.replace("-", "_")
    if key not in NAMES:
        raise ValueError(f"scenario {name!r}: there is none of this name; there are {', '.join(NAMES)}")
    found: Scenario = importlib.import_module(f"simulations.scenarios.{key}").SCENARIO
    return found
