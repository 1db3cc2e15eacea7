"""Blobs over the host's blob port: HTTP/1.1 (docs/protocol.md §9.1). Trust zone: outside the session.

For less work than gRPC has with them: what arrives is received where it is opened from, and what leaves is sent from
where it was sealed. The host may lie in every answer; it names no other machine, and no answer leads to one.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

from trusted.errors import BlobError, ProtocolError, Reason, RunError
from worker.grpc_channel import PASSING, HostAddress, loopback_target
from worker.proxies import PROXY_PORT, credentials_of, proxy_for, split_proxy

_PATH = "/cloister/v1/blob"
_CONNECT_S = 10.0
_SILENCE_S = 120.0  # a host that keeps an upload waiting for its turn says nothing meanwhile
_LAST_WORDS_S = 5.0
_BUFFER_BYTES = 4 << 20
_MAX_DETAIL_BYTES = 4096
_KEPT = 4
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The ``size_bytes`` of a blob from ``offset`` on, which are to be fetched or stored."""

    plan: bytes
    blob: bytes
    offset: int
    size_bytes: int

    def __repr__(self) -> str:
        return f"Wanted(offset={self.offset}, size_bytes={self.size_bytes})"  # a name is a capability


class PortAway(Exception):
    """The port is not to be had: a firewall, perhaps, that lets out the first one alone, or a proxy that answers."""


