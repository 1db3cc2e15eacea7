"""The next model of a step, and what the server optimiser remembers. Trust zone: aggregator TEE. Pure: no I/O.

The formulas are Flower's (``flwr.serverapp.strategy``, 1.41), in float64 from what is kept in float32. Its delta is the
step here: what the rule made of updates that are differences from the round's model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trusted.blob import Piece
from trusted.documents.terms import Optimizer, ServerOptimizer
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason

Row = NDArray[np.float64]

_BLOCK = 1 << 16  # elements, in several float64 rows that stay in the cache


@dataclass(frozen=True, slots=True)
class State:
    """What goes from round to round: the model, and the moments of a server optimiser, float32[elements] each."""

    model: Vector = field(repr=False)
    moments: tuple[Vector, ...] = field(default=(), repr=False)

    def room(self) -> State:
        """As much again, of whatever content."""
        return State(np.empty_like(self.model), tuple(map(np.empty_like, self.moments)))


@dataclass(frozen=True, slots=True)
class Advance:
    """From the state ``before`` a round to the one ``after`` it; ``number`` of this step is 1 for a run's first."""

    server: ServerOptimizer | None
    number: int
    before: State
    after: State

    def write(self, piece: Piece, step: Row) -> None:
        """One piece of the next state, from ``step``, float64[piece.elements].

        Raises:
            BlobError: NON_FINITE: a number of it left the range of float32.
        """
        begin, end = piece.start, piece.start + piece.elements
        old, new = ([state.model[begin:end], *(each[begin:end] for each in state.moments)]
                    for state in (self.before, self.after))  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            if self.server is None:
                new[0][:] = step
                new[0] += old[0]
            else:
                for start in range(0, piece.elements, _BLOCK):
                    block = slice(start, start + _BLOCK)
                    self._optimize(self.server, step[block], [row[block] for row in old], [row[block] for row in new])
        for row in new:
            if not np.isfinite(row).all():
                raise BlobError(Reason.NON_FINITE, "fold: the next model leaves the range of float32")

    def _optimize(self, server: ServerOptimizer, step: Row, old: Sequence[Vector], new: Sequence[Vector]) -> None:
        moments = [moment.astype(np.float64) for moment in old[1:]]
        change = _CHANGES[server.optimizer](server, self.number, step, moments)
        new[0][:] = old[0] + change
        for target, moment in zip(new[1:], moments, strict=True):
            target[:] = moment


def _momentum(server: ServerOptimizer, number: int, step: Row, moments: Sequence[Row]) -> Row:
    """FedAvgM."""
    (moment,) = moments
    moment *= server.beta_1
    moment += step
    return np.multiply(moment, server.learning_rate)


def _adam(server: ServerOptimizer, number: int, step: Row, moments: Sequence[Row]) -> Row:
    """FedAdam, with the bias of both moments corrected as Flower does it: by one step more than there were."""
    first, second = moments
    _keep_first(server, step, first)
    second *= server.beta_2
    second += (1.0 - server.beta_2) * (step * step)
    unbiased = math.sqrt(1.0 - _power(server.beta_2, number + 1)) / (1.0 - _power(server.beta_1, number + 1))
    return server.learning_rate * unbiased * first / (np.sqrt(second) + server.tau)


def _yogi(server: ServerOptimizer, number: int, step: Row, moments: Sequence[Row]) -> Row:
    """FedYogi, without a correction of bias."""
    first, second = moments
    _keep_first(server, step, first)
    square = step * step
    second -= (1.0 - server.beta_2) * square * np.sign(second - square)
    return server.learning_rate * first / (np.sqrt(second) + server.tau)


def _adagrad(server: ServerOptimizer, number: int, step: Row, moments: Sequence[Row]) -> Row:
    """FedAdagrad: its first moment is the step."""
    (second,) = moments
    second += step * step
    return server.learning_rate * step / (np.sqrt(second) + server.tau)


def _keep_first(server: ServerOptimizer, step: Row, first: Row) -> None:
    first *= server.beta_1
    first += (1.0 - server.beta_1) * step


def _power(base: float, exponent: int) -> float:
    """By multiplying: the last bit of a library's power differs from one processor to another."""
    result = 1.0
    for _ in range(exponent):
        result *= base
    return result


_Change = Callable[[ServerOptimizer, int, Row, Sequence[Row]], Row]
"""From the step and the moments, which it moves on, to what is added to the model."""

_CHANGES: Mapping[Optimizer, _Change] = {
    Optimizer.MOMENTUM: _momentum,
    Optimizer.ADAM: _adam,
    Optimizer.YOGI: _yogi,
    Optimizer.ADAGRAD: _adagrad,
}
