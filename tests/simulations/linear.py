"""A small simulation of a function: logistic regression on blobs, as sites would train it."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.tasks.function import Function

INPUTS, ROWS, SITES = 20, 1000, 10


def dataset(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, INPUTS))
    return Dataset({"x": x, "y": (x @ np.linspace(-1, 1, INPUTS) > 0).astype("f4")}, "y")


def train(arrays: Any, rows: Any, rng: np.random.Generator, config: Any) -> Any:
    weights = arrays["w"].copy()
    for _ in range(3):
        order = rng.permutation(len(rows["y"]))
        x, y = rows["x"][order], rows["y"][order]
        chances = 1 / (1 + np.exp(-(x @ weights)))
        weights -= (0.5 * x.T @ (chances - y) / len(y)).astype("f4")
    return {"w": weights}, {"loss": float(np.mean((chances - y) ** 2))}


def evaluate(arrays: Any, rows: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean((rows["x"] @ arrays["w"] > 0) == (rows["y"] > 0)))}


FUNCTION = Function(train, {"w": np.zeros(INPUTS, "f4")}, evaluate)


def partition(sites: int = SITES) -> Partition:
    return Partition.of(np.array_split(np.arange(ROWS), sites))


def simulation(trains: Any = FUNCTION, *, sites: int = SITES, **changes: Any) -> Simulation:
    """Five rounds in this process, unless told otherwise."""
    held_out = {"held_out": dataset(1)} if trains is FUNCTION else {}
    given = {"rounds": 5, "engine": "in-process"} | held_out | changes
    return Simulation(trains, dataset(), partition(sites), **given)
