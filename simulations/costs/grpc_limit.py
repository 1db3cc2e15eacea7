"""What bare gRPC needs to move the bytes of a round: no sealing, no store, no fold. Trust zone: developer's machine.

One aio server process and one process for each worker, on loopback, with the settings that measured best: identity
serializers, messages of 1 MiB, malloc told to keep memory. What is sent is one buffer again and again, and what
arrives is dropped, so nothing but gRPC is measured.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import grpc.aio

from coordinator.host.tls import ServerIdentity, server_identity
from simulations.costs.processes import START_S, heard, process
from trusted.allocator import keep_chunk_memory

PIECE_BYTES = 1 << 20
_MEGABYTE = 1_000_000
_SERVICE = "benchmark.Limit"
_OPTIONS = (("grpc.max_receive_message_length", 2 * PIECE_BYTES),)
_PIECE = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What moves in one pass: each worker first takes ``down_bytes``, then gives ``up_bytes``.

    Attributes:
        workers: client processes.
        tls: under TLS 1.3, server authenticated, as workers reach a host.
    """

    workers: int
    down_bytes: int
    up_bytes: int
    tls: bool = False

    @property
    def size_bytes(self) -> int:
        """All that crosses the wire in a pass, framing left out."""
        return self.workers * (self.down_bytes + self.up_bytes)


def grpc_limit(*, workers: int, megabytes: float, tls: bool = False, passes: int = 3) -> float:
    """Seconds in which bare gRPC moves a round: ``workers`` downloads and uploads of ``megabytes`` (decimal) each.

    Raises:
        NotMeasured: a process of the measurement failed or was late.
    """
    size = round(megabytes * _MEGABYTE)
    return statistics.median(move(Traffic(workers, size, size, tls), passes=passes))


def move(traffic: Traffic, *, passes: int) -> tuple[float, ...]:
    """The seconds of each pass, from the word to start until the last worker is through; one pass before warms up.

    Raises:
        NotMeasured: a process of the measurement failed or was late.
    """
    timeout_s = 60.0 + traffic.size_bytes / (20 * _MEGABYTE)  # a hundredth of what a quiet machine does
    with ExitStack() as stack:
        identity = _identity() if traffic.tls else None
        server = stack.enter_context(process(_serve, identity))
        port = heard(server, START_S)
        certificate = None if identity is None else identity.ca_pem
        clients = [stack.enter_context(process(_work, traffic, port, certificate)) for _ in range(traffic.workers)]
        for client in clients:
            heard(client, START_S)
        return tuple(_one_pass(clients, timeout_s) for _ in range(1 + passes))[1:]


def _one_pass(clients: list[Connection], timeout_s: float) -> float:
    start = time.perf_counter()
    for client in clients:
        client.send("go")
    for client in clients:
        heard(client, timeout_s)
    return time.perf_counter() - start


def _identity() -> ServerIdentity:
    with tempfile.TemporaryDirectory() as folder:
        return server_identity(Path(folder) / "tls", ["localhost"], datetime.now(UTC))


def _pieces(size_bytes: int) -> Iterator[bytes]:
    for start in range(0, size_bytes, PIECE_BYTES):
        yield _PIECE if size_bytes - start >= PIECE_BYTES else _PIECE[: size_bytes - start]


def _serve(parent: Connection, identity: ServerIdentity | None) -> None:
    """The server process: says its port, and serves until it is killed."""
    keep_chunk_memory()
    asyncio.run(_serving(parent, identity))


async def _serving(parent: Connection, identity: ServerIdentity | None) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    handlers = {
        "Down": grpc.unary_stream_rpc_method_handler(_down),
        "Up": grpc.stream_unary_rpc_method_handler(_up),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    if identity is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = [(identity.key_pem, identity.chain_pem)]
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials(pair))
    await server.start()
    parent.send(port)
    await server.wait_for_termination()


async def _down(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
    for piece in _pieces(int.from_bytes(request, "big")):
        yield piece


async def _up(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    size = 0
    async for piece in requests:
        size += len(piece)
    return size.to_bytes(8, "big")


def _work(parent: Connection, traffic: Traffic, port: int, certificate: bytes | None) -> None:
    """A worker process: a pass at each word of the parent, until it is killed."""
    keep_chunk_memory()
    with _channel(port, certificate) as channel:
        down = channel.unary_stream(f"/{_SERVICE}/Down", bytes, bytes)  # of bytes, ``bytes`` makes no copy
        up = channel.stream_unary(f"/{_SERVICE}/Up", bytes, bytes)
        grpc.channel_ready_future(channel).result(timeout=START_S)
        parent.send("ready")
        while parent.recv() == "go":
            taken = sum(map(len, down(traffic.down_bytes.to_bytes(8, "big"))))
            given = int.from_bytes(up(_pieces(traffic.up_bytes)), "big")
            if (taken, given) != (traffic.down_bytes, traffic.up_bytes):
                raise RuntimeError("gRPC lost bytes")
            parent.send("done")


def _channel(port: int, certificate: bytes | None) -> grpc.Channel:
    if certificate is None:
        return grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
    return grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(certificate), options=_OPTIONS)
