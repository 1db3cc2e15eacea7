"""Puts the host together: one TLS port for workers and people, one door for aggregators. Trust zone: host; shell."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.door import Address
from coordinator.host.aggregators import Aggregators
from coordinator.host.blob_port import BlobPort
from coordinator.host.blobs import BlobsService
from coordinator.host.broadcast import Broadcast
from coordinator.host.collateral_service import CollateralService
from coordinator.host.config import PLAINTEXT, HostConfig
from coordinator.host.door_server import DoorServer, listen
from coordinator.host.following import Follower
from coordinator.host.limits import MAX_MESSAGE_BYTES, Limits
from coordinator.host.metrics import HostMetrics, serve_metrics
from coordinator.host.peers import PeerGate
from coordinator.host.relay import RelayService
from coordinator.host.rpc import Reception
from coordinator.host.run_book import Clock, RunBook
from coordinator.host.runs import OrderDesk, OrderVerifier, RunsService
from coordinator.host.shared_spool import SharedSpool
from coordinator.host.storage import open_storage
from coordinator.host.tls import server_identity
from coordinator.host.transfers import Transfers
from protos.v1 import cloister_pb2_grpc
from trusted.documents.charter import verify_charter
from trusted.documents.order import verify_order
from trusted.errors import Reason, RunError

_GRACE_S = 5.0  # for calls that were cut to put down what they hold
_SERVICES = tuple(f"cloister.v1.{name}" for name in ("Relay", "Blobs", "Runs", "Collateral"))
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + (64 << 10)),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + (64 << 10)),
    # A window that grows with the line would hold megabytes of every upload that waits for its turn. Without it what a
    # read asks for is let in, and 64 KiB of what nobody reads; measured: no slower.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.so_reuseport", 0),  # a second host on the port is an error, not half of the workers
    # Sites sit behind NAT and proxies that forget idle connections within a minute: both sides ping.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostReady:
    """Where a started host is reached. ``ca_pem`` is the file that workers pin; None if one's own is used, or none.

    ``blob_port``: where blobs move over HTTP; None where they do not.
    """

    port: int
    door: str
    ca_pem: Path | None
    blob_port: int | None = None


class Host:
    """One host in this process. ``async with`` starts and stops it."""

    def __init__(self, config: HostConfig, verify: OrderVerifier, clock: Clock) -> None:
        self._config = config
        self._verify = verify
        self._clock = clock
        self._stack = AsyncExitStack()
        self.metrics = HostMetrics()
        self.ready: HostReady | None = None

    async def __aenter__(self) -> Host:
        async with self._stack as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        config, limits = self._config, self._config.limits
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = _identity(config, self._clock())
        storage = await open_storage(config, stack)
        state, spool = storage.state, storage.spool
        self.metrics.spool_bytes.set_function(lambda: spool.reserved_bytes)
        if config.collateral_store is not None:
            self.metrics.watch_collateral(config.collateral_store)
        book = RunBook(state, self.metrics, limits, self._clock)
        await book.load()
        stack.push_async_callback(book.close)
        aggregators = Aggregators(limits)
        desk = OrderDesk(state, book, aggregators, self._verify)
        reception = Reception(PeerGate(limits), self.metrics)

        door = DoorServer(aggregators, spool, book, desk)
        if isinstance(spool, SharedSpool):
            follower = Follower(state, book, desk, spool, aggregators)
            stack.push_async_callback(_cancel, asyncio.create_task(follower.follow()))
        listener = stack.enter_context(_open_door(config.door))
        stack.push_async_callback(_cancel, asyncio.create_task(door.serve(listener)))

        server = grpc.aio.server(options=(*_OPTIONS, *_bounds(limits)), maximum_concurrent_rpcs=limits.calls)
        cloister_pb2_grpc.add_RelayServicer_to_server(RelayService(aggregators, book, reception, limits), server)
        stack.push_async_callback(reception.idle, _GRACE_S)
        transfers, broadcast = Transfers(spool, book, self.metrics, limits), Broadcast(spool)
        blob_port, fast = None, None
        if config.blob_listen is not None:
            fast = BlobPort(transfers, reception)
            stack.push_async_callback(fast.close)
            address = config.blob_listen.removeprefix(PLAINTEXT)
            blob_port = fast.open(address, None if identity is None else identity.context())
        announced = config.blob_public_port or blob_port or 0
        blobs = BlobsService(transfers, broadcast, reception, blob_port=announced)
        server.add_generic_rpc_handlers((blobs.handler(),))
        runs = RunsService(desk, book, reception, self._clock, limits.stall_s)
        cloister_pb2_grpc.add_RunsServicer_to_server(runs, server)
        collateral = CollateralService(config.collateral_store, reception)
        cloister_pb2_grpc.add_CollateralServicer_to_server(collateral, server)

        def drain() -> None:
            aggregators.send_workers_away()
            book.end_watches()
            if fast is not None:
                fast.drain()

        port = await _open_port(server, config.listen, identity, stack, Ending(drain, limits.drain_s))
        if config.metrics_port is not None:
            http, thread = serve_metrics(self.metrics, config.metrics_port)
            stack.callback(thread.join)
            stack.callback(http.shutdown)
        self.ready = HostReady(port, str(config.door), None if identity is None else identity.ca, blob_port)
        _log.info("host-ready", extra={"port": port, "door": str(config.door)})


def _bounds(limits: Limits) -> tuple[tuple[str, int], ...]:
    """What gRPC itself refuses, before this process's Python hears of it."""
    return (
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", round(limits.connect_s * 1000)),
        ("grpc.max_connection_idle_ms", round(limits.idle_s * 1000)),
    )


