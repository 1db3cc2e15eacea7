"""The small network that most scenarios train: scikit-learn's digits, 64-32-10. Trust zone: public data.

Written in numpy: for batches this small, torch would mostly wait for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulations.dataset import Dataset, Rows
from simulations.tasks.function import Arrays, Config, Function

PIXELS, DIGIT = "pixels", "digit"
DIGITS = 10
_HELD_OUT = 0.25
_HIDDEN = 32


def split(seed: int) -> tuple[Dataset, Dataset]:
    """Three quarters of the 1,797 digits for sites, and the others for judging; drawn from ``seed``."""
    whole = Dataset.digits()
    order = np.random.default_rng([seed, 0xD161]).permutation(len(whole)).astype(np.int64)
    cut = round(len(whole) * _HELD_OUT)
    return Dataset(whole.take(order[cut:]), DIGIT), Dataset(whole.take(order[:cut]), DIGIT)


def recipe(seed: int, *, epochs: int = 1, learning_rate: float = 0.1, batch: int = 16) -> Function:
    """The network, its start drawn from ``seed``, trained by SGD at each site."""
    config = {"epochs": epochs, "learning-rate": learning_rate, "batch-size": batch}
    return Function(train, start(seed), evaluate, config)


def start(seed: int) -> Arrays:
    """The model before the first round."""
    rng = np.random.default_rng([seed, 0x1417])
    draw = partial(_drawn, rng)
    return {
        "hidden.weight": draw(_HIDDEN, 64),
        "hidden.bias": np.zeros(_HIDDEN, np.float32),
        "out.weight": draw(DIGITS, _HIDDEN),
        "out.bias": np.zeros(DIGITS, np.float32),
    }


def train(arrays: Arrays, rows: Rows, rng: Generator, config: Config) -> tuple[Arrays, Mapping[str, float]]:
    """Some epochs of minibatch SGD in an order drawn from ``rng``."""
    model = {name: array.copy() for name, array in arrays.items()}
    x, y, step = rows[PIXELS], rows[DIGIT], np.float32(config["learning-rate"])
    batch, total = int(config["batch-size"]), 0.0
    for _ in range(int(config["epochs"])):
        order, total = rng.permutation(len(y)), 0.0
        for begin in range(0, len(y), batch):
            places = order[begin : begin + batch]
            gradients, loss = _gradients(model, x[places], y[places])
            for name, gradient in gradients.items():
                model[name] -= step * gradient
            total += loss * len(places)
    return model, {"train-loss": total / len(y)}


def evaluate(arrays: Arrays, rows: Rows) -> Mapping[str, float]:
    """Accuracy and loss; a model that has blown up has an infinite loss."""
    with np.errstate(over="ignore", invalid="ignore"):
        chances, _ = _chances(arrays, rows[PIXELS])
        of_truth = chances[np.arange(len(chances)), rows[DIGIT]]
        loss = float(-np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean())
    accuracy = float((chances.argmax(axis=1) == rows[DIGIT]).mean())
    return {"accuracy": accuracy, "loss": loss if np.isfinite(loss) else float("inf")}


def _chances(model: Arrays, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each row and digit, float32[n, 10]; and the hidden layer, float32[n, 32]."""
    hidden = np.maximum(x @ model["hidden.weight"].T + model["hidden.bias"], 0)
    scores = hidden @ model["out.weight"].T + model["out.bias"]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True), hidden


def _gradients(model: Arrays, x: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[Arrays, float]:
    """Of the mean cross-entropy of a batch, by tensor; and that mean."""
    chances, hidden = _chances(model, x)
    loss = float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-30)).mean())
    at_scores = chances
    at_scores[np.arange(len(y)), y] -= 1
    at_scores /= np.float32(len(y))
    at_hidden = (at_scores @ model["out.weight"]) * (hidden > 0)
    gradients = {
        "hidden.weight": at_hidden.T @ x,
        "hidden.bias": at_hidden.sum(axis=0),
        "out.weight": at_scores.T @ hidden,
        "out.bias": at_scores.sum(axis=0),
    }
    return gradients, loss


def _drawn(rng: Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Uniform within Glorot's bound."""
    bound = np.sqrt(6.0 / (rows + columns))
    return rng.uniform(-bound, bound, (rows, columns)).astype(np.float32)
