"""A data connection of the door: one request, one answer, straight between disk and socket. Trust zone: host.

Measured: sendfile from the spool costs the host nearly nothing, and the aggregator never holds more than it asked for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

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
from coordinator.host.spool import BlobName, Spool
from trusted.errors import ProtocolError, Reason, WireError


async def read_exactly(sock: socket.socket, size_bytes: int) -> bytearray:
    """``size_bytes`` from a non-blocking socket.

    Raises:
        EOFError: the peer hung up.
    """
    data = bytearray(size_bytes)
    await read_into(sock, memoryview(data))
    return data


async def read_into(sock: socket.socket, view: memoryview) -> None:
    """Fill ``view`` from a non-blocking socket.

    Raises:
        EOFError: the peer hung up.
    """
    loop = asyncio.get_running_loop()
    while len(view):
        count = await loop.sock_recv_into(sock, view)
        if count == 0:
            raise EOFError("door: the peer hung up")
        view = view[count:]


class DataDoor:
    """Serves data connections out of one spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def serve(self, sock: socket.socket, plan: bytes) -> None:
        """Answer until the aggregator hangs up. It reaches the blobs of its own ``plan`` and no others.

        Raises:
            EOFError: it hung up.
            WireError: it sent what is no request.
        """
        buffer = bytearray(
            MAX_DATA_CHUNK + WRITE_HEADER_BYTES
        )  # one for the connection: fresh pages cost more than the copy
        answers: dict[DoorKind, Callable[[socket.socket, bytes, memoryview], Awaitable[None]]] = {
            DoorKind.READ: self._read,
            DoorKind.WRITE: self._write,
        }
        while True:
            kind, _, size = decode_header(bytes(await read_exactly(sock, HEADER_BYTES)))
            answer = answers.get(kind)
            if answer is None:
                raise WireError(Reason.UNEXPECTED_MESSAGE, f"door: {kind.name} is no data request")
            body = memoryview(buffer)[:size]
            await read_into(sock, body)
            await answer(sock, plan, body)

    async def _read(self, sock: socket.socket, plan: bytes, body: memoryview) -> None:
        request = BlobRange.decode(bytes(body))
        loop = asyncio.get_running_loop()
        try:
            name = BlobName(plan, request.blob)
            blob = await self._spool.locate(name)
            await self._spool.bring(name, blob, request.offset + request.size_bytes)
            available = blob.received_bytes
            if request.offset > available:
                raise WireError(Reason.BLOB_OFFSET, "READ: beyond what has arrived")
            file = blob.open()
        except ProtocolError:
            await loop.sock_sendall(sock, encode_message(DoorKind.MISSING))
            return
        size = min(request.size_bytes, available - request.offset)
        with file:
            await loop.sock_sendall(sock, encode_header(DoorKind.DATA, 0, size))
            if size and await loop.sock_sendfile(sock, file, request.offset, size) != size:
                raise EOFError("spool: a file is shorter than what arrived")  # the answer cannot be completed: hang up

    async def _write(self, sock: socket.socket, plan: bytes, body: memoryview) -> None:
        loop = asyncio.get_running_loop()
        request, data = BlobWrite.decode(body)
        try:
            name = BlobName(plan, request.blob)
            blob = await self._spool.write(name, request.offset, data, last=request.last)
            await self._spool.settle(name, blob)
        except ProtocolError as refusal:
            await loop.sock_sendall(sock, encode_message(DoorKind.REFUSED, 0, encode_reason(refusal.reason)))
            return
        await loop.sock_sendall(sock, encode_message(DoorKind.STORED))
