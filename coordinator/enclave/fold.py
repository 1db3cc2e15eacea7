"""Folding updates into one, chunk by chunk. Trust zone: aggregator TEE.

Rules: 1. Nothing unauthenticated or incomplete reaches a result. 2. All contributions advance in lockstep, in the order
of member ids, so the sum does not depend on arrival. 3. Memory is one model and one chunk, whatever the cohort. 4.
Every update has the same size and every byte of it is touched in the same order, so the access pattern tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trusted.blob import PIECE_BYTES, BlobHeader, ContentKey
from trusted.errors import BlobError, Reason

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's update of this round: where it lies, what opens it, and its weight (examples)."""

    member: str
    weight: int
    blob: bytes
    header: BlobHeader
    key: ContentKey
    verify_key: bytes


Opener = Callable[[Contribution], Iterator[bytes]]


class ContributionLost(Exception):
    """A contribution that counted no longer opens: the host altered or lost it. The others can still be folded."""

    def __init__(self, member: str, error: BlobError) -> None:
        super().__init__(f"{member}: {error}")
        self.member = member
        self.error = error


def require_finite(plaintext: Iterator[bytes]) -> None:
    """Read a whole update once: complete, authentic, and without NaN or infinity.

    Raises:
        BlobError: what is wrong with it.
    """
    for piece in plaintext:
        if not np.isfinite(np.frombuffer(piece, dtype="<f4")).all():
            raise BlobError(Reason.NON_FINITE, "update: NaN or infinity")


def weighted_mean(contributions: Sequence[Contribution], opener: Opener, elements: int) -> Vector:
    """Σ weight·update / Σ weight, float32[elements], summed in float64 in the order of member ids.

    Raises:
        ContributionLost: one of them does not open now; fold again without it.
        BlobError: the sum left the range of float32.
    """
    ordered = sorted(contributions, key=lambda contribution: contribution.member)
    total = float(sum(contribution.weight for contribution in ordered))
    streams = [_Aligned(contribution, opener(contribution)) for contribution in ordered]
    result = np.empty(elements, dtype=np.float32)
    step = PIECE_BYTES // 4
    scratch = np.empty(min(step, elements), dtype=np.float64)
    for start in range(0, elements, step):
        count = min(step, elements - start)
        chunk = scratch[:count]
        chunk.fill(0.0)
        for contribution, stream in zip(ordered, streams, strict=True):
            chunk += np.multiply(stream.take(count), contribution.weight / total, dtype=np.float64)
        with np.errstate(over="ignore"):  # checked in the next line
            result[start : start + count] = chunk
    for stream in streams:
        stream.require_end()
    if not np.isfinite(result).all():
        raise BlobError(Reason.NON_FINITE, "fold: the sum leaves the range of float32")
    return result


class _Aligned:
    """An update's plaintext in runs of the size that the fold asks for."""

    def __init__(self, contribution: Contribution, plaintext: Iterator[bytes]) -> None:
        self._member = contribution.member
        self._plaintext = plaintext
        self._rest = b""

    def take(self, count: int) -> Vector:
        """The next ``count`` elements."""
        while len(self._rest) < 4 * count:
            piece = self._next()
            if piece is None:
                raise ContributionLost(self._member, BlobError(Reason.BLOB_TRUNCATED, "update: ended early"))
            self._rest = self._rest + piece if self._rest else piece
        taken = np.frombuffer(self._rest, dtype="<f4", count=count)
        self._rest = self._rest[4 * count :]
        return taken

    def require_end(self) -> None:
        """Only here is it known that nothing was cut from the end."""
        if self._rest or self._next() is not None:
            raise ContributionLost(self._member, BlobError(Reason.BLOB_TOO_LONG, "update: goes on"))

    def _next(self) -> bytes | None:
        try:
            return next(self._plaintext, None)
        except BlobError as error:
            raise ContributionLost(self._member, error) from error
