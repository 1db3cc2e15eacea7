"""Where aggregators dial in (docs/protocol.md §8): registration, and the control connections. Trust zone: host.

The aggregator is not trusted with the host either: every message is bounded and typed, and one that breaks a rule ends
its connection alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from coordinator.door import (
    HEADER_BYTES,
    MAX_CONTROL_BODY,
    Address,
    Announcement,
    Decline,
    DoorKind,
    DoorMessage,
    DoorRole,
    Family,
    Registration,
    decode_blob,
    decode_header,
    decode_reason,
    encode_message,
    encode_reason,
)
from coordinator.door_socket import tune
from coordinator.host.aggregators import Aggregator, Aggregators
from coordinator.host.door_data import DataDoor, read_exactly
from coordinator.host.events import PublicEvent, decode_event
from coordinator.host.later import Later, Told
from coordinator.host.run_book import RunBook
from coordinator.host.runs import OrderDesk
from coordinator.host.shortages import HostShort, Shortage, shortage_of
from coordinator.host.spool import BlobName, Spool
from coordinator.host.state import EventSource
from trusted.errors import ProtocolError, Reason, WireError

_REGISTRATION_S = 10.0
_CLOSE_S = 2.0
_DATA_CONNECTIONS = 8
_MAX_CONNECTIONS = 4096  # each may wait _REGISTRATION_S before it says who it is
_ACCEPT_AGAIN_S = 0.25  # what waits to be accepted is still there when descriptors are
_MESSAGES_IN_A_ROW = 64  # of one connection, before the others have the loop

_log = logging.getLogger(__name__)


def listen(address: Address) -> socket.socket:
    """A listening, non-blocking socket; a Unix one that nobody serves is replaced.

    The state folder above is this user's alone. The socket and its own folder let every user in, because an aggregator
    has a user of its own and sees this one folder. Whoever is let in proves nothing here, all of it to the workers.
    """
    if address.family is Family.UNIX:
        return _listen_unix(Path(address.host))
    if address.family is Family.VSOCK:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.bind((int(address.host), address.port))
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.create_server((address.host, address.port), family=family)
    return _ready(sock)


def _listen_unix(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) != 0:
                path.unlink()
    umask = os.umask(0o111)
    try:
        sock.bind(str(path))
    finally:
        os.umask(umask)
    return _ready(sock)


def _ready(sock: socket.socket) -> socket.socket:
    sock.listen(128)
    sock.setblocking(False)
    return sock


class DoorServer:
    """Accepts aggregators and serves both of their connections."""

    def __init__(self, aggregators: Aggregators, spool: Spool, book: RunBook, desk: OrderDesk) -> None:
        self._aggregators = aggregators
        self._spool = spool
        self._book = book
        self._desk = desk
        self._metrics = book.metrics
        self._later: dict[Aggregator, Later] = {}
        self._data = DataDoor(spool)
        self._tasks: set[asyncio.Task[None]] = set()
        spool.on_complete = self._announce_arrival
        self._on_control: dict[DoorKind, Callable[[Aggregator, DoorMessage], Awaitable[None]]] = {
            DoorKind.FRAME: self._on_frame,
            DoorKind.CLOSE: self._on_close,
            DoorKind.EXPECT: self._on_expect,
            DoorKind.EVENT: self._on_event,
            DoorKind.DISCARD: self._on_discard,
        }

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled; then every connection is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                sock = await self._accept(listener)
                if sock is None:
                    continue
                task = loop.create_task(self._serve_connection(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> socket.socket | None:
        """The next connection; None, after a moment, where none can be had. No failure of one ends the door."""
        try:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError as error:
            shortage = shortage_of(error)
            if shortage is not None:
                self._short(shortage)
            _log.warning("door-not-accepting", extra={"outcome": shortage.value if shortage else "network"})
            await asyncio.sleep(_ACCEPT_AGAIN_S)
            return None
        if len(self._tasks) >= _MAX_CONNECTIONS:
            sock.close()
            return None
        return sock

    def _short(self, shortage: Shortage) -> None:
        self._metrics.shortages.labels(shortage.value).inc()

    async def _serve_connection(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.setblocking(False)
                tune(sock)
                async with asyncio.timeout(_REGISTRATION_S):
                    registration = await _read_registration(sock)
                if registration.role is DoorRole.CONTROL:
                    await self._serve_control(sock, registration)
                else:
                    await self._serve_data(sock, registration)
            except ProtocolError as refusal:
                _log.warning("door-refused", extra={"reason": refusal.reason.code})
                await _send_reason(sock, refusal.reason)
            except (OSError, EOFError, TimeoutError, MemoryError) as error:
                shortage = shortage_of(error)
                if shortage is None:
                    _log.info("door-hung-up")
                else:  # this connection pays for it alone
                    self._short(shortage)
                    _log.warning("door-cut", extra={"outcome": shortage.value})

    async def _serve_control(self, sock: socket.socket, registration: Registration) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=2 * MAX_CONTROL_BODY)
        try:
            self._book.require_room(registration.plan)
            aggregator = self._aggregators.register(registration.plan, registration.token, writer)
            await self._serve_aggregator(reader, aggregator)
        except ProtocolError as refusal:
            _log.warning("door-refused", extra={"reason": refusal.reason.code})
            writer.write(encode_message(DoorKind.REFUSED, 0, encode_reason(refusal.reason)))
        finally:
            await _close(writer)

    async def _serve_aggregator(self, reader: StreamReader, aggregator: Aggregator) -> None:
        later = self._later[aggregator] = Later(aggregator.writer.close, self._short)
        try:
            aggregator.post(DoorKind.REGISTERED)
            await self._book.aggregator(aggregator.plan, present=True)
            await self._desk.repeat_for(aggregator)
            await self._read_control(reader, aggregator)
        finally:
            del self._later[aggregator]
            await later.end()
            self._aggregators.remove(aggregator)
            await self._book.aggregator(aggregator.plan, present=False)

    async def _read_control(self, reader: StreamReader, aggregator: Aggregator) -> None:
        for number in count(1):
            header = await reader.readexactly(HEADER_BYTES)
            kind, channel, size = decode_header(header)
            act = self._on_control.get(kind)
            if act is None:
                raise WireError(Reason.UNEXPECTED_MESSAGE, f"door: {kind.name} is not for the host's control")
            await act(aggregator, DoorMessage(kind, channel, await reader.readexactly(size)))
            if number % _MESSAGES_IN_A_ROW == 0:
                await asyncio.sleep(0)  # what is buffered already suspends nothing

    async def _on_frame(self, aggregator: Aggregator, message: DoorMessage) -> None:
        session = aggregator.sessions.get(message.channel)
        if session is not None:  # it may have ended while this frame was on its way
            session.deliver(message.body)

    async def _on_close(self, aggregator: Aggregator, message: DoorMessage) -> None:
        session = aggregator.sessions.get(message.channel)
        number = decode_reason(message.body)
        if session is not None:
            session.end(Reason(number) if number in set(Reason) else None)

    async def _on_expect(self, aggregator: Aggregator, message: DoorMessage) -> None:
        announcement = Announcement.decode(message.body)
        told = Told(lambda: self._expect(aggregator, announcement), len(message.body), announcement.blob)
        name = BlobName(aggregator.plan, announcement.blob)
        if self._spool.peek(name) is None:  # it may wait behind others: an uploader that is faster is to ask again
            self._spool.decline(name, Reason.HOST_SHORT)
        await self._later[aggregator].do(told)

    async def _expect(self, aggregator: Aggregator, announcement: Announcement) -> None:
        name = BlobName(aggregator.plan, announcement.blob)
        try:
            blob = await self._spool.expect(name, announcement.size_bytes)
            await self._spool.settle(name, blob)
        except HostShort as lacking:  # it passes: the announcement waits
            self._spool.decline(name, lacking.reason)
            raise
        except ProtocolError as refusal:
            self._spool.decline(name, refusal.reason)
            aggregator.post(DoorKind.DECLINED, 0, Decline(name.blob, refusal.reason).encode())
            with suppress(ProtocolError):  # where nothing can be stored, this cannot either
                await self._book.note(aggregator.plan, "blob-declined", reason=refusal.reason.code)
            return
        if blob.is_complete or blob.shared:
            aggregator.post(DoorKind.ARRIVED, 0, name.blob)

    async def _on_event(self, aggregator: Aggregator, message: DoorMessage) -> None:
        source = EventSource(aggregator.token, message.channel) if message.channel else None
        event = decode_event(message.body, plan=aggregator.plan, now=self._book.now())
        told = Told(lambda: self._record(aggregator, event, source), len(message.body))
        await self._later[aggregator].do(told)

    async def _record(self, aggregator: Aggregator, event: PublicEvent, source: EventSource | None) -> None:
        await self._book.record(aggregator.plan, event, source)
        if source is not None:
            aggregator.post(DoorKind.RECORDED, source.sequence)

    async def _on_discard(self, aggregator: Aggregator, message: DoorMessage) -> None:
        blob = decode_blob(message.body)
        self._later[aggregator].drop(blob)
        try:
            await self._spool.discard(BlobName(aggregator.plan, blob))
        except HostShort as lacking:  # its file is gone, which is what makes room
            self._short(lacking.shortage)
            _log.warning("blob-not-forgotten", extra={"reason": lacking.reason.code})

    def _announce_arrival(self, name: BlobName) -> None:
        with suppress(ProtocolError):  # an aggregator that comes back announces what it waits for, and hears then
            self._aggregators.find(name.plan).post(DoorKind.ARRIVED, 0, name.blob)

    async def _serve_data(self, sock: socket.socket, registration: Registration) -> None:
        aggregator = self._aggregators.find_by_token(registration.plan, registration.token)
        if len(aggregator.data_tasks) >= _DATA_CONNECTIONS:
            raise WireError(Reason.QUOTA, f"door: at most {_DATA_CONNECTIONS} data connections")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        aggregator.data_tasks.add(task)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, encode_message(DoorKind.REGISTERED))
            await self._data.serve(sock, aggregator.plan)
        finally:
            aggregator.data_tasks.discard(task)


async def _read_registration(sock: socket.socket) -> Registration:
    kind, _, size = decode_header(bytes(await read_exactly(sock, HEADER_BYTES)))
    if kind is not DoorKind.REGISTER:
        raise WireError(Reason.UNEXPECTED_MESSAGE, "door: REGISTER must come first")
    return Registration.decode(bytes(await read_exactly(sock, size)))


async def _close(writer: StreamWriter) -> None:
    """Let what is buffered leave, for a moment; a peer that does not read is cut off."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        pass  # the peer was faster


async def _send_reason(sock: socket.socket, reason: Reason) -> None:
    with suppress(OSError):  # the peer may be gone already
        await asyncio.get_running_loop().sock_sendall(sock, encode_message(DoorKind.REFUSED, 0, encode_reason(reason)))
