"""One connection of the blob port: it waits in the event loop and moves in a thread. Trust zone: host.

Rules:
 1. Nothing is read that nobody asked for: the peer's bytes stay in its own kernel until then.
 2. A thread moves what is there, from kernel to kernel or through one buffer of its own, and comes back when the line
    is dry or slow, or has had its share. So who stands still, or crawls, holds neither thread nor memory.
 3. One task uses a line, one operation at a time.

Measured: an event loop that is asked for each arrival costs as much as the bytes do.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import BinaryIO, TypeVar

from coordinator.host.limits import CHUNK_BYTES

T = TypeVar("T")

SHARE_BYTES = 8 << 20  # what a thread moves before others may have it
_DRY_MS = 5  # that a thread waits for more
_SLOW_S = 0.02  # after which a line has to have moved as many bytes a second as the next line says
_FAST_BYTES_PER_S = 50 << 20
_TLS_WRITE_BYTES = 256 << 10
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_mine = threading.local()


def _buffer() -> memoryview:
    """This thread's own, 1 MiB: what is received into it is written to disk, or sent, from it."""
    view: memoryview | None = getattr(_mine, "buffer", None)
    if view is None:
        view = _mine.buffer = memoryview(bytearray(CHUNK_BYTES))
    return view


class Line:
    """A connected socket, with TLS where there is a ``context``. ``threads`` move what is large."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, threads: Executor) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # a peer that is gone already shows when it is read
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = _name_of(sock)
        self._sock = sock
        self._context = context
        self._threads = threads
        self._rest = b""  # what was read too far
        self._unsent = memoryview(b"")  # TLS wants to be given the same bytes again
        self._over = False

    async def shake_hands(self) -> None:
        """Begin: with TLS, where there is one.

        Raises:
            EOFError: the peer hung up, or speaks another language.
        """
        if self._context is None:
            return
        try:
            sock = self._context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # reset before it was looked at
            raise _hung_up() from None
        self._sock = sock
        while True:
            try:
                sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._ready(write=False)
            except ssl.SSLWantWriteError:
                await self._ready(write=True)
            except (OSError, ValueError):
                raise _hung_up() from None

    async def read(self, most: int) -> bytes:
        """What there is, at most ``most`` bytes, waiting for the first.

        Raises:
            EOFError: the peer hung up.
        """
        await self.readable()
        taken, self._rest = self._rest[:most], self._rest[most:]
        if taken:
            return taken
        while True:
            try:
                data = self._sock.recv(most)
            except _WOULD_BLOCK:  # of TLS, that a record is not whole yet
                await self._ready(write=False)
                continue
            except OSError:
                data = b""
            if not data:
                raise _hung_up()
            return data

    def put_back(self, data: bytes) -> None:
        """Read ``data`` again, before all that is still to come."""
        self._rest = data + self._rest

    async def readable(self) -> None:
        """Wait until there is something to be read.

        Raises:
            EOFError: the peer hung up, and all that it sent was read.
        """
        if self._over:
            raise _hung_up()
        if not self._rest and not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            await self._ready(write=False)

    async def write(self, data: bytes) -> None:
        """Send ``data``, waiting while the peer is behind.

        Raises:
            EOFError: the peer hung up.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except _WOULD_BLOCK:
                await self._ready(write=True)
            except OSError:
                raise _hung_up() from None

    async def write_from(self, file: BinaryIO, offset: int, size_bytes: int) -> None:
        """Send a part of ``file``.

        Raises:
            EOFError: the peer hung up, or the file is shorter than that.
        """
        send = self._send_file if self._context is None else self._send_sealed
        while size_bytes:
            sent = await self._in_thread(partial(send, file.fileno(), offset, size_bytes))
            if self._over:
                raise _hung_up()
            offset, size_bytes = offset + sent, size_bytes - sent
            if size_bytes and not sent:
                await self._ready(write=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, in a thread. Who is cancelled breaks the line, and returns when the thread is out."""
        moving = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(moving)
        except asyncio.CancelledError:
            self.abort()
            await asyncio.wait([moving])
            raise

    def source(self, most: int) -> Callable[[], memoryview]:
        """For a thread: each call gives the next of at most ``most`` bytes, good until the next; empty when the line
        is over, dry or slow, or all of them were given.
        """
        begun, moved = monotonic(), 0

        def more() -> memoryview:
            nonlocal moved
            room = _buffer()[: most - moved]
            got = self._fill(room, begun, moved)
            moved += got
            return room[:got]

        return more

    def abort(self) -> None:
        """Break the line: whoever waits in it wakes up."""
        self._over = True
        with suppress(OSError):  # the peer may have been faster
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # of TLS without its farewell, which takes two

    def close(self) -> None:
        """End it; what was sent still leaves."""
        self._over = True
        self._sock.close()

    async def _ready(self, *, write: bool) -> None:
        """Wait until the socket can be read, or written."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        descriptor = self._sock.fileno()
        if descriptor < 0:
            raise _hung_up()
        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    # In a thread.

    def _fill(self, room: memoryview, begun: float, moved: int) -> int:
        """As much of ``room`` as comes while the line is neither dry nor slow."""
        got = min(len(self._rest), len(room))
        room[:got], self._rest = self._rest[:got], self._rest[got:]
        left = room[got:]
        return got + self._move(
            select.POLLIN, lambda done: self._sock.recv_into(left[done:]), len(left), begun, moved + got
        )

    def _send_file(self, file: int, offset: int, size_bytes: int) -> int:
        """How much of that was sent while the line was neither full nor slow. The kernel copies nothing for it."""
        most, line = min(size_bytes, SHARE_BYTES), self._sock.fileno()
        return self._move(select.POLLOUT, lambda done: os.sendfile(line, file, offset + done, most - done), most)

    def _send_sealed(self, file: int, offset: int, size_bytes: int) -> int:
        """As :meth:`_send_file`, under TLS: in pieces that are read, and are kept while the line is full."""
        most = min(size_bytes, SHARE_BYTES)

        def send(done: int) -> int:
            if not self._unsent:
                self._unsent = memoryview(os.pread(file, min(_TLS_WRITE_BYTES, most - done), offset + done))
            if not self._unsent:
                return 0
            count = self._sock.send(self._unsent)
            self._unsent = self._unsent[count:]
            return count

        return self._move(select.POLLOUT, send, most)

    def _move(
        self, event: int, some: Callable[[int], int], most: int, begun: float | None = None, before: int = 0
    ) -> int:
        """How many of ``most`` bytes ``some`` moves, which is told how many it has, while the line goes on.

        That counts from ``begun``, with the bytes that were moved ``before``. Nothing moved, or an error: the peer
        hung up, or the file is shorter than what arrived.
        """
        begun, moved = monotonic() if begun is None else begun, 0
        while moved < most:
            try:
                count = some(moved)
            except _WOULD_BLOCK:
                if not self._goes_on(event, begun, before + moved):
                    break
                continue
            except OSError:
                count = 0
            if count == 0:
                self._over = True
                break
            moved += count
        return moved

    def _goes_on(self, event: int, begun: float, moved: int) -> bool:
        """Whether the line, which is dry or full now, is so for a moment only, and fast."""
        since = monotonic() - begun
        if since > _SLOW_S and moved < since * _FAST_BYTES_PER_S:
            return False
        poll = select.poll()
        poll.register(self._sock.fileno(), event)
        return bool(poll.poll(_DRY_MS))


def _name_of(sock: socket.socket) -> str:
    """The peer, as gRPC writes it; what tells peers apart understands that."""
    try:
        name = sock.getpeername()
    except OSError:
        return "unknown:"
    return f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"


def _hung_up() -> EOFError:
    return EOFError("blob port: the peer hung up")
