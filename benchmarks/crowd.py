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
from worker.grpc_channel import HostAddress
from worker.http_blobs import HttpBlobs, Wanted
from worker.memory import Included, Memory
from worker.participant import Action, Answer, Closed, Evaluate, Participant, Receipt, Respond, SendInitial, Train

_OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each worker, as from as many machines
)
_PIECES_AT_ONCE = 4
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a process have together."""

    initial: Vector
    update: Vector


async def serve_crowd(
    consortium: Consortium, members: list[str], address: Address, *, initial: Vector, update: Vector
) -> None:
    """Take part for all ``members`` until the run is over.

    Raises:
        RuntimeError: a worker's stream ended before its run did.
    """
    shared = Shared(initial, update)
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
        self._blobs: HttpBlobs | None = None

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
        key, blobs = ContentKey.generate(), await self._transfers(channel)
        if isinstance(action, SendInitial):
            sealed = self._seal(action.header, self._shared.initial, key)
            await asyncio.to_thread(self._upload, blobs, action.blob, sealed)
            message: dict[str, Any] = {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()}
        else:
            await asyncio.to_thread(self._download, blobs, action)
            sealed = self._seal(action.upload_header, self._shared.update, key)
            await asyncio.to_thread(self._upload, blobs, action.upload, sealed)
            message = {"type": "update", "round": action.round, "blob": action.upload.hex(), "key": key.secret.hex()}
            message |= {"prefix_sha256": sha256(sealed.prefix).hex(), "weight": 1, "metrics": {}}
        return [self._session.session.send(message)]

    async def _transfers(self, channel: grpc.aio.Channel) -> HttpBlobs:
        """The way to the host's blob port, which is asked for once."""
        if self._blobs is None:
            ask = channel.unary_unary(
                "/cloister.v1.Blobs/Http", cloister_pb2.HttpQuery.SerializeToString, cloister_pb2.HttpPort.FromString
            )
            port = (await ask(cloister_pb2.HttpQuery())).port
            address = HostAddress(self._address.target, self._address.ca or None)
            self._blobs = HttpBlobs(address, port)
        return self._blobs

    def _download(self, blobs: HttpBlobs, task: Train) -> None:
        """Open the model as it comes, whole pieces at a time, and drop it."""
        header = task.model_header
        wanted, many = Wanted(self._plan, task.model_blob, 0, header.sealed_bytes), _PIECES_AT_ONCE
        stretches = blobs.get(wanted, first_bytes=header.prefix_bytes, then_bytes=many * header.segment_bytes)
        opener = BlobOpener.begin(next(stretches), expected=header, key=task.model_key, verify_key=task.model.signer)
        pieces, room = header.pieces(), np.empty(header.encoding.piece_elements, dtype=np.float32)
        for stretch in stretches:
            while len(stretch):
                piece = next(pieces)
                opener.open_into(piece, stretch[: piece.sealed_bytes], room[: piece.elements])
                stretch = stretch[piece.sealed_bytes :]
        if next(pieces, None) is not None:
            raise RuntimeError(f"{self._member}: the model ended early")

    def _upload(self, blobs: HttpBlobs, blob: bytes, sealed: SealedVector) -> None:
        if blobs.put(Wanted(self._plan, blob, 0, len(sealed)), sealed.stretches()) != len(sealed):
            raise RuntimeError(f"{self._member}: the host took the upload and holds less than all of it")

    def _seal(self, header: BlobHeader, vector: Vector, key: ContentKey) -> SealedVector:
        """Piece by piece while it is sent; nothing sealed is kept."""
        return SealedVector(header, vector, key=key, signing_key=self._identity.signing_key)