class Cut(Exception):
    """A transfer broke off, or the host says that it cannot now. ``refusal``: what to tell if no attempt is left."""

    def __init__(self, refusal: ProtocolError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class HttpBlobs:
    """One host's blob port. Connections are kept and used again; any number of threads may transfer at a time."""

    def __init__(self, address: HostAddress, port: int) -> None:
        self._address = address
        self._port = port
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._all: set[_Connection] = set()
        self._closed = False

    def close(self) -> None:
        """End every connection, also those in use: who waits in one is told that it broke."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            used = self._all - set(idle)
        for connection in idle:
            self._drop(connection)
        for connection in used:
            connection.wake()

    def reach(self) -> None:
        """Connect, and be ready for the first transfer.

        Raises:
            PortAway: the port cannot be reached.
        """
        with self._using() as connection:
            connection.reusable = True

    def get(self, wanted: Wanted, *, first_bytes: int, then_bytes: int) -> Iterator[memoryview]:
        """The stored bytes: ``first_bytes`` of them, then ``then_bytes`` at a time, in one room for all: each is good
        until the next is asked for.

        Raises:
            PortAway, Cut, ProtocolError.
        """
        with self._using() as connection:
            answer = connection.ask("GET", wanted)
            left, size = wanted.size_bytes, first_bytes
            while left:
                received = connection.receive(answer, min(size, left))
                yield received
                left, size = left - len(received), then_bytes
            connection.reusable = True

    def put(self, wanted: Wanted, data: Iterable[memoryview]) -> int:
        """Send ``data``, which is all that is wanted; how many bytes of the blob the host then has.

        Raises:
            PortAway, Cut, ProtocolError, and what ``data`` raises.
        """
        with self._using() as connection:
            answer = connection.ask("PUT", wanted, data)
            received = answer.getheader("cloister-received", "")
            connection.end_of(answer)
            if not (received.isascii() and received.isdigit() and len(received) < 16):
                raise PortAway("an answer without cloister-received")
            if answer.getheader("cloister-total") != str(wanted.offset + wanted.size_bytes):
                raise BlobError(Reason.BLOB_LAYOUT, "blob: the host expects another size under this name")
            connection.reusable = True
            return int(received)

    @contextmanager
    def _using(self) -> Iterator[_Connection]:
        """A connection of one's own; kept if it may be used again."""
        with self._lock:
            if self._closed:
                raise PortAway("closed at this end")
            connection = self._idle.pop() if self._idle else None
        if connection is None or connection.is_stale():
            if connection is not None:
                self._drop(connection)
            connection = _Connection(self._address, self._port)
            with self._lock:
                self._all.add(connection)
                if self._closed:
                    connection.wake()
        connection.reusable = False
        try:
            yield connection
        finally:
            with self._lock:
                keep = connection.reusable and not self._closed and len(self._idle) < _KEPT
                if keep:
                    self._idle.append(connection)
            if not keep:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        with self._lock:
            self._all.discard(connection)
        connection.end()


class _Answer(HTTPResponse):
    """One that comes at once: nobody here asks to be told to go on, and a host could say that without end."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]  # in no stub
        if status < 200:
            raise BadStatusLine(str(status))
        return version, status, reason


class _Connection:
    """One connection and the buffer that its answers are received into."""

    def __init__(self, address: HostAddress, port: int) -> None:
        self._http = _dial(address, port)
        self._sock: socket.socket = self._http.sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES + (64 << 10)))
        self.reusable = False

    def wake(self) -> None:
        """Break it, from any thread: who waits in it wakes up."""
        with suppress(OSError):  # the host may have been faster
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def end(self) -> None:
        """Give it up, from the thread that uses it."""
        self.wake()
        self._http.close()

    def is_stale(self) -> bool:
        """Whether the host ended it, or said something that nobody asked for."""
        sock = self._http.sock
        if sock is None:
            return True
        sock.settimeout(0)
        try:
            return len(sock.recv(1)) >= 0
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(_SILENCE_S)

    def ask(self, method: str, wanted: Wanted, data: Iterable[memoryview] = ()) -> HTTPResponse:
        """Send a request; the answer's head, which is one of success."""
        first, last = wanted.offset, wanted.offset + wanted.size_bytes - 1
        with _breaking():
            self._http.putrequest(method, _PATH, skip_accept_encoding=True)
            self._http.putheader("cloister-plan", wanted.plan.hex())
            self._http.putheader("cloister-blob", wanted.blob.hex())
            if method == "PUT":
                self._http.putheader("content-range", f"bytes {first}-{last}/{last + 1}")
                self._http.putheader("content-length", str(wanted.size_bytes))
            else:
                self._http.putheader("range", f"bytes={first}-{last}")
            self._http.endheaders()
        for stretch in data:  # what is raised here is the reader's own
            try:
                self._http.send(stretch)
            except (OSError, HTTPException) as error:
                self._hear_last_words(error)
        with _breaking():
            answer = self._http.getresponse()
        if answer.status not in (200, 206) or answer.length != (wanted.size_bytes if method == "GET" else 0):
            raise self._refusal(answer)
        return answer

    def receive(self, answer: HTTPResponse, size_bytes: int) -> memoryview:
        """The next ``size_bytes`` of an answer, or as many as the buffer holds."""
        view = self._buffer[:size_bytes]
        with _breaking():
            if answer.readinto(view) < len(view):
                raise ConnectionError("the answer is cut")
        return view

    def end_of(self, answer: HTTPResponse) -> None:
        """Read the rest of an answer that has no body."""
        with _breaking():
            answer.read(1)

    def _hear_last_words(self, error: Exception) -> None:
        """Why the host reads no more, if it said so before it hung up.

        Raises:
            Cut, ProtocolError.
        """
        with suppress(OSError, HTTPException):
            self._sock.settimeout(_LAST_WORDS_S)
            answer = self._http.getresponse()
            raise self._refusal(answer)
        raise Cut(_broken(error)) from None

    def _refusal(self, answer: HTTPResponse) -> Exception:
        """What an answer of no success means."""
        with suppress(OSError, HTTPException):
            said = "" if answer.length is None else answer.read(_MAX_DETAIL_BYTES).decode("utf-8", "replace")
            text = answer.getheader("cloister-reason", "")
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
            if number in {reason.value for reason in Reason}:
                refusal = RunError(Reason(number), f"said by the host: {said[:300]}")
                return Cut(refusal) if number in PASSING else refusal
        return PortAway(f"answer {answer.status} without a reason")


@contextmanager
def _breaking() -> Iterator[None]:
    """Name what can happen to a connection."""
    try:
        yield
    except (OSError, HTTPException) as error:
        raise Cut(_broken(error)) from None


def _broken(error: Exception) -> RunError:
    name = type(error).__name__
    return RunError(Reason.UNREACHABLE, f"coordinator.target: the connection to its blob port broke ({name})")


def _dial(address: HostAddress, port: int) -> HTTPConnection:
    """A connection to ``port`` of the host, through the proxy if there is one.

    Raises:
        PortAway: there is none to be had.
    """
    plain = address.target.startswith("http://")
    target = loopback_target(address.target) if plain else address.target
    name = target.rpartition(":")[0].strip("[]")
    try:
        http = HTTPConnection(name, port, timeout=_CONNECT_S) if plain else _secured(address, name, port)
        http.response_class = _Answer
        http.connect()
        http.auto_open = 0  # a connection that the host ended is not made anew behind one's back
    except (OSError, ValueError, HTTPException) as error:
        raise PortAway(type(error).__name__) from None
    for option, value in _KEEPALIVE:
        http.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    http.sock.settimeout(_SILENCE_S)
    return http


def _secured(address: HostAddress, name: str, port: int) -> HTTPSConnection:
    context = ssl.create_default_context(cadata=address.ca_pem.decode() if address.ca_pem else None)
    context.set_alpn_protocols(["http/1.1"])
    url = address.proxy or proxy_for(name)
    if url is None:
        return HTTPSConnection(name, port, timeout=_CONNECT_S, context=context)
    proxy = split_proxy(url)
    http = HTTPSConnection(proxy.hostname or "", proxy.port or PROXY_PORT, timeout=_CONNECT_S, context=context)
    credentials = credentials_of(proxy)
    http.set_tunnel(name, port, headers={} if credentials is None else {"proxy-authorization": credentials})
    return http
