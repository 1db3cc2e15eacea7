"""A lattice for sums that noise is added to: clipped vectors as integers, so that floating point tells nothing.

Trust zone: every TEE; no I/O. Rules: 1. The step is a power of two, so scaling by it is exact. 2. A vector is clipped a
little below the bound, so that rounded it is within it: the sensitivity is ``clip_norm`` exactly, and the price is less
than 0.1 % of what a vector may carry. 3. Integers are summed: no order of summands gives another sum. 4. The noise is
an integer too; what leaves is on the lattice whatever went in (docs/privacy.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trusted.encoding import Vector

Integers = NDArray[np.int64]
_MARGIN_BITS = 10
_BLOCK = 1 << 14  # elements, in one float64 row that stays in the cache


@dataclass(frozen=True, slots=True)
class Lattice:
    """Multiples of ``step`` in every one of ``elements`` coordinates, for vectors of L2 norm ``clip_norm`` at most.

    ``step`` is the largest power of two with sqrt(elements) · step <= clip_norm / 1024. Rounding moves a vector by at
    most sqrt(elements) · step / 2, which is clip_norm / 2048 or less.
    """

    clip_norm: float
    elements: int

    @property
    def step(self) -> float:
        """The distance between neighbours, a power of two."""
        _, exponent = math.frexp(self.clip_norm / math.sqrt(self.elements))
        return math.ldexp(1.0, exponent - 1 - _MARGIN_BITS)

    @property
    def limit(self) -> float:
        """To this norm a vector is clipped before it is rounded."""
        return self.clip_norm * (1 - 2.0 ** -(_MARGIN_BITS + 1)) * (1 - 2.0**-40)  # the last: for float64's own errors

    @property
    def most_squared(self) -> int:
        """No rounded vector has a larger squared norm, in squared steps: exact, at most 2^55."""
        return math.floor((self.clip_norm / self.step) ** 2)

    def factor(self, norm: float) -> float:
        """By what a vector of L2 norm ``norm`` is multiplied before it is rounded: in steps, and clipped."""
        return min(1.0, self.limit / norm) / self.step if norm > 0 else 1.0 / self.step

    def round_into(self, vector: Vector, factor: float, out: Integers, room: NDArray[np.float64]) -> None:
        """``out``, int64[n] = ``vector`` · ``factor``, to the nearest; ``room`` is float64[n]."""
        np.multiply(vector, factor, out=room, dtype=np.float64)
        np.rint(room, out=room)
        with np.errstate(invalid="ignore"):  # beyond int64 it becomes what squared_steps finds far too long
            np.copyto(out, room, casting="unsafe")


def squared_norm(vector: Vector) -> float:
    """The sum of squares of ``vector``, in float64 and by halves: an order that no processor changes."""
    total = 0.0
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        row = np.zeros(_BLOCK)
        row[: len(block)] = block
        row *= row
        size = _BLOCK
        while size > 1:
            size //= 2
            row[:size] += row[size : 2 * size]
        total += float(row[0])
    return total


def squared_steps(values: Integers) -> int:
    """The sum of squares of ``values``: exact below 2^62, which no rounded vector reaches, and beyond that about so."""
    about = float(np.square(values, dtype=np.float64).sum())
    return int(about) if about > 2.0**62 else int((values * values).sum())
