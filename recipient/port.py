"""``Scoring.Attach``: the runtime's one gRPC port. Trust zone: recipient TEE; this is its network shell.

Back-pressure: a frame is taken from gRPC only when the answer to the one before was taken by its reader. One request is
scored at a time, in the order of arrival; whoever waits holds one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
import grpc.aio

from protos.v1 import scoring_pb2, scoring_pb2_grpc
from recipient.desk import Desk, Note
from recipient.limits import MAX_MESSAGE_BYTES, ServiceLimits
from trusted.channel.refusal import refusal
from trusted.errors import ChannelError, ProtocolError, Reason, RunError
from trusted.scoring.service import Asked, Served, ServiceSession
from trusted.scoring.states import State
from trusted.wire import MAX_RECORD_BYTES

PLAINTEXT = "http://"
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_THREADS = 4  # evidence and key exchanges take milliseconds of a core each; the app scores in its own process
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the date is, by somebody's word, and what only counts."""

    now: Callable[[], datetime]
    counted_s: Callable[[], float]


class ScoringService:
    """The gRPC servicer, and what else looks at the desk: renewals."""

    def __init__(self, served: Served, desk: Desk, clocks: Clocks, limits: ServiceLimits, note: Note) -> None:
        self._served = served
        self._desk = desk
        self._clocks = clocks
        self._limits = limits
        self._note = note
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="scoring")
        self._at_the_desk = asyncio.Lock()
        self._sessions = 0
        self._proofs = float(limits.proofs_at_once)
        self._proofs_at = clocks.counted_s()
        self._draining = asyncio.Event()

    async def Attach(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Carry one session until its client, a limit or the end of this runtime ends it."""
        try:
            self._enter()
        except ProtocolError as error:
            await self._say(context, refusal(error.reason))
            return
        self._sessions += 1
        session = ServiceSession(self._served)
        try:
            await self._converse(session, requests, context)
        except ProtocolError as error:
            self._note("session-refused", reason=error.reason.code, member=session.member or None)
            await self._say(context, refusal(error.reason))
        finally:
            self._sessions -= 1

    def drain(self) -> None:
        """Take nobody new, and end each session after the answer that is under way."""
        self._draining.set()

    async def end(self, reason: Reason) -> None:
        """Forget the model, behind the request that is under way."""
        async with self._at_the_desk:
            await self._aside(self._desk.end, reason)

    async def checked(self) -> None:
        """Look whether the key may still be used, so that the model goes when nobody asks for it too."""
        async with self._at_the_desk:
            try:
                await self._aside(self._desk.require_open, self._clocks.now(), self._clocks.counted_s())
            except ProtocolError:
                return

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _converse(self, session: ServiceSession, requests: AsyncIterator[Any], context: Context) -> None:
        frames = aiter(requests)
        while True:
            if self._draining.is_set():
                raise RunError(Reason.SCORING_DRAINS, "service: it is stopping; ask again later, or elsewhere")
            frame = await self._next(frames, session.state)
            if frame is None:
                return
            taken = await self._aside(session.receive, frame)
            if isinstance(taken, Asked):
                async with self._at_the_desk:
                    moment = self._clocks.now(), self._clocks.counted_s()
                    answer = await self._aside(self._desk.answer, taken, *moment)
                taken = session.answer(answer)
            await self._say(context, taken)

    async def _next(self, frames: AsyncIterator[Any], state: State) -> bytes | None:
        """The client's next frame; None when it, or this runtime, has ended.

        Raises:
            ProtocolError: HANDSHAKE_TIMEOUT: it says nothing. TOO_LARGE. SCORING_DRAINS: this runtime stops meanwhile.
        """
        wait_s = self._limits.idle_s if state is State.OPEN else self._limits.handshake_s
        coming = asyncio.ensure_future(anext(frames, None))
        stopping = asyncio.ensure_future(self._draining.wait())
        try:
            done, _ = await asyncio.wait({coming, stopping}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not coming.done():
                coming.cancel()
        if coming in done:
            message = coming.result()
            if message is not None and len(message.data) > MAX_RECORD_BYTES:
                raise RunError(Reason.TOO_LARGE, f"frame: at most {MAX_RECORD_BYTES} bytes")
            return None if message is None else bytes(message.data)
        if stopping in done:
            raise RunError(Reason.SCORING_DRAINS, "service: it is stopping; ask again later, or elsewhere")
        raise ChannelError(Reason.HANDSHAKE_TIMEOUT, "session: its client says nothing")

    async def _say(self, context: Context, frame: bytes) -> None:
        """Send one frame; a reader that takes none has its stream ended, and pins no memory."""
        try:
            async with asyncio.timeout(self._limits.stall_s):
                await context.write(scoring_pb2.ScoringFrame(data=frame))
        except TimeoutError:
            raise asyncio.CancelledError from None

    def _enter(self) -> None:
        """Refuse what would cost more than this runtime gives to everybody.

        Raises:
            RunError: SCORING_DRAINS, QUOTA.
        """
        if self._draining.is_set():
            raise RunError(Reason.SCORING_DRAINS, "service: it is stopping; ask again later, or elsewhere")
        now, limits = self._clocks.counted_s(), self._limits
        self._proofs = min(limits.proofs_at_once, self._proofs + (now - self._proofs_at) * limits.proofs_per_s)
        self._proofs_at = now
        if self._sessions >= limits.sessions or self._proofs < 1:
            raise RunError(Reason.QUOTA, "service: as many sessions as it holds; come back in a moment")
        self._proofs -= 1

    async def _aside(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do ``work`` where it blocks nobody."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the port listens: ``address:port`` with the PEM of a key and its chain, or plaintext on loopback."""

    listen: str
    key_pem: bytes
    chain_pem: bytes

    def __repr__(self) -> str:
        return f"Address(listen={self.listen!r})"

    def add_to(self, server: grpc.aio.Server) -> int:
        """Bind; the port.

        Raises:
            RunError: UNREACHABLE: it cannot be bound. MALFORMED: plaintext that would leave this machine.
        """
        try:
            if self.listen.startswith(PLAINTEXT):
                place = self.listen.removeprefix(PLAINTEXT)
                if place.rpartition(":")[0] not in _LOOPBACK:
                    rule = "http:// is for 127.0.0.1, [::1] and localhost; else address:port with a certificate"
                    raise RunError(Reason.MALFORMED, f"options.listen: {rule}")
                port = server.add_insecure_port(place)
            else:
                credentials = grpc.ssl_server_credentials([(self.key_pem, self.chain_pem)])
                port = server.add_secure_port(self.listen, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise RunError(Reason.UNREACHABLE, "options.listen: cannot bind; is the port taken, or not the enclave's?")
        return port


async def open_port(service: ScoringService, address: Address, limits: ServiceLimits, stack: AsyncExitStack) -> int:
    """Start the server; when ``stack`` unwinds it drains, and stops. The port.

    Raises:
        RunError: as :meth:`Address.add_to`.
    """
    options = (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", round(limits.connect_s * 1000)),
        ("grpc.max_connection_idle_ms", round(limits.idle_s * 1000)),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.so_reuseport", 0),
    )
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.sessions + limits.connections)
    scoring_pb2_grpc.add_ScoringServicer_to_server(service, server)
    port = address.add_to(server)
    await server.start()
    stack.callback(service.close)
    stack.push_async_callback(server.stop, limits.drain_s)
    stack.callback(service.drain)
    return port
