"""Folding updates into the next model, piece by piece. Trust zone: aggregator TEE.

Rules: 1. Nothing unauthenticated or incomplete reaches a result. 2. All contributions advance in lockstep, in the order
of member ids, so the sum does not depend on arrival. 3. Memory is the model, the next model and a few pieces, whatever
the cohort. 4. Every update has the same size and every byte of it is touched in the same order, so the access pattern
tells nothing. 5. Lanes take turns in pieces; no piece is another lane's, so their number changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from coordinator.enclave.jobs import Jobs
from coordinator.enclave.ports import HostStore, read_exactly
from trusted.blob import BlobHeader, BlobOpener, ContentKey, Piece
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.floe import Buffer
from trusted.wire import sha256

_BLOCK = 1 << 16  # measured: half again as fast as whole pieces
_PIECES_A_READ = 3  # within the 4 MiB that the door gives at once


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's update of this round: where it lies, what opens it, and its weight (examples).

    ``prefix_sha256`` is of what stands before its first piece, as its sender said: the log names the update by it.
    """

    member: str
    weight: int
    blob: bytes
    header: BlobHeader
    key: ContentKey
    verify_key: bytes
    prefix_sha256: bytes | None = None


def in_reads(header: BlobHeader) -> Iterator[Sequence[Piece]]:
    """The pieces of a blob, as many at a time as are read at once: asking the host costs as much as a piece."""
    pieces = header.pieces()
    while taken := tuple(islice(pieces, _PIECES_A_READ)):
        yield taken


class ContributionLost(Exception):
    """A contribution does not open: it never did, or the host altered or lost it. The others can still be folded."""

    def __init__(self, member: str, error: BlobError) -> None:
        super().__init__(f"{member}: {error}")
        self.member = member
        self.error = error


class Opened:
    """A contribution whose header and signature were found good; its pieces are opened as they are asked for.

    One that is read at once is found good, or not, together with its pieces: asking the host costs more than those.

    Raises, in its method and when it is made:
        ContributionLost: the host does not hold it as it was sealed, or it is not finite.
    """

    def __init__(self, contribution: Contribution, store: HostStore) -> None:
        self.contribution = contribution
        self._store = store
        self._opener: BlobOpener | None = None
        header = contribution.header
        if header.elements > _PIECES_A_READ * header.encoding.piece_elements:
            with self._lost():
                self._opener = self._begin(read_exactly(store, contribution.blob, 0, header.prefix_bytes))

    def open_each(
        self, pieces: Sequence[Piece], out: Vector, *, bounded: bool = True
    ) -> Iterator[tuple[Piece, Vector]]:
        """Read ``pieces``, which follow each other, at once; each is opened into the start of ``out`` when it is due.

        What is given is float32[piece.elements], good until the next; finite, unless it need not be ``bounded``.
        """
        given, first = self.contribution, pieces[0].offset
        with self._lost():
            prefix, size = given.header.prefix_bytes, sum(piece.sealed_bytes for piece in pieces)
            opener = self._opener
            if opener is None:  # the pieces are all that there are
                whole = memoryview(self._store.read(given.blob, 0, prefix + size))
                opener, sealed = self._begin(whole), whole[prefix:]  # a wrong header says more than a wrong size
            else:
                sealed = memoryview(read_exactly(self._store, given.blob, prefix + first, size))
            if len(sealed) != size:
                raise BlobError(Reason.BLOB_TRUNCATED, "blob: the host does not hold all of it")
            open_into = opener.open_into if bounded else opener.open_unbounded_into
            for piece in pieces:
                begin = piece.offset - first
                opened = out[: piece.elements]
                open_into(piece, sealed[begin : begin + piece.sealed_bytes], opened)
                yield piece, opened

    def _begin(self, prefix: Buffer) -> BlobOpener:
        given = self.contribution
        opener = BlobOpener.begin(prefix, expected=given.header, key=given.key, verify_key=given.verify_key)
        if given.prefix_sha256 not in (None, sha256(bytes(prefix[: given.header.prefix_bytes]))):
            raise BlobError(Reason.BLOB_HEADER, "blob: another one than its sender named")
        return opener

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except BlobError as error:
            raise ContributionLost(self.contribution.member, error) from error


