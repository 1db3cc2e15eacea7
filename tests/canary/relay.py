"""An inspecting proxy: it ends TLS, records every decrypted byte of both directions, and forwards over TLS of its own.

Many hospitals have one. It stands between workers and host, and a second, without TLS, between aggregator and host.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")
_CHUNK = 1 << 18
_CLOSE_S = 0.5
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[_Streams]]


class Relay:
    """Forwards connections to whatever ``dial`` opens, in a thread of its own. Used in a ``with`` block."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._recorded: dict[str, bytearray] = {}
        self._count = 0

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def listen_tls(self, certificate: Path, key: Path) -> int:
        """Take HTTP/2 connections on a loopback port; the port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        self._server = self._run(asyncio.start_server(self._take, "127.0.0.1", 0, ssl=context))
        return int(self._server.sockets[0].getsockname()[1])

    def listen_tcp(self) -> int:
        """Take connections in plaintext on a loopback port; the port."""
        self._server = self._run(asyncio.start_server(self._take, "127.0.0.1", 0))
        return int(self._server.sockets[0].getsockname()[1])

    def listen_unix(self, path: Path) -> None:
        """Take connections on a Unix socket that an enclave's user may reach, as the host's own."""
        path.parent.mkdir(mode=0o711, parents=True)
        self._server = self._run(asyncio.start_unix_server(self._take, path))
        path.chmod(0o666)

    def recorded(self) -> dict[str, bytes]:
        """What passed so far: for each connection what went up and what came down, each in one piece."""

        async def copy() -> dict[str, bytes]:
            return {name: bytes(data) for name, data in self._recorded.items()}

        return self._run(copy())

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        self._count += 1
        name = f"connection {self._count}"
        try:
            host_reader, host_writer = await self._dial()
        except OSError:
            writer.close()
            return
        pumps = (
            asyncio.create_task(self._pump(reader, host_writer, f"{name} up")),
            asyncio.create_task(self._pump(host_reader, writer, f"{name} down")),
        )
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(_end(writer), _end(host_writer))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, name: str) -> None:
        record = self._recorded.setdefault(name, bytearray())
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                record += data
                target.write(data)
                await target.drain()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _end(writer: asyncio.StreamWriter) -> None:
    """Send what is left, then hang up: not every peer answers the goodbye of TLS."""
    writer.close()
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)
    writer.transport.abort()


def dial_tls(port: int, ca: Path) -> Dial:
    """The host's one TLS port, verified by its CA as a worker would."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])

    async def dial() -> _Streams:
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")

    return dial


def dial_tcp(port: int) -> Dial:
    """A plaintext port on loopback."""

    async def dial() -> _Streams:
        return await asyncio.open_connection("127.0.0.1", port)

    return dial


def dial_unix(path: Path) -> Dial:
    """The host's door."""

    async def dial() -> _Streams:
        return await asyncio.open_unix_connection(path)

    return dial
