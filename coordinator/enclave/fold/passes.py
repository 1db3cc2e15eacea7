"""Three passes over the updates of a round: their mean, their inner products, their numbers place by place.

Trust zone: aggregator TEE. Each reads every byte of every update once, in the same order, whatever the values; what it
makes of them is told by whoever asks: a share for each update, or a function of the numbers at one place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.enclave.fold.contributions import ContributionLost
from coordinator.enclave.fold.lanes import in_lanes
from coordinator.enclave.fold.source import PIECES_A_READ, Source, Stream, in_reads, piece_room
from coordinator.enclave.fold.weighing import InnerProducts
from coordinator.enclave.jobs import Jobs
from trusted.blob import BlobHeader, Piece
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason

Row = NDArray[np.float64]
Write = Callable[[Piece, Row], None]
"""Takes the float64[piece.elements] that a pass made of one piece; called from any lane, once for each piece."""
Combine = Callable[[Sequence[Vector], Row], None]
"""Makes float64[n] of the float32[n] of all updates, which it may overwrite."""

BLOCK = 1 << 17  # measured: smaller ones wait for one another in Python, larger ones fall out of smaller caches
_COLUMNS = 1 << 13  # of every update at once: small enough that ten of them stay in the cache
_GROUPS = 64  # of pieces whose inner products are added up in one place
_WINDOW_BYTES = 256 << 20  # of updates that lie side by side in all lanes together; one lane takes what it needs


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates that a round folds, and where that is done."""

    source: Source
    jobs: Jobs

    def mean(self, weights: Collection[float], write: Write, *, total: float) -> None:
        """Σ weight·update / ``total`` for each piece, in float64; one weight for each update, in the source's order.

        Raises:
            ContributionLost: one of them does not open, or is not finite. BlobError: from ``write``.
        """
        streams = self.source.streams()
        step = piece_room(self._header)

        def prepare() -> Callable[[Sequence[Piece]], None]:
            opened, weighted, summed = np.empty(step, "f4"), np.empty(BLOCK), np.empty((PIECES_A_READ, step))

            def do(pieces: Sequence[Piece]) -> None:
                for place, (stream, weight) in enumerate(zip(streams, weights, strict=True)):
                    for row, (_, update) in zip(summed, stream.open_each(pieces, opened, bounded=False), strict=False):
                        add_weighted(row, update, weight, weighted, first=place == 0)
                try:
                    for row, piece in zip(summed, pieces, strict=False):
                        write(piece, divided(row[: piece.elements], total))
                except BlobError:
                    _require_finite(streams, pieces, opened)
                    raise

            return do

        in_lanes(self.jobs, list(in_reads(self._header)), prepare)

    def inner_products(self) -> NDArray[np.float64]:
        """The Gram matrix of the updates, float64[K, K]: at (i, j) the sum of the products of their numbers.

        Raises:
            ContributionLost: one of them does not open, or is not finite.
        """
        pieces, count = list(in_reads(self._header, 1)), len(self.source.members)
        groups = [(at, pieces[at::_GROUPS]) for at in range(min(_GROUPS, len(pieces)))]
        sums = np.zeros((len(groups), count, count))
        streams = self.source.streams(1)

        def prepare() -> Callable[[tuple[int, Sequence[Sequence[Piece]]]], None]:
            window, products = np.empty((count, piece_room(self._header)), "f4"), InnerProducts(count)

            def do(group: tuple[int, Sequence[Sequence[Piece]]]) -> None:
                at, reads = group
                for read in reads:
                    rows = _opened_into(window, streams, read, bounded=False)
                    for start in range(0, rows.shape[1], products.columns):
                        products.add(rows[:, start : start + products.columns])
                sums[at] = products.take()

            return do

        in_lanes(self.jobs, groups, prepare, most=self._windows)
        total = np.zeros((count, count))
        for partial in sums:
            total += partial
        for member, square in zip(self.source.members, total.diagonal(), strict=True):
            if not np.isfinite(square):  # in float64 no square of a float32 overflows
                error = BlobError(Reason.NON_FINITE, "blob: NaN or infinity")
                raise ContributionLost(member, error)
        return total

    def by_place(self, combine: Combine, write: Write) -> None:
        """What ``combine`` makes of the numbers that all updates have at one place, for each piece.

        Raises:
            ContributionLost: one of them does not open, or is not finite. BlobError: from ``write``.
        """
        streams, step = self.source.streams(1), piece_room(self._header)

        def prepare() -> Callable[[Sequence[Piece]], None]:
            window, combined = np.empty((len(streams), step), "f4"), np.empty(step)

            def do(read: Sequence[Piece]) -> None:
                rows = _opened_into(window, streams, read, bounded=True)  # sorted away, NaN would show in no result
                made = combined[: rows.shape[1]]
                for start in range(0, len(made), _COLUMNS):
                    block = slice(start, start + _COLUMNS)
                    combine(list(rows[:, block]), made[block])
                write(read[0], made)

            return do

        in_lanes(self.jobs, list(in_reads(self._header, 1)), prepare, most=self._windows)

    @property
    def _header(self) -> BlobHeader:
        return self.source.header

    @property
    def _windows(self) -> int:
        """How many lanes may hold one piece of every update."""
        return max(1, _WINDOW_BYTES // (4 * piece_room(self._header) * len(self.source.members)))


def _opened_into(
    window: NDArray[np.float32], streams: Sequence[Stream], read: Sequence[Piece], *, bounded: bool
) -> NDArray[np.float32]:
    """One piece of every update, float32[K, piece.elements]."""
    (piece,) = read
    for row, stream in zip(window, streams, strict=True):
        stream.open_into(piece, row, bounded=bounded)
    return window[:, : piece.elements]


def _require_finite(streams: Sequence[Stream], pieces: Sequence[Piece], room: Vector) -> None:
    """Find whose ``pieces`` are not finite.

    In float64 a mean of finite float32 is finite, and of anything else it is not: so the fold looks at the result,
    and at each update only if that is wrong.

    Raises:
        ContributionLost: whose, by member id the first.
    """
    for stream in streams:
        for _ in stream.open_each(pieces, room):
            pass


def add_weighted(total: Row, update: Vector, weight: float, room: Row, *, first: bool) -> None:
    """``total`` (0, if ``first``) += ``weight`` · ``update``, float64, in blocks that stay in the cache.

    ``room`` is that of one block, float64[BLOCK].
    """
    for start in range(0, len(update), BLOCK):
        block = update[start : start + BLOCK]
        weighted, target = room[: len(block)], total[start : start + len(block)]
        with np.errstate(invalid="ignore"):  # NaN and infinity show in the result
            np.copyto(weighted, block)
            np.multiply(weighted, weight, out=weighted)
            np.add(0.0 if first else target, weighted, out=target)


def divided(row: Row, total: float) -> Row:
    """``row`` / ``total``, in its place."""
    if total != 1.0:
        with np.errstate(invalid="ignore"):
            np.divide(row, total, out=row)
    return row
