"""Taking uploads in: so many at a time, each with a bounded window, in fair turns. Trust zone: host.

Rules: an upload holds a turn while its bytes flow, and gives it back when it stands still or has had its share, so that
slow workers hold up nobody and a thousand of them hold no more memory than ``limits.uploads`` do. What has arrived is
written at once; what arrives while that goes on is written next, together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

from coordinator.host.limits import Limits
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from protos.chunks import PutChunk
from trusted.errors import Reason, RunError

_STANDS_STILL_S = 0.5
_SHARE_BYTES = 8 << 20


class Turns:
    """At most ``limits.uploads`` streams are read from at any time; the others wait in the order they came."""

    def __init__(self, limits: Limits, *, waited: Callable[[float], None] = lambda seconds: None) -> None:
        self._free = asyncio.Semaphore(limits.uploads)
        self._waited = waited
        self.stall_s = limits.stall_s

    async def take(self) -> None:
        """Wait for a turn; ``waited`` is told how many seconds that took, where it took any."""
        if not self._free.locked():
            await self._free.acquire()
            return
        begun = monotonic()
        try:
            await self._free.acquire()
        finally:
            self._waited(monotonic() - begun)

    def give_back(self) -> None:
        """Let the next one have it."""
        self._free.release()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a turn."""
        return self._free.locked()


class Incoming:
    """The messages of one upload, each read in a turn. ``async with`` gives the turn back, whatever happens."""

    def __init__(self, messages: AsyncIterator[PutChunk], turns: Turns) -> None:
        self._messages = messages
        self._turns = turns
        self._holds = False
        self._share = 0

    async def __aenter__(self) -> Incoming:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def next(self) -> PutChunk | None:
        """The next message, None at the end.

        Raises:
            RunError: UNREACHABLE: nothing came for ``limits.stall_s``.
        """
        await self._take()
        reading = asyncio.ensure_future(anext(self._messages, None))
        try:
            done, _ = await asyncio.wait({reading}, timeout=_STANDS_STILL_S)
            if not done:
                self._give_back()
                done, _ = await asyncio.wait({reading}, timeout=self._turns.stall_s)
            if not done:
                raise RunError(
                    Reason.UNREACHABLE, "blob: the upload stood still for too long; continue where it stopped"
                )
        finally:
            if not reading.done():
                reading.cancel()
        message = reading.result()
        self._share += len(message.data) if message is not None else 0
        if self._share >= _SHARE_BYTES and self._turns.wanted:
            self._give_back()
        return message

    async def _take(self) -> None:
        if not self._holds:
            await self._turns.take()
            self._holds, self._share = True, 0

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._turns.give_back()


class Window:
    """What an upload has sent and the disk does not hold yet, at most ``limits.upload_window_bytes`` and once more."""

    def __init__(self, spool: Spool, name: BlobName, offset: int, limits: Limits) -> None:
        self.blob: SpooledBlob | None = None  # once something was written: another replica may have completed it
        self._spool = spool
        self._name = name
        self._offset = offset
        self._limit = limits.upload_window_bytes
        self._pieces: list[memoryview] = []
        self._size = 0
        self._room = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, piece: memoryview) -> None:
        """Take ``piece``, waiting while the window is full.

        Raises:
            ProtocolError: the spool refuses it, or one before.
        """
        while self._size >= self._limit:
            self._room.clear()
            await self._room.wait()
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        self._pieces.append(piece)
        self._size += len(piece)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Wait until everything that was added is on disk.

        Raises:
            ProtocolError: the spool refused some of it.
        """
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        try:
            while self._pieces:
                pieces, self._pieces, self._size = self._pieces, [], 0
                self._room.set()
                size = sum(map(len, pieces))
                self.blob = await self._spool.upload(self._name, self._offset, pieces)
                self._offset += size
        finally:
            self._pieces, self._size = [], 0  # after a refusal nothing more is taken
            self._room.set()
