"""Blobs over HTTP/1.1 on a port of their own (docs/protocol.md §9.1). Trust zone: host; process shell.

What gRPC's ``Blobs.Put|Get`` do, in the same turns and under the same refusals. Measured on two cores: a third of the
work for each byte, since the kernel sends files itself and what arrives goes to disk from where the kernel put it.
A name is a capability: it stands in a header, which proxies do not log, and not in the path.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

from grpc import StatusCode

from coordinator.host.http_head import MAX_HEAD_BYTES, HeadReader, Request, encode_head
from coordinator.host.line import SHARE_BYTES, Line
from coordinator.host.rpc import Reception
from coordinator.host.shortages import shortage_of
from coordinator.host.spool import SpooledBlob
from coordinator.host.transfers import Transfers
from coordinator.host.turns import Turn
from trusted.errors import Reason, RunError

_LINGER_S = 2.0
_BACKLOG = 1024
_ACCEPT_AGAIN_S = 0.25
_STRETCH_BYTES = 4 << 20
_METHODS = {"GET": "Blobs.HttpGet", "PUT": "Blobs.HttpPut"}
_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.OUT_OF_RANGE: 416,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 503,
}

_log = logging.getLogger(__name__)


class BlobPort:
    """Serves the blobs of one host to whoever connects."""

    def __init__(self, transfers: Transfers, reception: Reception) -> None:
        self._transfers = transfers
        self._limits = transfers.limits
        self._spool = transfers.spool
        self._reception = reception
        # As many as may hold a turn: who has none needs no thread.
        threads = transfers.limits.uploads + transfers.limits.downloads
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="blob-port")
        self._lines: dict[asyncio.Task[None], bool] = {}  # whether each is at work
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._ends_at = 0.0

    def open(self, address: str, context: ssl.SSLContext | None) -> int:
        """Listen at ``address`` (``name:port``; port 0 picks one), under TLS where there is a ``context``; the port.

        Raises:
            RunError: UNREACHABLE: it cannot be bound.
        """
        host, _, port = address.rpartition(":")
        try:
            number = int(port)
            if not 0 <= number < 1 << 16:  # else it is taken modulo that
                raise ValueError("no port")
            found = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, bound = found[0][0], found[0][4]
            both = family is socket.AF_INET6 and bound[0] == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(bound[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except (OSError, ValueError, OverflowError):
            advice = "address:port expected; is the port taken, or the address not this machine's?"
            raise RunError(Reason.UNREACHABLE, f"host.blob_listen: cannot bind; {advice}") from None
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener, context))
        bound_port: int = listener.getsockname()[1]
        return bound_port

    def drain(self) -> None:
        """Take no new lines, end those that stand idle, and give the others ``limits.drain_s`` from now on."""
        if self._listener is None:
            return
        self._ends_at = asyncio.get_running_loop().time() + self._limits.drain_s
        if self._accepting is not None:
            self._accepting.cancel()
        self._listener.close()
        self._listener = None
        for task, at_work in self._lines.items():
            if not at_work:
                task.cancel()

    async def close(self) -> None:
        """As :meth:`drain`, and wait for the end."""
        self.drain()
        if self._accepting is not None:
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._lines:
            left_s = self._ends_at - asyncio.get_running_loop().time()
            await asyncio.wait(tuple(self._lines), timeout=max(0.0, left_s))
        tasks = tuple(self._lines)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown()

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """One line after another; without descriptors to accept with, wait a moment."""
        while True:
            try:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:
                if shortage_of(error) is not None:
                    _log.warning("host-short", extra={"outcome": "blob-port"})
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            if len(self._lines) >= self._limits.connections:
                sock.close()
                continue
            task = asyncio.create_task(self._serve(Line(sock, context, self._threads)))
            self._lines[task] = False
            task.add_done_callback(self._lines.pop)

    async def _serve(self, line: Line) -> None:
        """Request by request, until the peer hangs up, is idle for too long or was refused."""
        task, patience_s = asyncio.current_task(), self._limits.connect_s
        if task is None:
            raise RuntimeError("a line is served by a task")
        try:
            async with asyncio.timeout(patience_s):
                await line.shake_hands()
            while (request := await self._next(line, patience_s)) is not None:
                self._lines[task] = True
                refused = await self._answer(line, request)
                self._lines[task] = False
                if refused:
                    await _linger(line)
                if refused or not request.goes_on or self._listener is None:
                    break
                patience_s = self._limits.idle_s
        except (EOFError, TimeoutError):
            line.abort()
        finally:
            line.close()

    async def _next(self, line: Line, patience_s: float) -> Request | None:
        """The next request; None where none comes in time."""
        reader = HeadReader()
        with suppress(TimeoutError, EOFError):
            async with asyncio.timeout(patience_s):
                while (request := reader.feed(await line.read(MAX_HEAD_BYTES))) is None:
                    pass
                line.put_back(reader.rest)
                return request
        return None

    async def _answer(self, line: Line, request: Request) -> bool:
        """Do what is asked; whether it was refused, so that the line is of no more use."""
        call = _Call(line)
        with suppress(_Refused):
            await self._do(line, request, call)
        return call.refused

    async def _do(self, line: Line, request: Request, call: _Call) -> None:
        async with self._reception.serve(call, _METHODS.get(request.method, "Blobs.Http")):
            if request.fault is not None:
                raise request.fault
            if request.method == "PUT":
                await self._put(line, request)
            else:
                await self._get(line, request, call)

    async def _put(self, line: Line, request: Request) -> None:
        name = request.name
        async with self._transfers.upload_turn(name.plan) as turn:
            blob = await self._spool.locate(name)
            if request.waits:
                await line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            blob = await self._take_in(line, request, turn) or blob
        await self._spool.settle(name, blob)
        state = ("cloister-received", blob.held_bytes), ("cloister-total", blob.total_bytes or 0)
        await line.write(encode_head(200, *state, ("content-length", 0)))

    async def _take_in(self, line: Line, request: Request, turn: Turn) -> SpooledBlob | None:
        name, received, blob = request.name, 0, None
        try:
            while received < request.size_bytes:
                await turn.move(line.readable())
                source = line.source(min(SHARE_BYTES, request.size_bytes - received))
                pouring = self._spool.pour(name, request.offset + received, source, self._threads)
                blob, taken = await turn.move(pouring)
                received += taken
                turn.used(taken)
        finally:
            self._spool.remember(name)  # what arrived stays, also when the line was cut
            self._transfers.count(name, bytes_in=received)
        return blob

    async def _get(self, line: Line, request: Request, call: _Call) -> None:
        name, offset, size = request.name, request.offset, request.size_bytes
        end = offset + size
        blob = await self._transfers.find_to_send(name, offset)
        if blob.total_bytes is not None and end > blob.total_bytes:
            raise RunError(Reason.BLOB_OFFSET, "Get: the range ends beyond the blob")
        head = encode_head(
            206,
            ("content-range", f"bytes {offset}-{end - 1}/{blob.total_bytes or '*'}"),
            ("content-length", size),
            ("cache-control", "no-store"),
        )
        sent = 0
        try:
            async with (
                self._transfers.download_turn(name.plan) as turn,
                aclosing(self._transfers.follow(blob, offset, turn, then_bytes=_STRETCH_BYTES, end=end)) as stretches,
            ):
                async for file, at, part in stretches:
                    if not call.begun:
                        call.begun = True
                        await turn.move(line.write(head))
                    await turn.move(line.write_from(file, at, part), part)
                    sent += part
            if sent < size:
                raise EOFError("blob: its end came before the range's; the peer asks again and hears why")
        finally:
            self._transfers.count(name, bytes_out=sent)


async def _linger(line: Line) -> None:
    """Throw away what the peer still sends, for a while, so that it reads the refusal before it hears of the end."""
    with suppress(EOFError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while True:
                await line.read(MAX_HEAD_BYTES)


class _Refused(Exception):
    """The refusal is said."""


class _Call:
    """One request, as far as what receives calls has to know it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.begun = False
        self.refused = False

    def peer(self) -> str:
        """Who asks."""
        return self._line.peer

    async def abort(self, code: StatusCode, details: str, trailing_metadata: Any = ()) -> None:
        """Refuse: with a status; or, within an answer, by cutting it, so that the peer asks again and hears why."""
        self.refused = True
        if self.begun:
            raise EOFError("blob port: the answer is cut")
        text = details.encode()
        fields = *trailing_metadata, ("content-type", "text/plain; charset=utf-8"), ("content-length", len(text))
        await self._line.write(encode_head(_STATUS.get(code, 500), *fields, ("connection", "close")) + text)
        raise _Refused
