"""The host's store, asked through the door. Trust zone: aggregator TEE's shell. Any answer may be a lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from coordinator.door import MAX_DATA_CHUNK, Announcement, BlobRange, BlobWrite, DoorKind
from coordinator.door_socket import DoorConnection, reason_of
from trusted.errors import Reason, RunError, WireError
from trusted.floe import Buffer

_WRITES_AHEAD = 2  # measured: one more in the socket while the host puts one on its disk; further ones gain nothing


class StoreRefused(RunError):
    """The host did not store a piece, and says why: its disk is full, perhaps. Its door works."""


class _Data:
    """One thread's data connection, and the memory its answers are copied into, out of the host's reach."""

    def __init__(self, connection: DoorConnection) -> None:
        self.connection = connection
        self.buffer = memoryview(bytearray(MAX_DATA_CHUNK))


class DoorStore:
    """Implements :class:`coordinator.enclave.ports.HostStore` over one control and a data connection for each thread.

    ``open_data`` dials and registers one more. After an error a thread's connection is closed, and its next call dials.
    """

    def __init__(self, control: DoorConnection, open_data: Callable[[], DoorConnection]) -> None:
        self._control = control
        self._open_data = open_data
        self._mine = threading.local()
        self._all: list[DoorConnection] = []

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Announce an upload. It goes before any frame that tells a worker the name."""
        self._control.send(DoorKind.EXPECT, 0, Announcement(blob, size_bytes).encode())

    def read(self, blob: bytes, offset: int, size_bytes: int) -> Buffer:
        """At most ``size_bytes`` from ``offset``, good until this thread's next read; nothing if the host has none."""
        kind, size, buffer = self._ask(DoorKind.READ, BlobRange(blob, offset, size_bytes).encode())
        if kind is DoorKind.MISSING:
            return b""
        if kind is not DoorKind.DATA or size > size_bytes:
            raise WireError(Reason.UNEXPECTED_MESSAGE, "door: DATA or MISSING expected, no longer than asked for")
        return buffer[:size]

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        """Store a blob piece by piece; the host answers each, and the next ones are made and sent meanwhile.

        Raises:
            StoreRefused: it does not take one.
        """
        offset = unanswered = 0
        with self._lost_on_error():  # also of who makes the pieces: an answer may be on its way
            for piece in pieces:
                view = memoryview(piece)
                for start in range(0, len(view), MAX_DATA_CHUNK):
                    if unanswered == _WRITES_AHEAD:
                        unanswered = self._require_stored(unanswered)
                    part = view[start : start + MAX_DATA_CHUNK]
                    self._say(DoorKind.WRITE, BlobWrite(blob, offset, offset + len(part) == size_bytes).encode(), part)
                    offset += len(part)
                    unanswered += 1
            while unanswered:
                unanswered = self._require_stored(unanswered)

    def discard(self, blob: bytes) -> None:
        """Let the host forget a blob."""
        self._control.send(DoorKind.DISCARD, 0, blob)

    def close(self) -> None:
        """End every thread's connection; whoever waits in one wakes up with an error."""
        for connection in self._all:
            connection.close()

    def _require_stored(self, unanswered: int) -> int:
        """Hear the first of so many answers; how many are left. A refusal is raised when all are heard."""
        kind, size, buffer = self._hear()
        if kind is DoorKind.REFUSED:
            reason = reason_of(bytes(buffer[:size]))
            for _ in range(unanswered - 1):  # of pieces that stand behind the refused one, and so are refused as well
                self._hear()
            raise StoreRefused(reason, "door: the host refuses to store a piece")
        if kind is not DoorKind.STORED:
            raise WireError(Reason.UNEXPECTED_MESSAGE, "door: the host did not store a piece")
        return unanswered - 1

    def _ask(self, kind: DoorKind, *body: Buffer) -> tuple[DoorKind, int, memoryview]:
        with self._lost_on_error():
            self._say(kind, *body)
            return self._hear()

    def _say(self, kind: DoorKind, *body: Buffer) -> None:
        """Ask something. Who asks hears the answer before it asks again, and works under :meth:`_lost_on_error`."""
        data: _Data | None = getattr(self._mine, "data", None)
        if data is None:
            data = self._mine.data = _Data(self._open_data())
            self._all.append(data.connection)
        data.connection.send(kind, 0, *(memoryview(part) for part in body))

    def _hear(self) -> tuple[DoorKind, int, memoryview]:
        data: _Data = self._mine.data
        answer, size = data.connection.receive_into(data.buffer)
        return answer, size, data.buffer

    @contextmanager
    def _lost_on_error(self) -> Iterator[None]:
        try:
            yield
        except StoreRefused:  # an answer as good as any: nothing is on its way
            raise
        except BaseException:
            data: _Data | None = getattr(self._mine, "data", None)
            if data is not None:
                self._mine.data = None  # what is on its way belongs to another question
                data.connection.close()
                self._all.remove(data.connection)
            raise
