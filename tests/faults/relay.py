"""The network between workers and host, and the door between host and aggregator: both belong to the host's operator.

A process of its own. It knows messages (gRPC's HTTP/2 frames, the door's), and cuts, delays, repeats, drops and swaps
the one that it is told to. HTTP/2 travels in the clear here: what is inside is sealed anyway.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from coordinator.door import HEADER_BYTES, DoorKind

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA = 0  # RFC 9113, frame type


@unique
class Link(Enum):
    """Which of the two."""

    NETWORK = "network"
    DOOR = "door"


@unique
class Way(Enum):
    """Up is towards the aggregator: from a worker to the host, from the host to the aggregator."""

    UP = "up"
    DOWN = "down"


@unique
class Deed(Enum):
    """What happens to a message. Only the door can repeat, drop and swap frames; TCP would not let a network do so."""

    CUT_BEFORE = "cut before"
    CUT_WITHIN = "cut within"
    CUT_AFTER = "cut after"
    DELAY = "delay"
    REPEAT = "repeat"
    DROP = "drop"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class Tampering:
    """``deed`` on the ``nth`` message of ``link`` that goes ``way``, counted over all connections from the start."""

    link: Link
    way: Way
    nth: int
    deed: Deed
    seconds: float = 0.0


class _Cut(Exception):
    """This connection ends here."""


Split = Callable[[asyncio.StreamReader], Awaitable[tuple[bytes, bool]]]


async def _http2(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """One HTTP/2 frame, and whether it carries data of a call."""
    head = await reader.readexactly(9)
    if head == _PREFACE[:9]:
        return head + await reader.readexactly(len(_PREFACE) - 9), False
    size = int.from_bytes(head[:3], "big")
    return head + await reader.readexactly(size), head[3] == _DATA and size > 0


async def _door(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """One message of the door; all count."""
    head = await reader.readexactly(HEADER_BYTES)
    size = int.from_bytes(head[:4], "big") - (HEADER_BYTES - 4)
    return head + await reader.readexactly(size), True


@dataclass(slots=True)
class _Lane:
    """What passes one way on one link."""

    tampering: dict[int, Tampering]
    passed: int = 0
    held: bytes = b""


class Relay:
    """Listens for workers on a port and for aggregators on a Unix socket, and dials the host for each."""

    def __init__(self, host_port: int, host_door: Path, tampering: tuple[Tampering, ...]) -> None:
        self._host_port = host_port
        self._host_door = host_door
        self.lanes = {
            (link, way): _Lane({t.nth: t for t in tampering if (t.link, t.way) == (link, way)})
            for link in Link
            for way in Way
        }

    async def serve(self, listener: socket.socket, door: Path) -> None:
        """Until killed."""
        network = await asyncio.start_server(self._take_network, sock=listener, limit=1 << 24)
        doors = await asyncio.start_unix_server(self._take_door, door, limit=1 << 24)
        async with network, doors:
            await asyncio.Event().wait()

    async def _take_network(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled = asyncio.open_connection("127.0.0.1", self._host_port, limit=1 << 24)
        await self._carry(Link.NETWORK, reader, writer, dialled)

    async def _take_door(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled = asyncio.open_unix_connection(self._host_door, limit=1 << 24)
        await self._carry(Link.DOOR, reader, writer, dialled)

    async def _carry(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialled: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    ) -> None:
        try:
            host_reader, host_writer = await dialled
        except OSError:
            writer.transport.abort()
            return
        outward, inward = (Way.UP, Way.DOWN) if link is Link.NETWORK else (Way.DOWN, Way.UP)
        split = _http2 if link is Link.NETWORK else _door
        pumps = [
            asyncio.create_task(self._pump(link, outward, split, reader, host_writer)),
            asyncio.create_task(self._pump(link, inward, split, host_reader, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in (writer, host_writer):
            with suppress(OSError):
                end.close()

    async def _pump(
        self, link: Link, way: Way, split: Split, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        lane = self.lanes[link, way]
        with suppress(OSError, EOFError, _Cut):
            while True:
                message, counts = await split(source)
                for passed in await self._tamper(lane, link, message, counts, target):
                    target.write(passed)
                await target.drain()

    async def _tamper(
        self, lane: _Lane, link: Link, message: bytes, counts: bool, target: asyncio.StreamWriter
    ) -> list[bytes]:
        if not counts:
            return [message]
        lane.passed += 1
        held, lane.held = lane.held, b""
        behind = [held] if held else []
        deed = lane.tampering.get(lane.passed)
        if deed is None:
            return [message, *behind]
        is_frame = link is Link.DOOR and message[4] == DoorKind.FRAME
        if deed.deed is Deed.CUT_BEFORE:
            raise _Cut
        if deed.deed in (Deed.CUT_WITHIN, Deed.CUT_AFTER):
            target.write(message[: len(message) // 2] if deed.deed is Deed.CUT_WITHIN else message)
            await target.drain()
            raise _Cut
        if deed.deed is Deed.DELAY:
            await asyncio.sleep(deed.seconds)
            return [message, *behind]
        if not is_frame:
            return [message, *behind]
        if deed.deed is Deed.REPEAT:
            return [message, message, *behind]
        if deed.deed is Deed.DROP:
            return behind
        lane.held = message  # swapped with the next one
        return behind


def run_relay(
    listener: socket.socket, door: Path, host_port: int, host_door: Path, tampering: tuple[Tampering, ...]
) -> int:
    """The relay's process. SIGTERM ends it, and it says how many messages passed."""

    async def until_told() -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        relay = Relay(host_port, host_door, tampering)
        serving = asyncio.create_task(relay.serve(listener, door))
        await told.wait()
        serving.cancel()
        passed = {f"{link.value} {way.value}": lane.passed for (link, way), lane in relay.lanes.items()}
        door.with_suffix(".json").write_text(json.dumps(passed))

    asyncio.run(until_told())
    return 0