def _open_door(address: Address) -> socket.socket:
    """The door's listening socket.

    Raises:
        RunError: UNREACHABLE: it cannot be bound.
    """
    try:
        return listen(address)
    except OSError as error:
        why = "does another host serve this state folder, or is the path of the socket longer than 107 characters?"
        raise RunError(Reason.UNREACHABLE, f"host.door: cannot bind ({error.strerror or error}); {why}") from None


@dataclass(frozen=True, slots=True)
class Ending:
    """How calls end when the host stops: ``drain`` ends those that have no end, transfers have ``drain_s`` seconds."""

    drain: Callable[[], None]
    drain_s: float


async def _open_port(
    server: grpc.aio.Server, address: str, identity: _Shown | None, stack: AsyncExitStack, ending: Ending
) -> int:
    """Add health and reflection, bind, start.

    When ``stack`` unwinds: say NOT_SERVING, take no new calls, tell workers and watchers to go on elsewhere or later,
    and let transfers come to their end.
    """
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]  # its stubs leave aio out
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        if identity is None:
            port = server.add_insecure_port(address.removeprefix(PLAINTEXT))
        else:
            credentials = grpc.ssl_server_credentials([(identity.key.read_bytes(), identity.chain.read_bytes())])
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise RunError(
            Reason.UNREACHABLE, "host.listen: cannot bind; is the port taken, or the address not this machine's?"
        )
    await server.start()
    stack.push_async_callback(_stop, server, ending)
    stack.push_async_callback(checks.enter_graceful_shutdown)
    for name in ("", *_SERVICES):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return port


async def _stop(server: grpc.aio.Server, ending: Ending) -> None:
    stopping = asyncio.create_task(server.stop(ending.drain_s))
    await asyncio.sleep(0)  # from here on nobody new comes in
    ending.drain()
    await stopping


@dataclass(frozen=True, slots=True)
class _Shown:
    """What both ports show, PEM files; ``ca``: what workers pin, where this host made it."""

    chain: Path
    key: Path
    ca: Path | None

    def context(self) -> ssl.SSLContext:
        """For the blob port. gRPC brings a TLS of its own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def _identity(config: HostConfig, now: datetime) -> _Shown | None:
    """What the ports show; nothing where a proxy on this machine has the TLS."""
    if config.listen.startswith(PLAINTEXT):
        return None
    if config.certificate is not None and config.certificate_key is not None:
        return _Shown(config.certificate, config.certificate_key, None)
    folder = config.state / "tls"
    server_identity(folder, config.names, now)
    return _Shown(folder / "server.pem", folder / "server.key", folder / "ca.pem")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def serve(config: HostConfig, ready: Callable[[HostReady], None]) -> None:
    """Run a host until SIGTERM or SIGINT, then end its calls and close its store.

    Raises:
        ProtocolError: the charter does not hold, the stores are away, or the port or the door cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Host(config, order_verifier(config.charter, _utc_now()), _utc_now) as host:
        if host.ready is not None:
            ready(host.ready)
        await stop.wait()
        _log.info("host-stopping")


def order_verifier(charter: Path, now: datetime) -> OrderVerifier:
    """Orders are verified by the members' keys in the charter of this file.

    Raises:
        ProtocolError: the file cannot be read, or the charter does not hold.
    """
    try:
        envelope = charter.read_bytes()
    except OSError as error:
        raise RunError(Reason.MISSING_FIELD, f"host.charter {charter}: {error.strerror}") from None
    verified = verify_charter(envelope, now=now)
    return lambda order, when: verify_order(order, verified, when)


def _utc_now() -> datetime:
    return datetime.now(UTC)
