"""Twenty sites learn to read digits, and one in five of them lies: ``python examples/simulation.py``.

The same lines work in a notebook, where the result and the figure show themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulations.behaviours import sign_flip
from simulations.dataset import Dataset, Rows
from simulations.partitions import dirichlet
from simulations.simulation import Simulation
from simulations.tasks.function import Arrays, Config, Function


def train(model: Arrays, rows: Rows, rng: np.random.Generator, config: Config) -> tuple[Arrays, Mapping[str, float]]:
    """One pass of softmax regression over a site's rows; ``rng`` is the site's own for this round."""
    weight = model["weight"].copy()
    for places in np.array_split(rng.permutation(len(rows["digit"])), 5):
        x, y = rows["pixels"][places], rows["digit"][places]
        weight += float(config["learning-rate"]) * x.T @ (np.eye(10, dtype="f4")[y] - chances(weight, x)) / len(y)
    return {"weight": weight}, {}


def evaluate(model: Arrays, rows: Rows) -> Mapping[str, float]:
    """Accuracy on rows that no site has."""
    return {"accuracy": float((chances(model["weight"], rows["pixels"]).argmax(1) == rows["digit"]).mean())}


def chances(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of each row and digit."""
    odds = np.exp(x @ weight - (x @ weight).max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def main() -> None:
    """Fold by a mean, then by a median."""
    digits = Dataset.digits()
    order = np.random.default_rng(7).permutation(len(digits))
    sites, held_out = (Dataset(digits.take(rows), "digit") for rows in (order[400:], order[:400]))
    recipe = Function(train, {"weight": np.zeros((64, 10), "f4")}, evaluate, {"learning-rate": 1.0})
    for rule in ("weighted-mean", "median"):
        partition = dirichlet(sites, 20, alpha=1.0, seed=7)
        liars = [sign_flip(0.2)]
        simulation = Simulation(
            recipe, sites, partition, held_out=held_out, rounds=15, aggregation=rule, behaviours=liars, seed=7
        )
        result = simulation.run()
        print(f"{rule}: {result.final['accuracy']:.3f}")
        result.save(f"{rule}.parquet")
    print(result.table())


if __name__ == "__main__":
    main()
