"""What does a larger population cost here? Up to ten thousand sites, fifty in a round. Trust zone: made-up rows.

Each point has a process of its own, so that its memory is its own too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from simulations import partitions
from simulations.dataset import Dataset
from simulations.drawing import Picture
from simulations.scenarios.digits_net import DIGIT, DIGITS, PIXELS, recipe
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.sweep import Sweep
from simulations.sweep_shown import plot, table_of

POPULATIONS = (50, 200, 1_000, 4_000, 10_000)
COHORT, ROUNDS, ROWS_EACH = 50, 10, 20
_ROUND, _RATE, _MEMORY, _VIRTUAL = "seconds a round", "sites a second", "memory, MB", "virtual s a round"


def measure(settings: Mapping[str, Any]) -> dict[str, float]:
    """Of warm rounds: seconds here, sites a second, seconds on the virtual clock; and the process' peak memory."""
    seed, sites = int(settings["seed"]), int(settings["sites"])
    rows = _rows(sites, seed)
    result = Simulation(
        recipe(seed),
        rows,
        partitions.iid(rows, sites, seed=seed),
        rounds=settings["rounds"],
        cohort=COHORT,
        engine="in-process",
        seed=seed,
    ).run()
    warm = result.rounds[1:] or result.rounds
    seconds = median(sum(row.wall_s.values()) for row in warm)
    counted = median(len(row.counted) for row in warm)
    return {
        _ROUND: seconds,
        _RATE: counted / seconds,
        _VIRTUAL: median(row.virtual_s for row in warm),
        _MEMORY: _peak_mb(),
    }


def run(wishes: Wishes) -> Outcome:
    """Every population, one after the other: they are timed."""
    rounds = wishes.rounds or ROUNDS
    sweep = Sweep(measure, {"sites": POPULATIONS}, wishes.all_seeds, {"rounds": rounds}, fresh=True)
    swept = wishes.sweep(sweep, processes=1)
    table = table_of(swept, title=f"{COHORT} sites drawn in each of {rounds} rounds, {ROWS_EACH} rows at each site")

    def picture() -> Picture:
        made = plot(swept, (_ROUND, _MEMORY), along="sites")
        for axis in made.figure.axes:
            axis.set_ylim(bottom=0)
        return made

    says = ("Memory counts Python and libraries too; what a larger population adds is its rows and names.",)
    return Outcome(table, picture, says, {"cohort": COHORT, "rounds": rounds})


def _rows(sites: int, seed: int) -> Dataset:
    """Made up: here nobody asks what is learned."""
    rng = np.random.default_rng([seed, sites])
    pixels = rng.random((sites * ROWS_EACH, 64), dtype=np.float32)
    return Dataset({PIXELS: pixels, DIGIT: rng.integers(DIGITS, size=len(pixels))}, DIGIT)


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("this system does not say how much memory a process had")


SCENARIO = Scenario("sites_time", "What does a larger population cost here?", "1 minute", run)
