"""A data connection of the door: one request, one answer, straight between disk and socket. Trust zone: host.

Each connection has a thread, which waits in the kernel: measured, an event loop costs more than the transfer. sendfile
from the spool copies nothing in this process, and the aggregator never holds more than it asked for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from coordinator.door import (
    HEADER_BYTES,
    MAX_DATA_CHUNK,
    WRITE_HEADER_BYTES,
    BlobRange,
    BlobWrite,
    DoorKind,
    decode_header,
    encode_header,
    encode_message,
    encode_reason,
)
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from trusted.errors import ProtocolError, Reason, WireError

T = TypeVar("T")

_MAX_CONNECTIONS = 4096


async def read_exactly(sock: socket.socket, size_bytes: int) -> bytearray:
    """``size_bytes`` from a non-blocking socket.

    Raises:
        EOFError: the peer hung up.
    """
    data = bytearray(size_bytes)
    view = memoryview(data)
    while view:
        count = await asyncio.get_running_loop().sock_recv_into(sock, view)
        if count == 0:
            raise _hung_up()
        view = view[count:]
    return data


class DataDoor:
    """Serves data connections out of one spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._threads = ThreadPoolExecutor(max_workers=_MAX_CONNECTIONS, thread_name_prefix="door")

    async def serve(self, sock: socket.socket, plan: bytes) -> None:
        """Answer until the aggregator hangs up. It reaches the blobs of its own ``plan`` and no others.

        Raises:
            EOFError: it hung up.
            WireError: it sent what is no request.
        """
        loop = asyncio.get_running_loop()
        sock.setblocking(True)
        connection = _Connection(sock, plan, self._spool, loop)
        serving = loop.run_in_executor(self._threads, connection.serve)
        try:
            await asyncio.wait([serving])
        finally:
            if not serving.done():
                connection.end()
                await asyncio.wait([serving])
            failure = serving.exception()
            sock.setblocking(False)
        if failure is not None:
            raise failure


class _Connection:
    """One thread's side of it."""

    def __init__(self, sock: socket.socket, plan: bytes, spool: Spool, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        self._plan = plan
        self._spool = spool
        self._loop = loop
        self._asked: Future[Any] | None = None  # what the thread waits for, if not for the socket
        self._over = False
        # One for the connection: fresh pages cost more than the copy.
        self._buffer = memoryview(bytearray(MAX_DATA_CHUNK + WRITE_HEADER_BYTES))

    def end(self) -> None:
        """Wake the thread, wherever it waits; the socket is closed only when it is out of it."""
        self._over = True
        with suppress(OSError):  # the peer may have been faster
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._asked is not None:
            self._asked.cancel()

    def serve(self) -> None:
        answers = {DoorKind.READ: self._read, DoorKind.WRITE: self._write}
        while True:
            kind, _, size = decode_header(bytes(self._receive(HEADER_BYTES)))
            answer = answers.get(kind)
            if answer is None:
                raise WireError(Reason.UNEXPECTED_MESSAGE, f"door: {kind.name} is no data request")
            answer(self._receive(size))

    def _receive(self, size_bytes: int) -> memoryview:
        view = rest = self._buffer[:size_bytes]
        while rest:
            count = self._sock.recv_into(rest, 0, socket.MSG_WAITALL)
            if count == 0:
                raise _hung_up()
            rest = rest[count:]
        return view

    def _read(self, body: memoryview) -> None:
        request = BlobRange.decode(bytes(body))
        try:
            blob = self._complete(BlobName(self._plan, request.blob)) or self._ask(self._bring(request))
            available = blob.received_bytes
            if request.offset > available:
                raise WireError(Reason.BLOB_OFFSET, "READ: beyond what has arrived")
            file = blob.open()
        except ProtocolError:
            self._sock.sendall(encode_message(DoorKind.MISSING))
            return
        size = min(request.size_bytes, available - request.offset)
        with file:
            self._sock.sendall(encode_header(DoorKind.DATA, 0, size), socket.MSG_MORE if size else 0)
            sent = 0
            while sent < size:
                count = os.sendfile(self._sock.fileno(), file.fileno(), request.offset + sent, size - sent)
                if count == 0:
                    raise EOFError("spool: a file is shorter than what arrived")  # the answer is cut: hang up
                sent += count

    def _write(self, body: memoryview) -> None:
        request, data = BlobWrite.decode(body)
        try:
            self._ask(self._store(request, data))
        except ProtocolError as refusal:
            self._sock.sendall(encode_message(DoorKind.REFUSED, 0, encode_reason(refusal.reason)))
            return
        self._sock.sendall(encode_message(DoorKind.STORED))

    def _complete(self, name: BlobName) -> SpooledBlob | None:
        """The blob, if all of it is here: then nobody has to be asked."""
        blob = self._spool.peek(name)
        return blob if blob is not None and blob.is_complete else None

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives, on the event loop's thread.

        Raises:
            EOFError: the connection ends.
        """
        asked = self._asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        if self._over:  # said between the two lines above, or before
            asked.cancel()
        try:
            value: T = asked.result()
            return value
        except CancelledError:
            raise _hung_up() from None
        finally:
            self._asked = None

    async def _bring(self, request: BlobRange) -> SpooledBlob:
        name = BlobName(self._plan, request.blob)
        blob = await self._spool.locate(name)
        await self._spool.bring(name, blob, request.offset + request.size_bytes)
        return blob

    async def _store(self, request: BlobWrite, data: memoryview) -> None:
        name = BlobName(self._plan, request.blob)
        blob = await self._spool.write(name, request.offset, data, last=request.last)
        await self._spool.settle(name, blob)


def _hung_up() -> EOFError:
    return EOFError("door: the peer hung up")
