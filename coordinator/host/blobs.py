"""``Blobs.Put|Get|Stat``: sealed blobs in, out, and how far. Trust zone: host.

Chunks of 1 MiB; each is copied once out of its message and written as it is. A name is a capability: no other right is
asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from coordinator.host.limits import CHUNK_BYTES, Limits
from coordinator.host.metrics import HostMetrics
from coordinator.host.rpc import Context, Reception
from coordinator.host.run_book import RunBook
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from protos.v1 import cloister_pb2
from trusted.errors import Reason, RunError


class BlobsService:
    """The gRPC servicer."""

    def __init__(self, spool: Spool, book: RunBook, reception: Reception, metrics: HostMetrics, limits: Limits) -> None:
        self._spool = spool
        self._book = book
        self._reception = reception
        self._metrics = metrics
        self._limits = limits

    async def Put(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Take an upload from the offset that its first message names. Answers how far the blob now is."""
        async with self._reception.serve(context, "Blobs.Put"):
            first = await self._next(requests)
            if first is None:
                raise RunError(Reason.MALFORMED, "Put: the first message names the blob")
            name, offset = _name_of(first.name), first.offset
            blob = await self._spool.locate(name)
            received, chunk = 0, first
            try:
                while chunk is not None:
                    blob = await self._spool.upload(name, offset, chunk.data)
                    offset += len(chunk.data)
                    received += len(chunk.data)
                    chunk = await self._next(requests)
                await self._spool.settle(name, blob)
            finally:
                await self._count(name, "in", received)
            return _state_of(blob)

    async def Get(self, request: Any, context: Context) -> None:
        """Send a blob from an offset on, following the aggregator while it still writes."""
        async with self._reception.serve(context, "Blobs.Get"):
            name, offset = _name_of(request.name), request.offset
            blob = await self._spool.locate(name)
            if offset > (blob.received_bytes if blob.total_bytes is None else blob.total_bytes):
                raise RunError(Reason.BLOB_OFFSET, "Get: the offset is beyond the blob")
            await self._spool.bring(name, blob, offset + 1)
            sent = 0
            try:
                async for data in self._follow(blob, offset):
                    async with asyncio.timeout(self._limits.stall_s):
                        await context.write(cloister_pb2.Chunk(data=data))
                    sent += len(data)
            except TimeoutError:
                raise _stalled() from None
            finally:
                await self._count(name, "out", sent)

    async def Stat(self, request: Any, context: Context) -> Any:
        """How many bytes are here, and how many there will be (0 while nobody knows)."""
        async with self._reception.serve(context, "Blobs.Stat"):
            name = _name_of(request)
            blob = await self._spool.locate(name)
            await self._spool.settle(name, blob)
            return _state_of(blob)

    async def _follow(self, blob: SpooledBlob, offset: int) -> AsyncIterator[bytes]:
        """Chunks from ``offset`` to the end, each when it is there. One chunk is in memory at a time."""
        available = await blob.beyond(offset, stall_s=self._limits.stall_s)
        with blob.open() as file:
            while available > offset:
                data = await self._spool.read(file, offset, min(CHUNK_BYTES, available - offset))
                if not data:
                    raise RunError(Reason.BLOB_UNKNOWN, "blob: its file was cut short on this host")
                yield data
                offset += len(data)
                available = await blob.beyond(offset, stall_s=self._limits.stall_s)

    async def _next(self, requests: AsyncIterator[Any]) -> Any:
        """The next message of an upload, None at its end; one that stands still loses its stream, not its bytes."""
        try:
            async with asyncio.timeout(self._limits.stall_s):
                return await anext(requests, None)
        except TimeoutError:
            raise _stalled() from None

    async def _count(self, name: BlobName, direction: str, size_bytes: int) -> None:
        self._metrics.payload_bytes.labels(direction, "blob").inc(size_bytes)
        inward = direction == "in"
        await self._book.carried(name.plan, bytes_in=size_bytes if inward else 0, bytes_out=0 if inward else size_bytes)


def _name_of(message: Any) -> BlobName:
    return BlobName(message.plan, message.blob)


def _state_of(blob: SpooledBlob) -> Any:
    return cloister_pb2.BlobState(received_bytes=blob.held_bytes, total_bytes=blob.total_bytes or 0)


def _stalled() -> RunError:
    return RunError(Reason.UNREACHABLE, "blob: the transfer stood still for too long; continue where it stopped")
