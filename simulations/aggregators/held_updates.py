"""Updates that nobody sealed, as the aggregator's fold reads them. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold import PIECES_A_READ, ContributionLost
from trusted.blob import BlobHeader, Piece
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason


@dataclass(frozen=True, slots=True)
class HeldUpdate:
    """One update, float32[elements]: a :class:`coordinator.enclave.fold.Stream` that copies nothing."""

    member: str
    vector: Vector = field(repr=False)

    def open_each(
        self, pieces: Sequence[Piece], out: Vector, *, bounded: bool = True
    ) -> Iterator[tuple[Piece, Vector]]:
        """The pieces where they are."""
        for piece in pieces:
            yield piece, self._of(piece, bounded=bounded)

    def open_into(self, piece: Piece, out: Vector, *, bounded: bool = True) -> None:
        """A copy, which the fold may overwrite."""
        out[: piece.elements] = self._of(piece, bounded=bounded)

    def _of(self, piece: Piece, *, bounded: bool) -> Vector:
        values = self.vector[piece.start : piece.start + piece.elements]
        if bounded and not np.isfinite(values).all():
            raise ContributionLost(self.member, BlobError(Reason.NON_FINITE, "update: NaN or infinity"))
        return values


@dataclass(frozen=True, slots=True)
class HeldUpdates:
    """The updates of one round, in the order of member ids. ``header`` says in which pieces they would travel."""

    members: Sequence[str]
    weights: Sequence[int]
    vectors: Sequence[Vector] = field(repr=False)
    header: BlobHeader

    def streams(self, at_once: int = PIECES_A_READ) -> Sequence[HeldUpdate]:
        """All of them."""
        return [HeldUpdate(member, vector) for member, vector in zip(self.members, self.vectors, strict=True)]
