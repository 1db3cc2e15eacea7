"""What is said on a connection to a real host's blob port, by hand."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from secrets import token_bytes

import grpc

from coordinator.door import DoorKind
from tests.host.conftest import PLAN, DoorPeer, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, name_of
from trusted.errors import Reason
from worker.dialer import Dialer

PATH = "/cloister/v1/blob"
WAIT_S = 20
THRESHOLD_BYTES = 64 << 10  # below, the dialler takes gRPC
Make = Callable[..., RunningHost]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the dialler wants to know of a header."""

    sealed_bytes: int
    prefix_bytes: int = 100
    segment_bytes: int = MIB + 16


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def reason(self) -> Reason:
        return Reason(int(self.fields["cloister-reason"]))

    @property
    def refusal(self) -> tuple[int, Reason]:
        assert self.body
        assert self.fields["connection"] == "close"
        return self.status, self.reason


class Talk:
    """One connection to the blob port, and what is said on it."""

    def __init__(self, host: RunningHost, *, buffer_bytes: int = 0, greets: bool = True) -> None:
        name = "localhost" if host.ready.ca_pem else "127.0.0.1"
        self.sock = dial(name, host.ready.blob_port or 0, buffer_bytes)
        if greets and host.ready.ca_pem is not None:
            context = ssl.create_default_context(cadata=host.ca.decode())
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, method: str, blob: bytes, first: int, size: int, **fields: str) -> Talk:
        """Send a head; ``fields`` are added, in place of those of the same name."""
        ranged = {"range": f"bytes={first}-{first + size - 1}"}
        if method == "PUT":
            ranged = {"content-range": f"bytes {first}-{first + size - 1}/*", "content-length": str(size)}
        names = {"host": "h", "cloister-plan": PLAN.hex(), "cloister-blob": blob.hex()}
        told = names | ranged | {name.replace("_", "-"): value for name, value in fields.items()}
        return self.say(f"{method} {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", "")

    def say(self, *lines: str) -> Talk:
        return self.send("\r\n".join(lines).encode())

    def send(self, data: bytes) -> Talk:
        self.sock.sendall(data)
        return self

    def answer(self) -> Answer:
        with self.begun() as response:
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def begun(self) -> HTTPResponse:
        """An answer whose head is read."""
        response = HTTPResponse(self.sock)
        response.begin()
        return response

    def put(self, blob: bytes, data: bytes, first: int = 0, **fields: str) -> Answer:
        return self.ask("PUT", blob, first, len(data), **fields).send(data).answer()

    def get(self, blob: bytes, first: int, size: int, **fields: str) -> Answer:
        return self.ask("GET", blob, first, size, **fields).answer()

    def is_over(self) -> bool:
        """Whether the host hangs up and says nothing more."""
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def dial(name: str, port: int, buffer_bytes: int = 0) -> socket.socket:
    """A connection; a small buffer has to be asked for before it is made."""
    for family, kind, protocol, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(WAIT_S)
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            sock.close()
            continue
        return sock
    raise ConnectionRefusedError(name)


def door_of(host: RunningHost, plan: bytes = PLAN) -> DoorPeer:
    """The one aggregator of ``plan``."""
    peers = (client for client in host.clients if isinstance(client, DoorPeer) and client.plan == plan)
    return next(peers, None) or host.door(plan)


def announced(host: RunningHost, size: int, plan: bytes = PLAN) -> bytes:
    """A new blob of ``size`` bytes that a worker may upload."""
    blob, dialer = door_of(host, plan).expect(size), host.dialer(plan)
    until(lambda: knows(dialer, blob, plan))
    return blob


def knows(dialer: Dialer, blob: bytes, plan: bytes = PLAN) -> bool:
    with suppress(grpc.RpcError):
        return dialer._blobs.Stat(name_of(blob, plan)) is not None
    return False


def stored(host: RunningHost, data: bytes) -> bytes:
    """A new blob that the aggregator wrote."""
    peer, blob = door_of(host), token_bytes(16)
    for start in range(0, len(data), 4 * MIB):
        part = data[start : start + 4 * MIB]
        assert peer.write(blob, start, part, last=start + len(part) == len(data)) is DoorKind.STORED
    return blob


def calls(host: RunningHost, method: str, code: str = "OK") -> float:
    return host.metric("cloister_rpc_duration_seconds_count", method=method, code=code)


def got(dialer: Dialer, blob: bytes, size: int, offset: int = 0) -> bytes:
    return b"".join(bytes(piece) for piece in dialer.get_blob(blob, offset, header=Shape(size)))  # type: ignore[arg-type]


PLAIN = {"listen": "http://127.0.0.1:0", "blob_listen": "http://127.0.0.1:0"}


def in_threads(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def calls_under_way(host: RunningHost) -> float:
    return host.metric("cloister_open_calls")
