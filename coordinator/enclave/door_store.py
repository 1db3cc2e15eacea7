"""The host's store, asked through the door. Trust zone: aggregator TEE's shell. Any answer may be a lie."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.door import MAX_DATA_CHUNK, Announcement, BlobRange, BlobWrite, DoorKind
from coordinator.door_socket import DoorConnection
from trusted.errors import Reason, WireError


class DoorStore:
    """Implements :class:`coordinator.enclave.ports.HostStore` over one control and one data connection."""

    def __init__(self, control: DoorConnection, data: DoorConnection) -> None:
        self._control = control
        self._data = data
        self._buffer = memoryview(bytearray(MAX_DATA_CHUNK))

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Announce an upload. It goes before any frame that tells a worker the name."""
        self._control.send(DoorKind.EXPECT, 0, Announcement(blob, size_bytes).encode())

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        """At most ``size_bytes`` from ``offset``, copied out of the host's reach; nothing where it has nothing."""
        self._data.send(DoorKind.READ, 0, BlobRange(blob, offset, size_bytes).encode())
        kind, size = self._data.receive_into(self._buffer)
        if kind is DoorKind.MISSING:
            return b""
        if kind is not DoorKind.DATA or size > size_bytes:
            raise WireError(Reason.UNEXPECTED_MESSAGE, "door: DATA or MISSING expected, no longer than asked for")
        return bytes(self._buffer[:size])

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[bytes]) -> None:
        """Store a blob piece by piece; the host answers each."""
        offset = 0
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), MAX_DATA_CHUNK):
                part = view[start : start + MAX_DATA_CHUNK]
                offset += len(part)
                self._write_part(BlobWrite(blob, offset - len(part), offset == size_bytes), part)

    def discard(self, blob: bytes) -> None:
        """Let the host forget a blob."""
        self._control.send(DoorKind.DISCARD, 0, blob)

    def _write_part(self, write: BlobWrite, part: memoryview) -> None:
        self._data.send(DoorKind.WRITE, 0, write.encode(), part)
        kind, _ = self._data.receive_into(self._buffer)
        if kind is not DoorKind.STORED:
            raise WireError(Reason.UNEXPECTED_MESSAGE, "door: the host did not store a piece")
