"""Ten sites learn to read digits: a small task that needs no network. Trust zone: the developer's machine.

The 1797 images of 8 x 8 pixels that scikit-learn carries, split so that every site has digits of its own preference
(Dirichlet); a perceptron with one hidden layer, trained by each site with plain SGD, in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trusted.encoding import Vector

PIXELS, HIDDEN, CLASSES = 64, 32, 10
ELEMENTS = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
_EPOCHS, _BATCH, _RATE = 2, 32, 0.2
_CONCENTRATION = 2.0  # of the Dirichlet distribution of each digit over the sites: the smaller, the less alike they are
_TEST_SHARE = 5  # one row in so many


@dataclass(frozen=True, slots=True)
class Rows:
    """Images, float64[n, 64] from 0 to 1, and what they show, int[n]."""

    pixels: NDArray[np.float64]
    digits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.digits)


@dataclass(frozen=True, slots=True)
class Task:
    """What every site has, and what no site has."""

    sites: tuple[Rows, ...]
    test: Rows

    @classmethod
    def split(cls, sites: int, seed: int) -> Task:
        """The digits of scikit-learn over ``sites``."""
        from sklearn.datasets import load_digits

        rng = np.random.default_rng(seed)
        pixels, digits = load_digits(return_X_y=True)
        order = rng.permutation(len(digits))
        test, train = order[::_TEST_SHARE], np.delete(order, slice(None, None, _TEST_SHARE))
        shares = rng.dirichlet([_CONCENTRATION] * sites, CLASSES).cumsum(axis=1)
        owner = np.array([np.searchsorted(shares[digits[row], :-1], rng.random()) for row in train])
        parts = [train[owner == site] for site in range(sites)]
        rows = [Rows(pixels[part] / 16, digits[part]) for part in (*parts, test)]
        return cls(tuple(rows[:-1]), rows[-1])

    def accuracy(self, model: Vector) -> float:
        """The share of the test rows that ``model``, float32[ELEMENTS], reads rightly; chance is 0.1."""
        with np.errstate(all="ignore"):  # an attacker's model may be anything
            scores = _forward(_layers(model.astype(np.float64)), self.test.pixels)[1]
        right = np.nan_to_num(scores, nan=-np.inf).argmax(axis=1) == self.test.digits
        return float(right.mean())


def initial_model(seed: int) -> Vector:
    """float32[ELEMENTS]."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(ELEMENTS) * 0.1).astype(np.float32)


def trained(model: Vector, rows: Rows, rng: np.random.Generator) -> Vector:
    """``model`` after a site trained it on ``rows``."""
    flat = model.astype(np.float64)
    layers = _layers(flat)
    with np.errstate(all="ignore"):
        for _ in range(_EPOCHS):
            order = rng.permutation(len(rows))
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                _descend(layers, rows.pixels[batch], rows.digits[batch])
    return flat.astype(np.float32)


Layers = tuple[NDArray[np.float64], ...]


def _layers(flat: NDArray[np.float64]) -> Layers:
    """Views of ``flat``: weights and bias of the hidden layer, then of the last."""
    cuts = np.cumsum([PIXELS * HIDDEN, HIDDEN, HIDDEN * CLASSES])
    first, bias, last, offset = np.split(flat, cuts)
    return first.reshape(PIXELS, HIDDEN), bias, last.reshape(HIDDEN, CLASSES), offset


def _forward(layers: Layers, pixels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, bias, last, offset = layers
    hidden = np.maximum(pixels @ first + bias, 0)
    return hidden, hidden @ last + offset


def _descend(layers: Layers, pixels: NDArray[np.float64], digits: NDArray[np.int64]) -> None:
    """One step of SGD on the cross entropy."""
    first, bias, last, offset = layers
    hidden, scores = _forward(layers, pixels)
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope = likely / likely.sum(axis=1, keepdims=True)
    slope[np.arange(len(digits)), digits] -= 1
    slope *= _RATE / len(digits)
    back = (slope @ last.T) * (hidden > 0)
    last -= hidden.T @ slope
    offset -= slope.sum(axis=0)
    first -= pixels.T @ back
    bias -= back.sum(axis=0)
