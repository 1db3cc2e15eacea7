"""``Keys.Release`` over gRPC: bounds before work, one key for one stream. Trust zone: the member's own; a shell.

Strangers may call. What they can cost is bounded before any evidence is verified: by address how often and how many at
a time, by frame how large, by exchange how long, and two verifications at a time for everybody together.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from broker.holdings import StoreHoldings
from broker.limits import BrokerLimits
from broker.store import KeyStore
from coordinator.host.config import LOCAL_NAMES, PLAINTEXT
from coordinator.host.peers import PeerGate
from coordinator.host.tls import server_identity
from protos.v1 import keys_pb2, keys_pb2_grpc
from trusted.channel.refusal import refusal
from trusted.errors import KeyReleaseError, ProtocolError, Reason, RunError, WireError
from trusted.keys.broker import KeyExchange
from trusted.keys.states import State

Clock = Callable[[], datetime]
Context = grpc.aio.ServicerContext[Any, Any]
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_log = logging.getLogger(__name__)


def present() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


class KeysService:
    """The gRPC servicer."""

    def __init__(self, store: KeyStore, holdings: StoreHoldings, limits: BrokerLimits, clock: Clock = present) -> None:
        self._store = store
        self._holdings = holdings
        self._limits = limits
        self._gate = PeerGate(limits.of_host())
        self._turns = asyncio.Semaphore(limits.verifications)
        self._clock = clock

    async def Release(self, requests: AsyncIterator[Any], context: Context) -> None:
        """One exchange, however it ends. Whoever is refused learns a number and nothing else."""
        exchange: KeyExchange | None = None
        try:
            with self._gate.attach(context.peer()):
                async with asyncio.timeout(self._limits.exchange_s):
                    exchange = KeyExchange(self._holdings, self._clock())
                    await self._carry(exchange, requests, context)
        except ProtocolError as error:
            await self._refuse(exchange, error, context)
        except TimeoutError:
            await self._refuse(exchange, RunError(Reason.HANDSHAKE_TIMEOUT, "exchange: not ended in time"), context)
        except Exception as error:  # the shell: a bug ends this stream, and its text may quote anything
            _log.error("key-exchange-failed", extra={"outcome": type(error).__name__})
            await context.abort(grpc.StatusCode.INTERNAL, "the broker failed; its log has a line for this")

    async def _carry(self, exchange: KeyExchange, requests: AsyncIterator[Any], context: Context) -> None:
        async for frame in requests:
            if len(frame.data) > self._limits.frame_bytes:
                raise WireError(Reason.TOO_LARGE, f"frame: at most {self._limits.frame_bytes} bytes")
            async with self._turns:
                reply = await asyncio.to_thread(exchange.receive, frame.data, self._clock())
            await context.write(keys_pb2.KeyFrame(data=reply))
            if exchange.state is State.DONE:
                _log.info("key-answered", extra=_named(exchange))
                return

    async def _refuse(self, exchange: KeyExchange | None, error: ProtocolError, context: Context) -> None:
        wanted = exchange.wanted if exchange is not None else None
        named = {} if exchange is None else _named(exchange)
        _log.warning("key-refused", extra={"reason": error.reason.code, **named})
        if error.reason is not Reason.QUOTA:  # those are for the log of the process: they cost no write
            try:
                key_id = wanted.key_id if wanted is not None else None
                await asyncio.to_thread(self._store.note_refusal, key_id, error.reason, self._clock())
            except KeyReleaseError as trouble:
                _log.error("key-log-failed", extra={"reason": trouble.reason.code})
        await context.write(keys_pb2.KeyFrame(data=refusal(error.reason)))


def _named(exchange: KeyExchange) -> dict[str, str]:
    """What a log line may name of an exchange: which key, for which plan."""
    if exchange.wanted is None:
        return {}
    return {"key_id": exchange.wanted.key_id.hex(), "plan": exchange.wanted.plan.hex()}


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a broker listens: ``address:port`` (port 0 picks one), or ``http://127.0.0.1:port`` behind a proxy of this
    machine that has the TLS. ``names`` stand in its certificate, which comes from a CA that it makes in ``tls``.
    """

    address: str
    tls: Path
    names: tuple[str, ...] = LOCAL_NAMES
    limits: BrokerLimits = field(default_factory=BrokerLimits)


class Broker:
    """One broker in this process. ``async with`` starts and stops it."""

    def __init__(self, store: KeyStore, holdings: StoreHoldings, listening: Listening, clock: Clock = present) -> None:
        self._store = store
        self._holdings = holdings
        self._listening = listening
        self._clock = clock
        self._stack = AsyncExitStack()
        self.port = 0
        self.ca_pem: Path | None = None

    async def __aenter__(self) -> Broker:
        limits = self._listening.limits
        server = grpc.aio.server(options=limits.options(), maximum_concurrent_rpcs=limits.streams)
        service = KeysService(self._store, self._holdings, limits, self._clock)
        keys_pb2_grpc.add_KeysServicer_to_server(service, server)
        self.port = self._bind(server)
        await server.start()
        self._stack.push_async_callback(server.stop, limits.exchange_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _bind(self, server: grpc.aio.Server) -> int:
        address = self._listening.address
        try:
            if address.startswith(PLAINTEXT):
                return server.add_insecure_port(_loopback(address))
            identity = server_identity(self._listening.tls, self._listening.names, self._clock())
            self.ca_pem = self._listening.tls / "ca.pem"
            credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.chain_pem)])
            return server.add_secure_port(address, credentials)
        except RuntimeError:
            detail = "keys.listen: cannot bind; is the port taken, or the address not this machine's?"
            raise RunError(Reason.UNREACHABLE, detail) from None


def _loopback(address: str) -> str:
    """``name:port`` of a plaintext address, which must not leave this machine.

    Raises:
        RunError: it would.
    """
    target = address.removeprefix(PLAINTEXT)
    if target.rpartition(":")[0] not in _LOOPBACK:
        raise RunError(Reason.MALFORMED, "keys.listen: http:// is for 127.0.0.1, [::1] and localhost")
    return target


async def serve(
    store: KeyStore, holdings: StoreHoldings, listening: Listening, ready: Callable[[Broker], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then let exchanges under way come to their end.

    Raises:
        ProtocolError: the port cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Broker(store, holdings, listening) as broker:
        ready(broker)
        await stop.wait()
