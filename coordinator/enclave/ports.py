"""What the aggregator asks of the host's store. Trust zone: aggregator TEE; whatever answers may be lying."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from trusted.errors import BlobError, Reason
from trusted.floe import Buffer

BLOB_NAME_BYTES = 16


class HostStore(Protocol):
    """Sealed blobs by name (16 bytes). Calls block; a host that is gone raises ``ConnectionError``.

    Any thread may read and write.
    """

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Let the host accept an upload of exactly ``size_bytes`` under this name."""

    def read(self, blob: bytes, offset: int, size_bytes: int) -> Buffer:
        """At most ``size_bytes`` from ``offset``, good until this thread's next read; nothing if the host has none."""

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        """Store the pieces, together ``size_bytes``, under this name."""

    def discard(self, blob: bytes) -> None:
        """Tell the host that this blob is of no more use."""


def read_exactly(store: HostStore, blob: bytes, offset: int, size_bytes: int) -> Buffer:
    """The ``size_bytes`` that the host says it holds at ``offset`` of ``blob``; good until this thread's next read.

    Raises:
        BlobError: BLOB_TRUNCATED: it gives fewer, or more.
    """
    read = store.read(blob, offset, size_bytes)
    if len(read) != size_bytes:
        raise BlobError(Reason.BLOB_TRUNCATED, "blob: the host does not hold all of it")
    return read
