"""What the aggregator asks of the host's store. Trust zone: aggregator TEE; whatever answers may be lying."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from trusted.blob import PIECE_BYTES, BlobHeader
from trusted.errors import BlobError, Reason

BLOB_NAME_BYTES = 16


class HostStore(Protocol):
    """Sealed blobs by name (16 bytes). Calls block; a host that is gone raises ``ConnectionError``."""

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Let the host accept an upload of exactly ``size_bytes`` under this name."""

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        """At most ``size_bytes`` from ``offset``; nothing where the host has nothing."""

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[bytes]) -> None:
        """Store the pieces, together ``size_bytes``, under this name."""

    def discard(self, blob: bytes) -> None:
        """Tell the host that this blob is of no more use."""


def stored_pieces(store: HostStore, blob: bytes, header: BlobHeader) -> Iterator[bytes]:
    """The bytes that the host says it holds under ``blob``, in pieces, never more than the header allows."""
    offset, size = 0, header.sealed_bytes
    while offset < size:
        piece = store.read(blob, offset, min(PIECE_BYTES, size - offset))
        if not piece or len(piece) > size - offset:
            raise BlobError(Reason.BLOB_TRUNCATED, "blob: the host does not hold all of it")
        yield piece
        offset += len(piece)
