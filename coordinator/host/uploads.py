"""What an upload holds in memory: a bounded window. Trust zone: host.

What has arrived is written at once; what arrives while that goes on is written next, together.
"""

from __future__ import annotations

import asyncio

from coordinator.host.limits import Limits
from coordinator.host.spool import BlobName, Spool, SpooledBlob


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
