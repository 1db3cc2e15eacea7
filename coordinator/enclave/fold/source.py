"""Where the updates of a round are read from. Trust zone: aggregator TEE.

The passes over updates know no more than this of them, so that whoever folds vectors that nobody sealed (a simulation,
outside every TEE) does the same arithmetic in the same order. An aggregator has one source: :mod:`.contributions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from trusted.blob import BlobHeader, Piece
from trusted.encoding import Vector

PIECES_A_READ = 3  # within the 4 MiB that the door gives at once


class Stream(Protocol):
    """One member's update, read piece by piece, in any order and from any lane.

    Raises, in its methods:
        ContributionLost: it cannot be read, or it is not finite where it must be ``bounded``.
    """

    def open_each(
        self, pieces: Sequence[Piece], out: Vector, *, bounded: bool = True
    ) -> Iterator[tuple[Piece, Vector]]:
        """Each of ``pieces``, which follow each other, as float32[piece.elements]: good until the next, and only read.

        It may lie in ``out``, which is as long as the longest piece.
        """

    def open_into(self, piece: Piece, out: Vector, *, bounded: bool = True) -> None:
        """``piece`` in the start of ``out``, which is the caller's own."""


class Source(Protocol):
    """The updates that a round folds, in the order of member ids."""

    @property
    def members(self) -> Sequence[str]:
        """Whose they are."""

    @property
    def weights(self) -> Sequence[int]:
        """Of each."""

    @property
    def header(self) -> BlobHeader:
        """Of one of them: all have the same pieces."""

    def streams(self, at_once: int = PIECES_A_READ) -> Sequence[Stream]:
        """Each made ready to be read, ``at_once`` pieces at a time. Raises ContributionLost."""


def in_reads(header: BlobHeader, at_once: int = PIECES_A_READ) -> Iterator[Sequence[Piece]]:
    """The pieces of a blob, as many at a time as are read at once: asking the host costs as much as a piece."""
    pieces = header.pieces()
    while taken := tuple(islice(pieces, at_once)):
        yield taken


def piece_room(header: BlobHeader) -> int:
    """How many elements the largest piece has."""
    return min(header.elements, header.encoding.piece_elements)
