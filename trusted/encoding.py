"""How a vector of float32 is spelled in a blob: in full, halved or quartered. Trust zone: every TEE.

Every encoding is dense: its size follows from the number of elements alone, and it is read front to back, so neither
size nor access pattern tells anything. A *piece* is what one sealed segment holds; pieces are decoded one by one.

Errors, relative to the vector's L2 norm, measured on Adam updates: bfloat16 0.0017 (at most 2^-8 for each element),
int8 0.0035 to 0.008 (at most 1/254 of the largest element of a block of 1024, for each element).
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Octets = NDArray[np.uint8]

BLOCK = 1024  # elements of an int8 block; a float32 scale stands before them
_PIECE_ELEMENTS = 1 << 18
_INT8_BLOCKS = 255
_BLOCKS = np.dtype([("scale", "<f4"), ("values", "i1", BLOCK)])
_LEVELS = 127
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / _LEVELS, np.float32(0), dtype=np.float32)
_NOT_FINITE = 0x7F80  # bfloat16 with every bit of the exponent set


class Encoding(Enum):
    """The spellings that a plan may choose, by their names in blob headers."""

    FLOAT32 = "f32le"
    BFLOAT16 = "bf16le"
    INT8 = "i8x1024"

    @property
    def piece_elements(self) -> int:
        """How many elements stand in every piece but the last."""
        return {
            Encoding.FLOAT32: _PIECE_ELEMENTS,
            Encoding.BFLOAT16: 2 * _PIECE_ELEMENTS,
            Encoding.INT8: 4 * _INT8_BLOCKS * BLOCK,
        }[self]

    def size_bytes(self, elements: int) -> int:
        """How many bytes ``elements`` take."""
        if self is Encoding.INT8:
            return -(-elements // BLOCK) * _BLOCKS.itemsize
        return elements * (4 if self is Encoding.FLOAT32 else 2)

    def encode_into(self, vector: Vector, out: Octets) -> None:
        """Spell ``vector``, finite float32[n], into ``out``, uint8[size_bytes(n)]; rounding is to the nearest."""
        if self is Encoding.FLOAT32:
            out.view("<f4")[:] = vector
        elif self is Encoding.BFLOAT16:
            out.view("<u2")[:] = _to_bfloat16(vector)
        else:
            _to_int8(vector, out.view(_BLOCKS))

    def decode_into(self, data: Octets, out: Vector) -> bool:
        """Read ``data``, uint8[size_bytes(n)], into ``out``, float32[n]; whether every element is finite."""
        if self is Encoding.FLOAT32:
            out[:] = data.view("<f4")
        elif self is Encoding.BFLOAT16:
            out.view("<u4")[:] = data.view("<u2")
            out.view("<u4")[:] <<= 16
        else:
            _from_int8(data.view(_BLOCKS), out)
        return bool(np.isfinite(out).all())


def _to_bfloat16(vector: Vector) -> NDArray[np.uint16]:
    """The nearest bfloat16, halves to even; what would round to infinity becomes the largest finite one."""
    bits = np.ascontiguousarray(vector, dtype="<f4").view("<u4")
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    halved: NDArray[np.uint16] = np.where(rounded & _NOT_FINITE == _NOT_FINITE, rounded - 1, rounded).astype("<u2")
    return halved


def _to_int8(vector: Vector, blocks: NDArray[np.void]) -> None:
    values = np.zeros((len(blocks), BLOCK), dtype=np.float32)
    values.reshape(-1)[: len(vector)] = vector
    scale = np.abs(values).max(axis=1) / _LEVELS
    # Of the largest float32 it is rounded up, and would read as infinity; what is infinite shall stay so.
    np.minimum(scale, _LARGEST_SCALE, out=scale, where=np.isfinite(scale))
    # A block of zeros has no scale to divide by, and one below the range of float32 rounds to zeros.
    usable = scale > np.finfo(np.float32).tiny
    blocks["scale"] = np.where(usable, scale, 0)
    values /= np.where(usable, scale, np.inf)[:, np.newaxis]
    blocks["values"] = np.rint(values)


def _from_int8(blocks: NDArray[np.void], out: Vector) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # its sender may be lying: the caller looks at the result
        values = blocks["values"] * blocks["scale"][:, np.newaxis]
    out[:] = values.reshape(-1)[: len(out)]
