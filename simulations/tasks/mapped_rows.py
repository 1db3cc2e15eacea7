"""Rows that lie in a mapped file take memory while their site trains, and none before or after.

Trust zone: the developer's machine. So a population may be larger than the memory that there is.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)  # Linux
_AT_ONCE = 2 << 20  # bytes that one fault may map


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A column of a file that is mapped read-only: what of it is let go is read again when it is asked for."""

    mapping: mmap.mmap = field(repr=False)
    begin: int
    row_bytes: int

    @classmethod
    def of(cls, column: NDArray[np.generic]) -> MappedRows | None:
        """Of a ``column`` as ``np.load(…, mmap_mode="r")`` gives it; None of others, which may have been written to."""
        mapping = getattr(column, "_mmap", None)
        if _DONTNEED is None or mapping is None or column.flags.writeable or not column.flags.c_contiguous:
            return None
        begin = column.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        return cls(mapping, begin, column.strides[0])

    def release(self, start: int, end: int) -> None:
        """Let go of rows ``start`` to ``end``, and of what the kernel may have brought along at their ends."""
        low = (self.begin + start * self.row_bytes) // _AT_ONCE * _AT_ONCE
        high = -(-(self.begin + end * self.row_bytes) // _AT_ONCE) * _AT_ONCE
        if _DONTNEED is not None:
            self.mapping.madvise(_DONTNEED, low, min(high, len(self.mapping)) - low)