def check(contribution: Contribution, store: HostStore, *, given_up: Callable[[], bool]) -> None:
    """Read a whole update once: complete, authentic, finite. Returns early once it is ``given_up``.

    Raises:
        ContributionLost: what is wrong with it.
    """
    opened = Opened(contribution, store)
    header = contribution.header
    scratch = np.empty(min(header.elements, header.encoding.piece_elements), dtype=np.float32)
    for pieces in in_reads(header):
        if given_up():
            return
        for _ in opened.open_each(pieces, scratch):
            pass


def weighted_mean(
    contributions: Sequence[Contribution], store: HostStore, *, model: Vector, out: Vector, jobs: Jobs
) -> None:
    """``out`` = ``model`` + Σ weight·update / Σ weight, float32[elements]; the sum in float64, in the order of ids.

    Raises:
        ContributionLost: one of them does not open now; fold again without it.
        BlobError: the sum left the range of float32.
    """
    ordered = sorted(contributions, key=lambda contribution: contribution.member)
    total = float(sum(contribution.weight for contribution in ordered))
    streams = [(Opened(contribution, store), contribution.weight / total) for contribution in ordered]
    header = ordered[0].header
    reads = list(in_reads(header))
    step = min(header.elements, header.encoding.piece_elements)
    failures: list[Exception] = []

    def fold_lane(lane: int, lanes: int) -> None:
        opened, weighted, summed = np.empty(step, "f4"), np.empty(_BLOCK), np.empty((_PIECES_A_READ, step))
        for pieces in reads[lane::lanes]:
            if failures:  # of another lane: this result is lost already
                return
            try:
                for place, (stream, share) in enumerate(streams):
                    for row, (_, update) in zip(summed, stream.open_each(pieces, opened, bounded=False), strict=False):
                        _add_weighted(row, update, share, weighted, first=place == 0)
                for row, piece in zip(summed, pieces, strict=False):
                    _advance(model, row[: piece.elements], out, piece)
            except BlobError as error:
                failures.append(error)
                _require_finite(streams, pieces, opened)
                raise
            except ContributionLost as error:
                failures.append(error)
                raise

    jobs.each_lane(fold_lane)


def _require_finite(streams: Iterable[tuple[Opened, float]], pieces: Sequence[Piece], room: Vector) -> None:
    """Find whose ``pieces`` are not finite.

    In float64 a mean of finite float32 is finite, and of anything else it is not: so the fold looks at the result,
    and at each update only if that is wrong.

    Raises:
        ContributionLost: whose, by member id the first.
    """
    for stream, _ in streams:
        for _ in stream.open_each(pieces, room):
            pass


def _add_weighted(
    total: NDArray[np.float64], update: Vector, share: float, room: NDArray[np.float64], *, first: bool
) -> None:
    """``total`` (0, if ``first``) += ``share`` · ``update``, float64, in blocks that stay in the cache."""
    for start in range(0, len(update), _BLOCK):
        block = update[start : start + _BLOCK]
        weighted, target = room[: len(block)], total[start : start + len(block)]
        with np.errstate(invalid="ignore"):  # NaN and infinity show in the result
            np.copyto(weighted, block)
            np.multiply(weighted, share, out=weighted)
            np.add(0.0 if first else target, weighted, out=target)


def _advance(model: Vector, update: NDArray[np.float64], out: Vector, piece: Piece) -> None:
    """Write one piece of the next model."""
    target = out[piece.start : piece.start + piece.elements]
    with np.errstate(over="ignore", invalid="ignore"):  # looked at in the next line
        target[:] = update
        target += model[piece.start : piece.start + piece.elements]
    if not np.isfinite(target).all():
        raise BlobError(Reason.NON_FINITE, "fold: the sum leaves the range of float32")
