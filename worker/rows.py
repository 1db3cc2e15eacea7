"""What an app may answer about single rows when the final model is judged. None of it leaves the worker.

Trust zone: worker.
The hook, which an app need not offer: asked with ``cloister-rows`` in the config of an evaluation, it adds an
ArrayRecord of that name to its reply, with three arrays of one length: ``row`` (places in the admitted data, integers),
``score`` (the chance of a positive, 0 to 1) and ``held-out`` (1, or 0 for rows that the app trains on).
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trusted.errors import AppError, Reason
from trusted.wire import pack

ROWS = "cloister-rows"
NAMES = ("row", "score", "held-out")
RECORD_BYTES = 12  # of one row in the memory that trainer and worker share
_AS = (np.dtype("<u4"), np.dtype("<f4"), np.dtype("<u4"))
MAX_ROWS_SCORED = 1 << 28


@dataclass(frozen=True, slots=True)
class RowScores:
    """Scores of different rows: ``rows`` uint32[n], ``scores`` float32[n] from 0 to 1, ``held_out`` bool[n]."""

    rows: NDArray[np.uint32] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    held_out: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], *, admitted: int) -> RowScores:
        """The scores in an app's answer, for data of ``admitted`` rows.

        Raises:
            AppError: APP_ROWS: not these arrays, or a row twice or outside the data, or a score that is no chance.
        """
        if set(arrays) != set(NAMES):
            raise _wrong(f"an ArrayRecord {ROWS!r} with {', '.join(NAMES)} expected")
        row, score, held = (arrays[name] for name in NAMES)
        if any(array.ndim != 1 or array.shape != row.shape for array in (row, score, held)):
            raise _wrong("arrays of one dimension and one length expected")
        if row.dtype.kind not in "iu" or score.dtype.kind != "f" or held.dtype.kind not in "iub":
            raise _wrong("integers, floating-point numbers and 0 or 1 expected")
        if not 0 < len(row) <= admitted:
            raise _wrong("1 to as many rows as were admitted expected")
        if row.min() < 0 or row.max() >= admitted or len(np.unique(row)) != len(row):
            raise _wrong("different places of admitted rows expected")
        if not (np.isfinite(score).all() and score.min() >= 0 and score.max() <= 1):
            raise _wrong("scores from 0 to 1 expected")
        if not np.isin(held, (0, 1)).all():
            raise _wrong("held-out: 0 or 1 expected")
        return cls(row.astype(np.uint32), score.astype(np.float32), held.astype(np.bool_))

    def write(self, memory: Any) -> int:
        """Put them into shared ``memory``; how many there are."""
        count = len(self.rows)
        for place, array in enumerate((self.rows, self.scores, self.held_out)):
            np.frombuffer(memory, _AS[place], count, offset=4 * count * place)[:] = array
        return count

    @classmethod
    def copied(cls, memory: Any, count: int, *, admitted: int) -> RowScores:
        """What another process wrote into ``memory`` and may still write to: copied first, then checked as an answer.

        Raises:
            AppError: APP_ROWS.
        """
        if not 0 < count <= admitted:
            raise _wrong("1 to as many rows as were admitted expected")
        arrays = [np.frombuffer(memory, kind, count, offset=4 * count * at).copy() for at, kind in enumerate(_AS)]
        return cls.read(dict(zip(NAMES, arrays, strict=True)), admitted=admitted)


def shared_rows(memory: int, rows: int) -> mmap.mmap:
    """The memory of scores of ``rows`` rows behind the descriptor ``memory`` of memfd_create(2), sized and mapped.

    It is sealed at that size first: an app that made it smaller would end the worker that reads it (SIGBUS).
    """
    os.ftruncate(memory, rows * RECORD_BYTES)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return mmap.mmap(memory, rows * RECORD_BYTES)


def kept_rows(seed: int, rows: int) -> NDArray[np.bool_]:
    """The random half of ``rows`` that the shadow model of ``seed`` sees: bool[rows], the same in every process."""
    octets = hashlib.shake_128(pack("cloister/shadow-half/v1", seed.to_bytes(8, "big"))).digest(rows // 8 + 1)
    return np.unpackbits(np.frombuffer(octets, np.uint8), count=rows).astype(np.bool_)


def _wrong(rule: str) -> AppError:
    return AppError(Reason.APP_ROWS, f"app's scores: {rule}")
