"""Gaussian noise on the integers, from a cryptographic generator. Trust zone: every TEE; no I/O.

The noise of element ``i`` follows from key and ``i`` alone, so that a vector may be made in pieces, by however many
threads, and again after a restart, on whatever processor, to the same bits. Elements 2j and 2j+1 come from 32
bytes of the AES-256-CTR keystream, blocks 2j and 2j+1, by the method of Box and Muller: a radius from 117 random bits
and an angle from 53. The normal deviate is scaled and rounded, which is post-processing of the Gaussian mechanism:
integer + rounded noise = rounded (integer + noise).

What float64 does to it (docs/privacy.md): the largest radius is 13.3 standard deviations, beyond which an element lies
with probability 2^-129; a deviate is off by a few units in its last place, which moves the probability of an integer by
a factor of 1 ± s · 2^-49, ``s`` being the standard deviation in steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Floats = NDArray[np.float64]

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


def normals(key: NoiseKey, start: int, count: int) -> Floats:
    """float64[count], standard normal: elements ``start`` and on of what follows from ``key``; both even."""
    words = key.words(start, count).reshape(count // 2, 4)
    # A float64 next to 1 has steps of 2^-53, next to 0 far finer ones: the second word makes use of them in the tail.
    uniform = (words[:, 0].astype(np.float64) + (words[:, 1].astype(np.float64) + 0.5) * _TO_UNIT) * _TO_UNIT
    radius = np.sqrt(-2.0 * _log(uniform))
    # A direction: within its quadrant by 53 bits, and the signs of both coordinates by two others.
    turn = ((words[:, 2] >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5) * (np.pi / 2)
    sine, cosine = _sine_and_cosine(turn)
    radius *= np.sqrt(0.5)
    out = np.empty(count)
    for place, part in enumerate((cosine - sine, cosine + sine)):  # of the angle turn + 45°
        part *= radius
        sign = ((words[:, 2] >> np.uint64(place)) & np.uint64(1)).astype(np.float64)
        np.multiply(part, 1.0 - 2.0 * sign, out=out[place::2])
    return out


# Logarithm, sine and cosine of numpy differ in their last bits from one processor to another. A fold that another
# machine goes on with must not draw other noise, so they are made here of IEEE 754 operations alone, with the
# polynomials of fdlibm 5.3 (e_log.c, k_sin.c, k_cos.c; Sun Microsystems, freely used).
_LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_SINE = (
    -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COSINE = (
    4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """coefficients[0] + coefficients[1]·x + …"""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total *= x
        total += coefficient
    return total


def _log(x: Floats) -> Floats:
    """Of numbers in (0, 1]."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.sqrt(0.5)
    fraction = np.where(small, 2.0 * mantissa, mantissa) - 1.0
    power = exponent.astype(np.float64) - small
    s = fraction / (2.0 + fraction)
    z = s * s
    rest = z * _polynomial(_LOG, z)
    result: Floats = power * _LN2_HIGH - ((s * (fraction - rest) - power * _LN2_LOW) - fraction)
    return result


def _sine_and_cosine(x: Floats) -> tuple[Floats, Floats]:
    """Of angles in [-π/4, π/4]."""
    z = x * x
    return x + x * z * _polynomial(_SINE, z), 1.0 - (0.5 * z - z * z * _polynomial(_COSINE, z))


def coins(key: NoiseKey, probability: float, count: int) -> NDArray[np.bool_]:
    """bool[count]: each set with ``probability``, to 2^-64; what Poisson sampling draws from."""
    words = key.words(0, (count + 1) // 2).reshape(-1)[:count]
    if probability >= 1.0:
        return np.ones(count, dtype=np.bool_)
    thrown: NDArray[np.bool_] = words < np.uint64(int(probability * 2.0**64))
    return thrown
