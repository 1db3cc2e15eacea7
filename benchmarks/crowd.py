"""Many workers in one process, by the real protocol, each on a connection of its own: admission, challenges, blobs.

Trust zone: the developer's machine. The state machines are the worker's; only its threads, its trainer and its memory
for a model of its own are left out, because a thousand of each would be measured instead of the coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.consortium import Consortium
from benchmarks.worker_processes import Address
from protos.chunks import as_bytes, decode_chunk, put_chunk_head
from protos.v1 import cloister_pb2
from trusted.blob import BlobHeader, BlobOpener, ContentKey
from trusted.blob.sealed_vector import SealedVector
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.channel.states import State
from trusted.channel.worker import WorkerChannel
from trusted.encoding import Vector
from trusted.evidence.boot import Role
from trusted.wire import sha256
from worker.memory import Included, Memory
from worker.participant import Action, Answer, Closed, Evaluate, Participant, Receipt, Respond, SendInitial, Train

_OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each worker, as from as many machines
)
_PIECES_A_MESSAGE = 4
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a process have together; ``room`` is float32 for one opened piece, which is then dropped."""

    initial: Vector
    update: Vector
    room: Vector


async def serve_crowd(
    consortium: Consortium, members: list[str], address: Address, *, initial: Vector, update: Vector
) -> None:
    """Take part for all ``members`` until the run is over.

    Raises:
        RuntimeError: a worker's stream ended before its run did.
    """
    room = np.empty(consortium.plan.document.exchange.model.piece_elements, dtype=np.float32)
    shared = Shared(initial, update, room)
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
        membership = consortium.membership(member)
        self._identity = Identity.generate(consortium.provider(Role.WORKER.value))
        self._session = WorkerChannel(federation, self._identity, membership)
        memory = Memory(member, self._plan, membership.worker_key, None)
        self._participant = Participant(federation, consortium.rule(member), memory)

    async def take_part(self) -> None:
        async with self._connect() as channel:
            attach = channel.stream_stream(
                "/cloister.v1.Relay/Attach", cloister_pb2.Frame.SerializeToString, cloister_pb2.Frame.FromString
            )
            call, frame = await self._attached(attach)
            while frame is not grpc.aio.EOF:  # type: ignore[attr-defined]
                opened_before = self._session.state is State.OPEN
                received = self._session.receive(frame.data, datetime.now(UTC))
                replies = list(received.replies)
                if not opened_before and self._session.state is State.OPEN:
                    ready = self._participant.ready(has_initial=self._member == "site-1")
                    replies.append(self._session.session.send(ready))
                for message in received.messages:
                    action = self._participant.take(message, datetime.now(UTC))
                    if isinstance(action, Closed):
                        heard = self._session.session.send({"type": "heard"})
                        await call.write(cloister_pb2.Frame(data=heard))
                        await call.done_writing()
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

    async def _act(self, channel: grpc.aio.Channel, action: Action) -> list[bytes]:
        if isinstance(action, Receipt | Included | Closed | Evaluate | Respond):  # its plan has neither of the last two
            return []
        if isinstance(action, Answer):
            return [self._session.session.send(action.message)]
        key = ContentKey.generate()
        if isinstance(action, SendInitial):
            await self._upload(channel, action.blob, self._seal(action.header, self._shared.initial, key))
            message: dict[str, Any] = {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()}
        else:
            await self._download(channel, action)
            sealed = self._seal(action.upload_header, self._shared.update, key)
            await self._upload(channel, action.upload, sealed)
            message = {"type": "update", "round": action.round, "blob": action.upload.hex(), "key": key.secret.hex()}
            message |= {"prefix_sha256": sha256(sealed.prefix).hex(), "weight": 1, "metrics": {}}
        return [self._session.session.send(message)]

    async def _download(self, channel: grpc.aio.Channel, task: Train) -> None:
        """Open the model message by message: each holds whole pieces, because they are asked for so."""
        header = task.model_header
        get = channel.unary_stream("/cloister.v1.Blobs/Get", cloister_pb2.GetRequest.SerializeToString, decode_chunk)
        name = cloister_pb2.BlobName(plan=self._plan, blob=task.model_blob)
        request = cloister_pb2.GetRequest(
            name=name, first_bytes=header.prefix_bytes, chunk_bytes=_PIECES_A_MESSAGE * header.segment_bytes
        )
        messages = aiter(get(request))
        prefix = await anext(messages)
        opener = BlobOpener.begin(prefix, expected=header, key=task.model_key, verify_key=task.model.signer)
        pieces = header.pieces()
        async for message in messages:
            while len(message):
                piece = next(pieces)
                opener.open_into(piece, message[: piece.sealed_bytes], self._shared.room[: piece.elements])
                message = message[piece.sealed_bytes :]
        if next(pieces, None) is not None:
            raise RuntimeError(f"{self._member}: the model ended early")

    async def _upload(self, channel: grpc.aio.Channel, blob: bytes, sealed: SealedVector) -> None:
        put = channel.stream_unary("/cloister.v1.Blobs/Put", as_bytes, cloister_pb2.BlobState.FromString)
        name = cloister_pb2.BlobName(plan=self._plan, blob=blob)
        begin = cloister_pb2.PutChunk(name=name).SerializeToString()
        state = await put(chain([begin], _messages(sealed)))
        if state.received_bytes != state.total_bytes:
            raise RuntimeError(f"{self._member}: the host took the upload and holds less than all of it")

    def _seal(self, header: BlobHeader, vector: Vector, key: ContentKey) -> SealedVector:
        """Piece by piece while it is sent; nothing sealed is kept."""
        return SealedVector(header, vector, key=key, signing_key=self._identity.signing_key)


def _messages(sealed: SealedVector) -> Iterator[bytes]:
    for stretch in sealed.stretches():
        yield b"".join((put_chunk_head(len(stretch)), stretch))
