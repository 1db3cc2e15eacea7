"""Randomness that follows from the seed, what it is for, the round and the site. Trust zone: the developer's machine.

Philox counts: a place in its sequence costs nothing to go to, so that thousands of sites have generators of their own.
Cohorts are drawn and noise is made as in production, by :mod:`trusted`, from secrets that follow from the seed.
"""

from __future__ import annotations

from numpy.random import Generator, Philox

from trusted.wire import pack, sha256

NOBODY = (1 << 64) - 1  # in place of a site: those who act together, or what is no site's


def secret(seed: int, what: str) -> bytes:
    """32 bytes for whatever in production is drawn from the processor."""
    return sha256(pack("cloister/simulation/v1", str(seed).encode(), what.encode()))


class Dice:
    """All generators for one purpose, such as a behaviour's name or the training of a task."""

    def __init__(self, seed: int, what: str) -> None:
        key = secret(seed, what)
        self._bits = Philox(key=int.from_bytes(key[:16], "little"))
        self._generator = Generator(self._bits)
        self._state = self._bits.state

    def at(self, number: int, site: int = NOBODY) -> Generator:
        """For ``site`` in round ``number``: good until it is asked for another."""
        state = self._state
        state["state"]["counter"][:] = (0, 0, number, site)
        self._bits.state = state
        return self._generator
