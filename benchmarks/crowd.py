"""Many workers in one process, by the real protocol, each on a connection of its own: admission, challenges, blobs.

Trust zone: the developer's machine. The state machines are the worker's; only its threads, its trainer and its memory
for a model of its own are left out, because a thousand of each would be measured instead of the coordinator.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.consortium import Consortium
from benchmarks.worker_processes import Address
from protos.chunks import as_bytes, decode_chunk, put_chunk_head
from protos.v1 import cloister_pb2
from trusted.blob import BlobHeader, BlobSealer, ContentKey, open_vector
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.channel.states import State
from trusted.channel.worker import WorkerChannel
from trusted.encoding import Vector
from trusted.evidence.boot import Role
from worker.participant import Closed, Participant, Receipt, SendInitial, Train

_OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each worker, as from as many machines
)
_MESSAGE_BYTES = 4 << 20
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a process have together: one update, and room for one model."""

    initial: Vector
    update: Vector
    model: Vector


async def serve_crowd(
    consortium: Consortium, members: list[str], address: Address, *, initial: Vector, update: Vector
) -> None:
    """Take part for all ``members`` until the run is over.

    Raises:
        RuntimeError: a worker's stream ended before its run did.
    """
    shared = Shared(initial, update, np.empty_like(update))
    workers = [_Worker(consortium, member, address, shared) for member in members]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.take_part())


class _Worker:
    def __init__(self, consortium: Consortium, member: str, address: Address, shared: Shared) -> None:
        self._plan = consortium.plan.digest
        self._member = member
        self._address = address
        self._shared = shared
        federation = Federation(consortium.charter, consortium.plan)
        self._identity = Identity.generate(consortium.provider(Role.WORKER.value))
        self._session = WorkerChannel(federation, self._identity, consortium.membership(member))
        self._participant = Participant(federation, consortium.rule(member))

    async def take_part(self) -> None:
        async with self._connect() as channel:
            attach = channel.stream_stream(
                "/cloister.v1.Relay/Attach", cloister_pb2.Frame.SerializeToString, cloister_pb2.Frame.FromString
            )
            call, frame = await self._attached(attach)
            while frame is not grpc.aio.EOF:  # type: ignore[attr-defined]  # its stubs leave it out
                opened_before = self._session.state is State.OPEN
                received = self._session.receive(frame.data, datetime.now(UTC))
                replies = list(received.replies)
                if not opened_before and self._session.state is State.OPEN:
                    ready = {"type": "ready", "has_initial": self._member == "site-1"}
                    replies.append(self._session.session.send(ready))
                for message in received.messages:
                    action = self._participant.take(message, datetime.now(UTC))
                    if isinstance(action, Closed):
                        call.cancel()
                        return
                    replies += await self._act(channel, action)
                for reply in replies:
                    await call.write(cloister_pb2.Frame(data=reply))
                frame = await call.read()
        raise RuntimeError(f"{self._member}: the stream ended before the run did")

    async def _attached(self, attach: Any) -> tuple[Any, Any]:
        """A stream to the aggregator, once there is one, and the first frame on it."""
        hello = cloister_pb2.Frame(data=self._session.begin())
        while True:
            call = attach(None, metadata=(("cloister-plan", self._plan.hex()),))
            try:
                await call.write(hello)
                return call, await call.read()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(_AGAIN_S)

    def _connect(self) -> grpc.aio.Channel:
        plain = self._address.target.removeprefix("http://")
        if plain != self._address.target:
            return grpc.aio.insecure_channel(plain, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(root_certificates=self._address.ca)
        return grpc.aio.secure_channel(plain, credentials, options=_OPTIONS)

    async def _act(self, channel: grpc.aio.Channel, action: SendInitial | Train | Receipt) -> list[bytes]:
        if isinstance(action, Receipt):
            return []
        key = ContentKey.generate()
        if isinstance(action, SendInitial):
            await self._upload(channel, action.blob, self._seal(action.header, self._shared.initial, key))
            message: dict[str, Any] = {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()}
        else:
            await self._download(channel, action)
            await self._upload(channel, action.upload, self._seal(action.upload_header, self._shared.update, key))
            message = {"type": "update", "round": action.round, "blob": action.upload.hex(), "key": key.secret.hex()}
            message |= {"weight": 1, "metrics": {}}
        return [self._session.session.send(message)]

    async def _download(self, channel: grpc.aio.Channel, task: Train) -> None:
        header, chunks = task.model_header, []
        get = channel.unary_stream("/cloister.v1.Blobs/Get", cloister_pb2.GetRequest.SerializeToString, decode_chunk)
        name = cloister_pb2.BlobName(plan=self._plan, blob=task.model_blob)
        request = cloister_pb2.GetRequest(
            name=name, first_bytes=header.prefix_bytes, chunk_bytes=4 * header.segment_bytes
        )
        async for chunk in get(request):
            chunks.append(chunk)
        verify_key = self._session.session.peer.verify_key
        open_vector(chunks, self._shared.model, expected=header, key=task.model_key, verify_key=verify_key)

    async def _upload(self, channel: grpc.aio.Channel, blob: bytes, messages: list[bytes]) -> None:
        put = channel.stream_unary("/cloister.v1.Blobs/Put", as_bytes, cloister_pb2.BlobState.FromString)
        name = cloister_pb2.BlobName(plan=self._plan, blob=blob)
        messages[0] = cloister_pb2.PutChunk(name=name).SerializeToString() + messages[0]
        state = await put(iter(messages))
        if state.received_bytes != state.total_bytes:
            raise RuntimeError(f"{self._member}: the host took the upload and holds less than all of it")

    def _seal(self, header: BlobHeader, vector: Vector, key: ContentKey) -> list[bytes]:
        sealed = bytearray(header.sealed_bytes)
        sealer, out = BlobSealer(header, key, self._identity.signing_key), memoryview(sealed)
        out[: header.prefix_bytes] = sealer.prefix
        for piece in header.pieces():
            begin = header.prefix_bytes + piece.offset
            sealer.seal_into(piece, vector, out[begin : begin + piece.sealed_bytes])
        parts = (out[at : at + _MESSAGE_BYTES] for at in range(0, len(out), _MESSAGE_BYTES))
        return [b"".join((put_chunk_head(len(part)), part)) for part in parts]
