"""A coordinator with two ports, as a worker meets it: gRPC in memory, and a blob port that does what a script says."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import pytest

from protos.v1 import cloister_pb2, cloister_pb2_grpc
from trusted.errors import ProtocolError
from worker.dialer import Dialer, Patience

PLAN = b"\x11" * 32
BLOB = b"\xb1" * 16
BRISK = Patience(3, 0.01)
KIB, MIB = 1 << 10, 1 << 20
DATA = os.urandom(300 * KIB + 17)
SIZE = len(DATA)
LONG_S = 30.0  # a hang, whatever else runs on the machine
T = TypeVar("T")


@dataclass
class Store:
    """The one blob that a coordinator has, or takes."""

    held: bytearray
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Store:
        return cls(bytearray(data), len(data))

    def write(self, offset: int, data: bytes) -> None:
        self.held[offset : offset + len(data)] = data


@dataclass(frozen=True)
class Shape:
    """What a blob's header says of its sizes."""

    sealed_bytes: int
    prefix_bytes: int = 300
    segment_bytes: int = 32 << 10


class FirstPort(cloister_pb2_grpc.BlobsServicer):  # type: ignore[misc]
    """gRPC. ``announced``: the port that it names; None: it is a host of before."""

    def __init__(self, store: Store, announced: int | None, credentials: Any = None) -> None:
        self.store, self.announced = store, announced
        self.calls: Counter[str] = Counter()
        self.refusals: list[grpc.StatusCode] = []  # of ``Http``, one for each of the next calls
        self.server = grpc.server(ThreadPoolExecutor(8))
        cloister_pb2_grpc.add_BlobsServicer_to_server(self, self.server)
        if credentials is None:
            self.number = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.number = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()

    def Http(self, request: Any, context: Any) -> Any:
        self.calls["Http"] += 1
        if self.refusals:
            context.abort(self.refusals.pop(0), "not now")
        return super().Http(request, context) if self.announced is None else cloister_pb2.HttpPort(port=self.announced)

    def Stat(self, request: Any, context: Any) -> Any:
        self.calls["Stat"] += 1
        return self._state()

    def Get(self, request: Any, context: Any) -> Iterator[Any]:
        self.calls["Get"] += 1
        for start in range(request.offset, len(self.store.held), 1 << 20):
            yield cloister_pb2.Chunk(data=bytes(self.store.held[start : start + (1 << 20)]))

    def Put(self, request_iterator: Iterator[Any], context: Any) -> Any:
        self.calls["Put"] += 1
        first = next(request_iterator)
        self.store.write(first.offset, first.data)
        offset = first.offset + len(first.data)
        for chunk in request_iterator:
            self.store.write(offset, chunk.data)
            offset += len(chunk.data)
        return self._state()

    def _state(self) -> Any:
        return cloister_pb2.BlobState(received_bytes=len(self.store.held), total_bytes=self.store.size_bytes)


@dataclass(frozen=True)
class Asked:
    """One request that a blob port read, on which of its connections, counted from 1."""

    connection: int
    method: str
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Talk:
    """One connection of a blob port."""

    def __init__(self, port: BlobPort, sock: socket.socket, number: int) -> None:
        self.port, self.store, self.number = port, port.store, number
        self.sock = sock
        self.file = sock.makefile("rb")

    def request(self) -> Asked:
        """The head of the next request."""
        method, fields = self.file.readline().split(b" ")[0].decode(), dict[str, str]()
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            fields[name.lower()] = value.strip()
        if not fields:
            raise EOFError
        text = fields["range"].removeprefix("bytes=") if method == "GET" else fields["content-range"][len("bytes ") :]
        first, _, last = text.partition("/")[0].partition("-")
        asked = Asked(self.number, method, int(first), int(last))
        self.port.asked.append(asked)
        return asked

    def take(self, asked: Asked, most: int = 1 << 40) -> None:
        """Store a request's body, or what comes first of it."""
        offset, left = asked.first, min(asked.size, most)
        while left:
            data = self.file.read(min(left, 1 << 16))
            if not data:
                raise EOFError
            self.store.write(offset, data)
            offset, left = offset + len(data), left - len(data)

    def say(self, *parts: bytes | bytearray) -> None:
        self.sock.sendall(b"".join(parts))

    def flood(self, part: bytes) -> None:
        """Say ``part`` again and again, for as long as anybody listens."""
        while True:
            self.sock.sendall(part)
            self.port.flooded_bytes += len(part)

    def until_they_hang_up(self) -> None:
        while self.file.read(1 << 16):
            pass

    def end(self) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        self.file.close()
        self.sock.close()


