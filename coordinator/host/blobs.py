"""``Blobs.Put|Get|Stat``: sealed blobs in, out, and how far. Trust zone: host.

Messages of about 1 MiB, which protobuf never decodes. An upload holds a bounded window in memory; a download shares its
messages with all others that are at the same place. A name is a capability: no other right is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from coordinator.host.broadcast import Broadcast, Stretch
from coordinator.host.rpc import Context, Reception, claimed_plan
from coordinator.host.spool import BlobName, SpooledBlob
from coordinator.host.transfers import Transfers
from coordinator.host.turns import Turn
from coordinator.host.uploads import Window
from protos.chunks import PutChunk, as_bytes, decode_put_chunk
from protos.v1 import cloister_pb2
from trusted.errors import Reason, RunError


class BlobsService:
    """The gRPC servicer. ``blob_port``: where the same blobs move over HTTP; 0: nowhere."""

    def __init__(self, transfers: Transfers, broadcast: Broadcast, reception: Reception, *, blob_port: int = 0) -> None:
        self._transfers = transfers
        self._spool = transfers.spool
        self._broadcast = broadcast
        self._reception = reception
        self._blob_port = blob_port

    def handler(self) -> Any:
        """What a server adds: the generated code's handlers, but for the messages that carry data."""
        name, state = cloister_pb2.BlobName, cloister_pb2.BlobState
        put = grpc.stream_unary_rpc_method_handler(self.Put, decode_put_chunk, state.SerializeToString)
        get = grpc.unary_stream_rpc_method_handler(self.Get, cloister_pb2.GetRequest.FromString, as_bytes)
        stat = grpc.unary_unary_rpc_method_handler(self.Stat, name.FromString, state.SerializeToString)
        port = grpc.unary_unary_rpc_method_handler(
            self.Http, cloister_pb2.HttpQuery.FromString, cloister_pb2.HttpPort.SerializeToString
        )
        methods = {"Put": put, "Get": get, "Stat": stat, "Http": port}
        return grpc.method_handlers_generic_handler("cloister.v1.Blobs", methods)

    async def Put(self, requests: AsyncIterator[PutChunk], context: Context) -> Any:
        """Take an upload from the offset that its first message names. Answers how far the blob now is."""
        async with self._reception.serve(context, "Blobs.Put"):
            claimed = claimed_plan(context)  # for whose turn its first message waits
            async with self._transfers.upload_turn(claimed) as turn:
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
        window = Window(self._spool, name, first.offset, self._transfers.limits)
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
                self._transfers.count(name, bytes_in=received)
        return window.blob

    async def Get(self, request: Any, context: Context) -> None:
        """Send a blob from an offset on, following the aggregator while it still writes."""
        async with self._reception.serve(context, "Blobs.Get"):
            name, cut = _name_of(request.name), {"first_bytes": request.first_bytes, "then_bytes": request.chunk_bytes}
            blob = await self._transfers.find_to_send(name, request.offset)
            sent = 0
            try:
                async with (
                    self._transfers.download_turn(name.plan) as turn,
                    aclosing(self._transfers.follow(blob, request.offset, turn, **cut)) as stretches,
                ):
                    async for file, offset, size in stretches:
                        message = await self._broadcast.message(file, Stretch(blob, offset, size))
                        await turn.move(context.write(message), size)
                        sent += size
            finally:
                self._transfers.count(name, bytes_out=sent)

    async def Stat(self, request: Any, context: Context) -> Any:
        """How many bytes are here, and how many there will be (0 while nobody knows)."""
        async with self._reception.serve(context, "Blobs.Stat"):
            name = _name_of(request)
            blob = await self._spool.locate(name)
            await self._spool.settle(name, blob)
            return _state_of(blob)

    async def Http(self, request: Any, context: Context) -> Any:
        """On which port of this host blobs move over HTTP (coordinator/host/blob_port.py); 0: on none."""
        async with self._reception.serve(context, "Blobs.Http"):
            return cloister_pb2.HttpPort(port=self._blob_port)


def _name_of(message: Any) -> BlobName:
    return BlobName(message.plan, message.blob)


def _state_of(blob: SpooledBlob) -> Any:
    return cloister_pb2.BlobState(received_bytes=blob.held_bytes, total_bytes=blob.total_bytes or 0)
