"""Reading one contribution: found good, opened, piece by piece. Trust zone: aggregator TEE; the host may lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from coordinator.enclave.fold.source import PIECES_A_READ, in_reads, piece_room
from coordinator.enclave.ports import HostStore, read_exactly
from trusted.blob import BlobHeader, BlobOpener, ContentKey, Piece
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.floe import Buffer
from trusted.wire import sha256


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


class ContributionLost(Exception):
    """A contribution does not open: it never did, or the host altered or lost it. The others can still be folded."""

    def __init__(self, member: str, error: BlobError) -> None:
        super().__init__(f"{member}: {error}")
        self.member = member
        self.error = error


class Opened:
    """A contribution whose header and signature were found good; its pieces are opened as they are asked for.

    One that is read at once is found good, or not, together with its pieces: asking the host costs more than those.
    ``at_once`` is as for :func:`in_reads`.

    Raises, in its method and when it is made:
        ContributionLost: the host does not hold it as it was sealed, or it is not finite.
    """

    def __init__(self, contribution: Contribution, store: HostStore, at_once: int = PIECES_A_READ) -> None:
        self.contribution = contribution
        self._store = store
        self._opener: BlobOpener | None = None
        header = contribution.header
        if header.elements > at_once * header.encoding.piece_elements:
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

    def open_into(self, piece: Piece, out: Vector, *, bounded: bool = True) -> None:
        """Read ``piece`` alone, and open it into the start of ``out``."""
        for _ in self.open_each((piece,), out, bounded=bounded):
            pass

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


@dataclass(frozen=True, slots=True)
class Contributions:
    """Sealed contributions in a host's store, in the order of member ids: what an aggregator folds."""

    ordered: tuple[Contribution, ...]
    store: HostStore

    @classmethod
    def of(cls, contributions: Iterable[Contribution], store: HostStore) -> Contributions:
        """However they arrived."""
        return cls(tuple(sorted(contributions, key=lambda contribution: contribution.member)), store)

    @property
    def members(self) -> Sequence[str]:
        """Their senders."""
        return [contribution.member for contribution in self.ordered]

    @property
    def weights(self) -> Sequence[int]:
        """What each sender said, within the plan's bound."""
        return [contribution.weight for contribution in self.ordered]

    @property
    def header(self) -> BlobHeader:
        """Of the first."""
        return self.ordered[0].header

    def streams(self, at_once: int = PIECES_A_READ) -> Sequence[Opened]:
        """Each with its header and signature found good, or found good when it is read."""
        return [Opened(contribution, self.store, at_once) for contribution in self.ordered]


def check(contribution: Contribution, store: HostStore, *, given_up: Callable[[], bool]) -> None:
    """Read a whole update once: complete, authentic, finite. Returns early once it is ``given_up``.

    Raises:
        ContributionLost: what is wrong with it.
    """
    opened = Opened(contribution, store)
    scratch = np.empty(piece_room(contribution.header), dtype=np.float32)
    for pieces in in_reads(contribution.header):
        if given_up():
            return
        for _ in opened.open_each(pieces, scratch):
            pass