Script = Callable[[Talk], None]


def head(status: int, **fields: object) -> bytes:
    lines = [f"HTTP/1.1 {status} Words", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def refusal(reason: object, text: bytes = b"because") -> bytes:
    return head(409, cloister_reason=reason, content_length=len(text), connection="close") + text


def answer(talk: Talk) -> None:
    """One request, as it should be."""
    asked = talk.request()
    if asked.method == "GET":
        data = talk.store.held[asked.first : asked.last + 1]
        talk.say(head(206, content_length=len(data)), data)
    else:
        talk.take(asked)
        size = talk.store.size_bytes
        talk.say(head(200, cloister_received=len(talk.store.held), cloister_total=size, content_length=0))


def honest(talk: Talk) -> None:
    """All requests, as they should be."""
    while True:
        answer(talk)


class BlobPort:
    """A second port: its connections follow ``scripts``, one each, and those after them ``otherwise``."""

    def __init__(self, store: Store, *scripts: Script, otherwise: Script = honest, context: Any = None) -> None:
        self.store, self.scripts, self.otherwise, self.context = store, list(scripts), otherwise, context
        self.asked: list[Asked] = []
        self.connections = self.flooded_bytes = 0
        self._socks: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.number: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self.listener.close()

    def close(self) -> None:
        self.stop()
        for sock in self._socks:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            script = self.scripts.pop(0) if self.scripts else self.otherwise
            threading.Thread(target=self._follow, args=(script, sock, self.connections), daemon=True).start()

    def _follow(self, script: Script, sock: socket.socket, number: int) -> None:
        try:
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
        except OSError:
            sock.close()
            return
        talk = Talk(self, sock, number)
        with suppress(OSError, EOFError, ValueError):
            script(talk)
        talk.end()


@dataclass
class Coordinator:
    """Both ports, and the worker's way to them."""

    store: Store
    port: BlobPort
    first: FirstPort
    ca_pem: bytes | None = None
    notes: list[str] = field(default_factory=list)
    dialers: list[Dialer] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"http://127.0.0.1:{self.first.number}" if self.ca_pem is None else f"localhost:{self.first.number}"

    @property
    def header(self) -> Any:
        return Shape(self.store.size_bytes)

    def dialer(self, patience: Patience = BRISK, **options: Any) -> Dialer:
        note = lambda event, **_: self.notes.append(event)  # noqa: E731
        self.dialers.append(Dialer(self.target, self.ca_pem, PLAN, patience=patience, note=note, **options))
        return self.dialers[-1]

    def get(self, dialer: Dialer, offset: int = 0) -> bytes:
        return b"".join(map(bytes, dialer.get_blob(BLOB, offset, header=self.header)))  # each is good until the next

    def close(self) -> None:
        for dialer in self.dialers:
            dialer.close()
        self.port.close()
        self.first.server.stop(0)


class TlsFiles:
    """A certificate for localhost, its CA, and what serves with it."""

    def __init__(self, identity: Any, folder: Any) -> None:
        self.ca_pem: bytes = identity.ca_pem
        self.credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.chain_pem)])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem", folder / "server.key")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` gives or raises; a failure of the test if it does neither in that time."""
    results, faults = list[T](), list[BaseException]()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if faults:
        raise faults[0]
    return results[0]


def refused(call: Callable[[], Any]) -> ProtocolError:
    """What ``call`` raises, which is a refusal and no other exception."""
    with pytest.raises(ProtocolError) as caught:
        within(LONG_S, call)
    return caught.value


def saying(said: bytes) -> Callable[[Talk], None]:
    """To every request, without reading what it sends."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(said)
        talk.until_they_hang_up()

    return script


def a_minute_passes(dialer: Dialer) -> None:
    """Then a port that was away is asked for again."""
    dialer._ask_again_at = 0.0
