"""Ten sites learn to read digits, in NumPy: the task that attacks are tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.robustness.digits import Rows, Task, initial_model, trained
from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.partitions import dirichlet
from simulations.simulation import Simulation
from simulations.tasks.function import Function
from simulations.undefended import undefended

SITES, FALSE, ROUNDS = 10, 2, 12
LIARS = tuple(f"site-{place:04d}" for place in range(SITES - FALSE, SITES))
MAX_WEIGHT = 300  # rows; a site has 144 or so


def train(arrays: Any, rows: Any, rng: np.random.Generator, config: Any) -> Any:
    return {"model": trained(arrays["model"], Rows(rows["pixels"].astype(float), rows["digit"]), rng)}, {}


def evaluate(arrays: Any, rows: Any) -> dict[str, float]:
    return {"accuracy": Task((), Rows(rows["pixels"].astype(float), rows["digit"])).accuracy(arrays["model"])}


FUNCTION = Function(train, {"model": initial_model(0)}, evaluate)


@cache
def data() -> tuple[Dataset, Partition, Dataset]:
    """What sites have, who has which of it, and what nobody has."""
    known, held_out = Dataset.digits().held_out(0.2)
    return known, dirichlet(known, SITES, alpha=5.0, least=50), held_out


def baseline(behaviours: Sequence[Behaviour] = (), rounds: int = ROUNDS) -> Mapping[str, float]:
    """The end of a run in which everything is believed."""
    known, partition, held_out = data()
    return undefended(FUNCTION, known, partition, rounds=rounds, held_out=held_out, behaviours=behaviours)


def under(rule: Mapping[str, Any], behaviours: Sequence[Behaviour] = (), rounds: int = ROUNDS) -> Mapping[str, float]:
    """The end of a run under a plan's rule; empty if no round was committed."""
    known, partition, held_out = data()
    simulation = Simulation(
        FUNCTION, known, partition, rounds=rounds, minimum=SITES - FALSE, aggregation={"max_weight": MAX_WEIGHT} | rule,
        held_out=held_out, behaviours=behaviours, engine="in-process", evaluate_every=0,
    )  # fmt: skip
    return next((row.evaluated for row in reversed(simulation.run().rounds) if row.evaluated), {})
