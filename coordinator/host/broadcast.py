"""The messages of downloads, read from disk once for all workers that are at the same place. Trust zone: host."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import BinaryIO

from coordinator.host.spool import Spool, SpooledBlob
from protos.chunks import encode_chunk
from trusted.errors import Reason, RunError

_KEPT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a blob that goes into one message."""

    blob: SpooledBlob
    offset: int
    size_bytes: int


class Broadcast:
    """Reads stretches; the newest of them, 32 MiB in all, are kept for whoever comes next."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._kept: OrderedDict[Stretch, asyncio.Task[bytes]] = OrderedDict()
        self._kept_bytes = 0

    async def message(self, file: BinaryIO, stretch: Stretch) -> bytes:
        """The ``Chunk`` with ``stretch``, as it goes on the wire; ``file`` is its blob's.

        Raises:
            RunError: the file was cut short on this host.
        """
        reading = self._kept.get(stretch)
        if reading is None:
            reading = self._kept[stretch] = asyncio.create_task(self._read(file, stretch))
            self._kept_bytes += stretch.size_bytes
            while self._kept_bytes > _KEPT_BYTES:
                oldest, _ = self._kept.popitem(last=False)
                self._kept_bytes -= oldest.size_bytes
        message: bytes = await asyncio.shield(reading)
        return message

    async def _read(self, file: BinaryIO, stretch: Stretch) -> bytes:
        data = await self._spool.read(file, stretch.offset, stretch.size_bytes)
        if len(data) != stretch.size_bytes:
            raise RunError(Reason.BLOB_UNKNOWN, "blob: its file was cut short on this host")
        encoded: bytes = encode_chunk(data)
        return encoded
