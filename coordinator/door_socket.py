"""One blocking socket that carries door messages. Trust zone: both sides; the enclave's shell and the tests use it.

No threads and no retries: a door that breaks is over, and its owner dials and registers again.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from coordinator.door import (
    HEADER_BYTES,
    Address,
    DoorKind,
    DoorMessage,
    Family,
    Registration,
    decode_header,
    decode_reason,
    encode_header,
)
from trusted.errors import Reason, RunError, WireError

SOCKET_BUFFER_BYTES = 4 << 20
_JOIN_BELOW_BYTES = 64 << 10  # below this one copy is cheaper than a second system call


def connect(address: Address, *, timeout_s: float = 10.0) -> socket.socket:
    """A blocking socket to the door at ``address``, its buffers at 4 MiB.

    Raises:
        RunError: nobody answers there.
    """
    try:
        sock = _dial(address, timeout_s)
    except OSError as error:
        raise RunError(
            Reason.UNREACHABLE, f"door {address.family.value}: {error.strerror or 'no answer'}; is the host running?"
        ) from error
    tune(sock)
    sock.settimeout(None)
    return sock


def _dial(address: Address, timeout_s: float) -> socket.socket:
    if address.family is Family.TCP:
        return socket.create_connection((address.host, address.port), timeout=timeout_s)
    unix = address.family is Family.UNIX
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(address.host if unix else (int(address.host), address.port))
    except OSError:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """Large buffers (measured: 12 GB/s on Unix sockets with them) and no waiting for more to send."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class DoorConnection:
    """Messages over one blocking socket. One thread may send while another receives; neither side is shared further."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._header = bytearray(HEADER_BYTES)

    def __enter__(self) -> DoorConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For ``select``: readable means that :meth:`receive` will soon return."""
        return self._sock.fileno()

    def register(self, registration: Registration) -> None:
        """Say who this is, and wait until the host agrees.

        Raises:
            RunError: the host refuses (another aggregator serves this plan), or hangs up.
        """
        self.send(DoorKind.REGISTER, 0, registration.encode())
        answer = self.receive()
        if answer is None:
            raise RunError(Reason.UNREACHABLE, "door: the host hung up instead of answering the registration")
        if answer.kind is DoorKind.REFUSED:
            raise RunError(reason_of(answer.body), "door: the host refuses this registration")
        if answer.kind is not DoorKind.REGISTERED:
            raise WireError(Reason.UNEXPECTED_MESSAGE, "door: REGISTERED or REFUSED expected")

    def send(self, kind: DoorKind, channel: int = 0, *body: bytes | memoryview) -> None:
        """Send one message whose body is the pieces of ``body``, which are not copied together when large.

        Raises:
            WireError: the body is longer than its kind allows.
            OSError: the connection is over.
        """
        joined: bytes | memoryview = encode_header(kind, channel, sum(len(piece) for piece in body))
        for piece in body:
            if len(joined) + len(piece) > _JOIN_BELOW_BYTES:
                self._sock.sendall(joined)
                joined = piece
            else:
                joined = b"".join((joined, piece))
        self._sock.sendall(joined)

    def receive(self) -> DoorMessage | None:
        """The next message, or None when the peer closed between two messages.

        Raises:
            WireError: what arrives is no message.
            OSError: the connection broke, also in the middle of a message.
        """
        received = self._receive_header()
        if received is None:
            return None
        kind, channel, size = received
        body = bytearray(size)
        self._fill(memoryview(body))
        return DoorMessage(kind, channel, bytes(body))

    def receive_into(self, buffer: memoryview) -> tuple[DoorKind, int]:
        """The next message's kind and body size; the body stands at the start of ``buffer`` (4 MiB, reused).

        The bytes are the host's: copy or open them into private memory, and use nothing that does not authenticate.

        Raises:
            WireError: what arrives is no message, or is longer than ``buffer``.
            OSError: the connection is over.
        """
        received = self._receive_header()
        if received is None:
            raise ConnectionError("door: the peer hung up")
        kind, _, size = received
        if size > len(buffer):
            raise WireError(Reason.TOO_LARGE, f"door {kind.name}: longer than the {len(buffer)} bytes of the buffer")
        self._fill(buffer[:size])
        return kind, size

    def close(self) -> None:
        """End the connection; a thread that waits in :meth:`receive` wakes up."""
        with suppress(OSError):  # the peer may have been faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _receive_header(self) -> tuple[DoorKind, int, int] | None:
        view = memoryview(self._header)
        first = self._sock.recv_into(view)
        if first == 0:
            return None
        self._fill(view[first:])
        return decode_header(bytes(self._header))

    def _fill(self, view: memoryview) -> None:
        while len(view):
            count = self._sock.recv_into(view, 0, socket.MSG_WAITALL)
            if count == 0:
                raise ConnectionError("door: the peer hung up in the middle of a message")
            view = view[count:]


def reason_of(body: bytes) -> Reason:
    """The reason in a REFUSED; of a number that nobody knows, UNEXPECTED_MESSAGE."""
    number = decode_reason(body)
    known = {reason.value for reason in Reason}
    return Reason(number) if number in known else Reason.UNEXPECTED_MESSAGE
