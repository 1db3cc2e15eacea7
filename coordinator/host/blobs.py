"""``Blobs.Put|Get|Stat``: sealed blobs in, out, and how far. Trust zone: host.

Messages of about 1 MiB, which protobuf never decodes. An upload holds a bounded window in memory; a download shares its
messages with all others that are at the same place. A name is a capability: no other right is asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from coordinator.host.broadcast import Broadcast, next_stretch
from coordinator.host.limits import CHUNK_BYTES, Limits
from coordinator.host.metrics import HostMetrics
from coordinator.host.rpc import Context, Reception, claimed_plan
from coordinator.host.run_book import RunBook
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from coordinator.host.turns import Turn, Turns
from coordinator.host.uploads import Window
from protos.chunks import PutChunk, as_bytes, decode_put_chunk
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
        floor, waited = limits.crawl_bytes, metrics.upload_wait_seconds.inc
        self._uploads = Turns(limits.uploads, limits.stall_s, waited=waited, floor_bytes=floor)
        self._downloads = Turns(limits.downloads, limits.stall_s, floor_bytes=floor)
        self._broadcast = Broadcast(spool)

    def handler(self) -> Any:
        """What a server adds: the generated code's handlers, but for the messages that carry data."""
        name, state = cloister_pb2.BlobName, cloister_pb2.BlobState
        put = grpc.stream_unary_rpc_method_handler(self.Put, decode_put_chunk, state.SerializeToString)
        get = grpc.unary_stream_rpc_method_handler(self.Get, cloister_pb2.GetRequest.FromString, as_bytes)
        stat = grpc.unary_unary_rpc_method_handler(self.Stat, name.FromString, state.SerializeToString)
        return grpc.method_handlers_generic_handler("cloister.v1.Blobs", {"Put": put, "Get": get, "Stat": stat})

    async def Put(self, requests: AsyncIterator[PutChunk], context: Context) -> Any:
        """Take an upload from the offset that its first message names. Answers how far the blob now is."""
        async with self._reception.serve(context, "Blobs.Put"):
            claimed = claimed_plan(context)  # for whose turn its first message waits
            async with self._uploads.turn(claimed if self._book.knows(claimed) else b"") as turn:
                first = await turn.move(anext(requests, None))
                if first is None:
                    raise RunError(Reason.MALFORMED, "Put: the first message names the blob")
                name = BlobName(first.plan, first.blob)
                if claimed not in (b"", name.plan):
                    raise RunError(Reason.MALFORMED, "Put: the metadata names another plan than the blob")
                turn.plan = name.plan
                blob = await self._spool.locate(name)
                blob = await self._take_in(name, first, requests, turn) or blob
            await self._spool.settle(name, blob)
            return _state_of(blob)

    async def _take_in(
        self, name: BlobName, first: PutChunk, requests: AsyncIterator[PutChunk], turn: Turn
    ) -> SpooledBlob | None:
        window = Window(self._spool, name, first.offset, self._limits)
        received = 0
        chunk: PutChunk | None = first
        try:
            while chunk is not None:
                await window.add(chunk.data)
                received += len(chunk.data)
                turn.used(len(chunk.data))
                chunk = await turn.move(anext(requests, None))
        finally:
            try:
                await window.close()  # what arrived stays, also when the stream was cut
            finally:
                self._spool.remember(name)
                await self._count(name, "in", received)
        return window.blob

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
                async with (
                    self._downloads.turn(name.plan) as turn,
                    aclosing(self._follow(blob, request, turn)) as messages,
                ):
                    async for message, size in messages:
                        await turn.move(context.write(message), size)
                        sent += size
            finally:
                await self._count(name, "out", sent)

    async def Stat(self, request: Any, context: Context) -> Any:
        """How many bytes are here, and how many there will be (0 while nobody knows)."""
        async with self._reception.serve(context, "Blobs.Stat"):
            name = _name_of(request)
            blob = await self._spool.locate(name)
            await self._spool.settle(name, blob)
            return _state_of(blob)

    async def _follow(self, blob: SpooledBlob, request: Any, turn: Turn) -> AsyncGenerator[tuple[bytes, int]]:
        """Messages from the offset to the end, each when it is there, with the size of their data.

        A reader that says how it wants them cut gets no part of a message before the whole is there.
        """
        offset, stall_s = request.offset, self._limits.stall_s
        wanted, patient = request.first_bytes or request.chunk_bytes or CHUNK_BYTES, request.chunk_bytes > 0
        available = await blob.beyond(offset + (wanted - 1 if patient else 0), stall_s=stall_s)
        with blob.open() as file:
            while available > offset:
                stretch = next_stretch(blob, offset, wanted, available)
                await turn.take()  # before it is read: who waits holds nothing
                yield await self._broadcast.message(file, stretch), stretch.size_bytes
                offset += stretch.size_bytes
                wanted = request.chunk_bytes or CHUNK_BYTES
                available = await blob.beyond(offset + (wanted - 1 if patient else 0), stall_s=stall_s)

    async def _count(self, name: BlobName, direction: str, size_bytes: int) -> None:
        self._metrics.payload_bytes.labels(direction, "blob").inc(size_bytes)
        inward = direction == "in"
        await self._book.carried(name.plan, bytes_in=size_bytes if inward else 0, bytes_out=0 if inward else size_bytes)


def _name_of(message: Any) -> BlobName:
    return BlobName(message.plan, message.blob)


def _state_of(blob: SpooledBlob) -> Any:
    return cloister_pb2.BlobState(received_bytes=blob.held_bytes, total_bytes=blob.total_bytes or 0)
