"""Opening a blob that arrives in any pieces, in order. Trust zone: as :mod:`trusted.blob.opening`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trusted import floe
from trusted.blob.header import MAX_HEADER_BYTES, SIGNATURE_BYTES, BlobHeader, ContentKey
from trusted.blob.opening import BlobOpener
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.floe import Buffer


def open_vector(
    sealed: Iterable[Buffer], vector: Vector, *, expected: BlobHeader, key: ContentKey, verify_key: bytes
) -> None:
    """Open a blob that arrives in any pieces, in order, into ``vector``, private float32[expected.elements].

    Raises:
        BlobError: not exactly that blob. ``vector`` then holds nothing to be used.
    """
    parts = _Reassembled(sealed)
    opener = BlobOpener.begin(parts.prefix(), expected=expected, key=key, verify_key=verify_key)
    for piece in expected.pieces():
        target = vector[piece.start : piece.start + piece.elements]
        opener.open_into(piece, parts.take(piece.sealed_bytes), target)
    parts.require_end()


def open_blob(sealed: Iterable[Buffer], *, expected: BlobHeader, key: ContentKey, verify_key: bytes) -> Iterator[bytes]:
    """The encoded plaintext of a blob that arrives in any pieces, in order.

    Raises:
        BlobError: not exactly that blob. What was yielded before is authentic but incomplete, and must not count.
    """
    parts = _Reassembled(sealed)
    opener = BlobOpener.begin(parts.prefix(), expected=expected, key=key, verify_key=verify_key)
    for piece in expected.pieces():
        taken = parts.up_to(floe.OVERHEAD_BYTES + opener.header.segment_bytes if piece.last else piece.sealed_bytes)
        if len(taken) != piece.sealed_bytes:
            raise opener.fault_of(piece, taken)
        try:
            plain = opener.open_plaintext(piece, taken)
        except BlobError:
            raise opener.fault_of(piece, taken) from None
        yield plain
    parts.require_end()


class _Reassembled:
    """A stream of bytes, cut anew where its reader wants it."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def prefix(self) -> bytes:
        """What stands before the first piece, as its own length says it: another header may be longer."""
        begun = bytes(self.up_to(4))
        size = int.from_bytes(begun, "big")
        if len(begun) == 4 and not 0 < size <= MAX_HEADER_BYTES:
            raise BlobError(Reason.BLOB_HEADER, f"blob: a header of 1 to {MAX_HEADER_BYTES} bytes expected")
        wanted = size + 4 + SIGNATURE_BYTES + floe.HEADER_BYTES
        rest = bytes(self.up_to(wanted))
        if len(begun) + len(rest) < 4 + wanted:
            raise BlobError(Reason.BLOB_TRUNCATED, "blob: ends within its header")
        return begun + rest

    def take(self, size: int) -> Buffer:
        """Exactly ``size`` bytes, without a copy where they came in one piece."""
        taken = self.up_to(size)
        if memoryview(taken).nbytes != size:
            raise BlobError(Reason.BLOB_TRUNCATED, "blob: not as long as its header says")
        return taken

    def up_to(self, size: int) -> Buffer:
        """``size`` bytes, or what there is before the end."""
        if self._rest.nbytes >= size:
            taken, self._rest = self._rest[:size], self._rest[size:]
            return taken
        joined = bytearray()
        while len(joined) < size:
            if not self._rest.nbytes:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
                if not joined and self._rest.nbytes >= size:
                    return self.up_to(size)
                continue
            wanted = size - len(joined)
            joined += self._rest[:wanted]
            self._rest = self._rest[wanted:]
        return joined

    def require_end(self) -> None:
        """Only here is it known that nothing follows."""
        if len(self.up_to(1)):
            raise BlobError(Reason.BLOB_TOO_LONG, "blob: longer than its header says")
