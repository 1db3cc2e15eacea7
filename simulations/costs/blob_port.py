"""How fast a real host takes blobs from a worker and gives them, over its blob port. Trust zone: developer's machine.

A host process with its store, one worker process, and this process as the aggregator that announces and writes. In
plaintext on loopback, as behind a proxy on the host's machine; the blobs are what they are: nobody seals or opens.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_bytes
from typing import Any, NoReturn

from coordinator.door import Address, Announcement, BlobWrite, DoorKind, DoorRole, Registration
from coordinator.door_socket import DoorConnection, connect
from coordinator.host.config import HostConfig
from simulations.costs.processes import START_S, heard, process
from simulations.costs.rates import Rate
from trusted.allocator import keep_chunk_memory
from trusted.errors import Reason, RunError

_PIECE_BYTES = 4 << 20
_PLAN = bytes(32)
_NAME_BYTES = 16


def blob_port_rates(*, megabytes: int, passes: int) -> tuple[Rate, Rate]:
    """Fetching one blob of so many MB (decimal), and storing one: the seconds of each pass, one before them.

    Raises:
        NotMeasured: a process of the measurement failed or was late.
    """
    size = megabytes * 1_000_000
    timeout_s = 60.0 + size / 20e6  # a hundredth of what a quiet machine does
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blob-port-")))
        ports = heard(stack.enter_context(process(_serve, folder)), START_S)
        aggregator = _Aggregator(stack, folder)
        model = aggregator.write(size)
        worker = stack.enter_context(process(_work, *ports, size))
        heard(worker, START_S)
        down, up = [], []
        for _ in range(1 + passes):
            down.append(_timed(worker, ("get", model), timeout_s))
            blob = aggregator.announced(size)
            up.append(_timed(worker, ("put", blob), timeout_s))
            aggregator.discard(blob)
    return Rate("blob port down", size, tuple(down[1:])), Rate("blob port up, to disk", size, tuple(up[1:]))


def _timed(worker: Connection, word: tuple[str, bytes], timeout_s: float) -> float:
    begun = time.perf_counter()
    worker.send(word)
    heard(worker, timeout_s)
    return time.perf_counter() - begun


class _Aggregator:
    """The other end of the host's door."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        door, token = Address.parse(f"unix:{folder}/door.sock"), token_bytes(_NAME_BYTES)
        self._control, self._data = (stack.enter_context(DoorConnection(connect(door))) for _ in range(2))
        self._control.register(Registration(_PLAN, DoorRole.CONTROL, token))
        self._data.register(Registration(_PLAN, DoorRole.DATA, token))
        self._answer = memoryview(bytearray(_PIECE_BYTES))

    def write(self, size_bytes: int) -> bytes:
        """A new blob of so many bytes."""
        blob, piece = token_bytes(_NAME_BYTES), bytes(_PIECE_BYTES)
        for offset in range(0, size_bytes, _PIECE_BYTES):
            part = memoryview(piece)[: size_bytes - offset]
            head = BlobWrite(blob, offset, offset + len(part) == size_bytes).encode()
            self._data.send(DoorKind.WRITE, 0, head, part)
            self._data.receive_into(self._answer)
        return blob

    def announced(self, size_bytes: int) -> bytes:
        """The name of a blob that may be uploaded."""
        blob = token_bytes(_NAME_BYTES)
        self._control.send(DoorKind.EXPECT, 0, Announcement(blob, size_bytes).encode())
        return blob

    def discard(self, blob: bytes) -> None:
        """Let the host use its file again; it said that the blob arrived before it heard this."""
        while (message := self._control.receive()) is not None and message.kind is not DoorKind.ARRIVED:
            pass
        self._control.send(DoorKind.DISCARD, 0, blob)


def _serve(parent: Connection, folder: Path) -> None:
    """The host process: says its ports, and serves until it is killed."""
    keep_chunk_memory()
    asyncio.run(_serving(parent, folder))


async def _serving(parent: Connection, folder: Path) -> None:
    from coordinator.host.server import Host

    plain, door = "http://127.0.0.1:0", Address.parse(f"unix:{folder}/door.sock")
    config = HostConfig(folder / "host", plain, door, folder / "charter", blob_listen=plain)
    async with Host(config, _no_orders, lambda: datetime.now(UTC)) as host:
        if host.ready is not None:
            parent.send((host.ready.port, host.ready.blob_port))
        await asyncio.Event().wait()


def _no_orders(*_: Any) -> NoReturn:
    raise RunError(Reason.RUN_STATE, "order: nothing is run here")


def _work(parent: Connection, port: int, blob_port: int, size_bytes: int) -> None:
    """A worker process: a transfer at each word of the parent, until it is killed."""
    keep_chunk_memory()
    from worker.grpc_channel import HostAddress
    from worker.http_blobs import Cut, HttpBlobs, Wanted

    blobs = HttpBlobs(HostAddress(f"http://127.0.0.1:{port}", None), blob_port)
    piece = memoryview(bytes(_PIECE_BYTES))

    def pieces() -> Iterator[memoryview]:
        for offset in range(0, size_bytes, _PIECE_BYTES):
            yield piece[: size_bytes - offset]

    parent.send("ready")
    while True:
        word, blob = parent.recv()
        wanted = Wanted(_PLAN, blob, 0, size_bytes)
        moved = 0
        while moved != size_bytes:  # the door may be behind the worker: then the blob is not known yet
            try:
                if word == "get":
                    moved = sum(map(len, blobs.get(wanted, first_bytes=_PIECE_BYTES, then_bytes=_PIECE_BYTES)))
                else:
                    moved = blobs.put(wanted, pieces())
            except (RunError, Cut):
                time.sleep(0.001)
        parent.send("done")
