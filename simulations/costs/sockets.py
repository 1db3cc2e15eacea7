"""How fast two processes pass bytes through a socket of this machine. Trust zone: the developer's machine.

1 MiB a call, one buffer again and again, received into one buffer and dropped.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from simulations.costs.not_measured import NotMeasured
from simulations.costs.rates import Rate

_PIECE_BYTES = 1 << 20
_SOCKET_BUFFER_BYTES = 4 << 20
_TIMEOUT_S = 60.0


def socket_rates(*, megabytes: int, passes: int) -> list[Rate]:
    """A Unix socket with large buffers, and TCP on loopback: ``passes`` of ``megabytes`` MiB each, one before them.

    Raises:
        NotMeasured: the other process failed or was late.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    unix = _rate("Unix socket", ours, theirs, (megabytes, passes))
    return [unix, _rate("TCP on loopback", *_tcp_pair(), (megabytes, passes))]


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname(), timeout=_TIMEOUT_S)
        theirs, _ = listening.accept()
    return ours, theirs


def _rate(what: str, ours: socket.socket, theirs: socket.socket, much: tuple[int, int]) -> Rate:
    megabytes, passes = much
    with ours, _receiver(theirs, megabytes):
        ours.settimeout(_TIMEOUT_S)
        try:
            taken = tuple(_pass(ours, megabytes) for _ in range(1 + passes))
        except OSError as error:
            raise NotMeasured(f"{what}: {error}", "Measure on a quieter machine.") from None
    return Rate(what, megabytes * _PIECE_BYTES, taken[1:])


def _pass(ours: socket.socket, megabytes: int) -> float:
    piece = bytes(_PIECE_BYTES)
    start = time.perf_counter()
    for _ in range(megabytes):
        ours.sendall(piece)
    if not ours.recv(1):
        raise ConnectionError("the receiver ended early")
    return time.perf_counter() - start


@contextmanager
def _receiver(theirs: socket.socket, megabytes: int) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(theirs, megabytes), daemon=True)
    process.start()
    theirs.close()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _receive(theirs: socket.socket, megabytes: int) -> None:
    """The other process: answers with a byte after each pass, until the sender hangs up."""
    buffer = bytearray(_PIECE_BYTES)
    while True:
        for _ in range(megabytes):
            if theirs.recv_into(buffer, _PIECE_BYTES, socket.MSG_WAITALL) != _PIECE_BYTES:
                return
        theirs.sendall(b"\1")
