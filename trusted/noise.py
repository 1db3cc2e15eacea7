"""Gaussian noise on the integers, from a cryptographic generator. Trust zone: every TEE; no I/O.

The noise of element ``i`` follows from key and ``i`` alone, so that a vector may be made piece by piece, by any number of
threads, and again after a restart: to the same bits on the same kind of processor. Elements 2j and 2j+1 come from 32
bytes of the AES-256-CTR keystream, blocks 2j and 2j+1, by the method of Box and Muller: a radius from 117 random bits
and an angle from 53. The normal deviate is scaled and rounded, which is post-processing of the Gaussian mechanism:
integer + rounded noise = rounded (integer + noise).

What float64 does to it (docs/privacy.md): the largest radius is 13.3 standard deviations, beyond which an element lies
with probability 2^-129; a deviate is off by a few units in its last place, which moves the probability of one integer by
a factor of 1 ± s · 2^-49, ``s`` being the standard deviation in steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

KEY_BYTES = 32
_BLOCK_BYTES = 16
_PAIRS = 1 << 14  # at a time: 512 KiB of keystream, which stays in the cache
_ZEROS = memoryview(bytes(2 * _PAIRS * _BLOCK_BYTES))
_TO_UNIT = 2.0**-64


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """What one vector of noise follows from; used for one vector only."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> NoiseKey:
        """For noise that nobody has to make again."""
        return cls(token_bytes(KEY_BYTES))

    def words(self, block: int, count: int) -> NDArray[np.uint64]:
        """``count`` blocks of the keystream, from ``block`` on: uint64[count, 2], little-endian."""
        stream = Cipher(AES256(self.secret), CTR(block.to_bytes(_BLOCK_BYTES, "big"))).encryptor()
        size = count * _BLOCK_BYTES
        zeros = _ZEROS[:size] if size <= len(_ZEROS) else bytes(size)
        return np.frombuffer(stream.update(zeros), dtype="<u8").reshape(count, 2)


def add_gaussian(total: NDArray[np.int64], key: NoiseKey, deviation: float, *, start: int = 0) -> None:
    """Add to ``total``, elements ``start`` (even) and on of a vector, noise of standard deviation ``deviation``.

    Raises:
        ValueError: ``start`` is odd, or ``deviation`` so large that a float64 is no exact integer.
    """
    if start % 2 or not 0 < deviation < 2.0**48:
        raise ValueError("noise: an even start and a deviation below 2^48 expected")
    for begin in range(0, len(total), 2 * _PAIRS):
        part = total[begin : begin + 2 * _PAIRS]
        normal = normals(key, start + begin, len(part) + len(part) % 2)
        normal *= deviation
        part += np.rint(normal, out=normal).astype(np.int64)[: len(part)]


def normals(key: NoiseKey, start: int, count: int) -> NDArray[np.float64]:
    """float64[count], standard normal: elements ``start`` and on of what follows from ``key``; both even."""
    words = key.words(start, count).reshape(count // 2, 4)
    # A float64 next to 1 has steps of 2^-53, next to 0 far finer ones: the second word makes use of them in the tail.
    uniform = (words[:, 0].astype(np.float64) + (words[:, 1].astype(np.float64) + 0.5) * _TO_UNIT) * _TO_UNIT
    radius = np.sqrt(-2.0 * np.log(uniform))
    angle = (words[:, 2] >> np.uint64(11)).astype(np.float64) * (2.0 * np.pi * 2.0**-53)
    out = np.empty(count)
    np.multiply(radius, np.cos(angle), out=out[0::2])
    np.multiply(radius, np.sin(angle), out=out[1::2])
    return out


def coins(key: NoiseKey, probability: float, count: int) -> NDArray[np.bool_]:
    """bool[count]: each set with ``probability``, to 2^-64; what Poisson sampling draws from."""
    words = key.words(0, (count + 1) // 2).reshape(-1)[:count]
    if probability >= 1.0:
        return np.ones(count, dtype=np.bool_)
    return words < np.uint64(int(probability * 2.0**64))
