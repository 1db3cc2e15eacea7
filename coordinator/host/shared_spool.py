"""The spool of a host whose complete blobs lie in an object store, where other replicas find them. Trust zone: host.

Rules, beside those of the spool:
 1. Uploads are staged on this disk, resumable as ever, also after a restart. Half an upload is known to its replica
    alone (coordinator/host/staged.py): another one says 0, and the worker sends all of it there.
 2. A complete blob goes to the store before anybody is told that it is complete.
 3. A replica that lacks a blob copies it from the store once, in parts, a few at a time; all who read it here follow
    that copy. So one model leaves the store once for each replica, whatever the cohort.
 4. What came first to the store stays; a half upload of the same name elsewhere is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from pathlib import Path

from coordinator.host.blob_file import Buffer, Source
from coordinator.host.limits import Limits
from coordinator.host.objects import ObjectStore
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from coordinator.host.state import HostState, Origin, StoredBlob
from trusted.errors import ProtocolError, RunError

_PART_BYTES = 4 << 20
_PARTS_AT_ONCE = 4  # the window: 16 MiB for each blob that is being copied

_log = logging.getLogger(__name__)


class SharedSpool(Spool):
    """A spool in front of an :class:`ObjectStore`."""

    def __init__(self, folder: Path, state: HostState, limits: Limits, objects: ObjectStore) -> None:
        super().__init__(folder, state, limits)
        self._objects = objects
        self._stall_s = limits.stall_s
        self._moving: dict[BlobName, asyncio.Task[None]] = {}  # to or from the store: one at a time for each blob
        self._wanted: set[BlobName] = set()
        self._deleting: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is under way to and from the store; it starts anew when somebody asks again."""
        for task in self._moving.values():
            task.cancel()
        await asyncio.gather(*self._moving.values(), *self._deleting, return_exceptions=True)
        await super().close()

    async def locate(self, name: BlobName) -> SpooledBlob:
        """The blob, as the state knows it now where this replica does not have all of it."""
        blob = self._blobs.get(name)
        if blob is not None and (blob.is_complete or blob.shared):
            return blob
        known = await self._known(name)
        if known is None:
            self.forget(name)
            return self.find(name)  # says that it is unknown
        return known

    async def _known(self, name: BlobName) -> SpooledBlob | None:
        """The blob as the state knows it now, taken up here; None if it knows none."""
        stored = await self._state.blob(name.plan, name.blob)
        return None if stored is None else self._take_up(stored)

    async def bring(self, name: BlobName, blob: SpooledBlob, upto: int) -> None:
        """Copy a shared blob that is not here, and wait for the bytes before ``upto``."""
        if blob.is_complete:
            return
        self._wanted.add(name)
        if blob.shared and blob.total_bytes is not None:
            self._begin_copy(name, blob)
            await blob.beyond(min(upto, blob.total_bytes) - 1, stall_s=self._stall_s)

    async def settle(self, name: BlobName, blob: SpooledBlob) -> None:
        """Store a complete blob where every replica finds it."""
        if blob.is_complete and not blob.shared:
            await asyncio.shield(self._start(name, lambda: self._publish(name, blob)))

    async def upload(self, name: BlobName, offset: int, pieces: Sequence[Buffer]) -> SpooledBlob:
        """Add what a worker sent, unless all of the blob lies in the store already."""
        blob = self.find(name)
        return blob if blob.shared else await super().upload(name, offset, pieces)

    async def pour(self, name: BlobName, offset: int, source: Source, threads: Executor) -> tuple[SpooledBlob, int]:
        """As :meth:`upload`; what the store has already is received and thrown away."""
        blob = self.find(name)
        if not blob.shared:
            return await super().pour(name, offset, source, threads)
        throwing = asyncio.get_running_loop().run_in_executor(threads, _thrown_away, source)
        try:
            return blob, await asyncio.shield(throwing)
        finally:
            await asyncio.wait([throwing])  # the line is not let go while a thread reads it

    async def write(self, name: BlobName, offset: int, data: Buffer, *, last: bool) -> SpooledBlob:
        """Add what the aggregator writes, unless all of the blob lies in the store already.

        It writes a blob of a fixed name again when its door broke before the answer; what came first stays.
        """
        blob = self._blobs.get(name) or await self._known(name)
        written = blob is not None and blob.shared and blob.origin is Origin.AGGREGATOR
        if blob is None or not written or offset + len(data) > (blob.total_bytes or 0):
            return await super().write(name, offset, data, last=last)
        return blob

    def remember(self, name: BlobName) -> None:
        """Write down how far an upload is; a copy that is cut by a restart is made anew."""
        blob = self._blobs.get(name)
        if blob is not None and not blob.shared:
            super().remember(name)

    async def discard(self, name: BlobName) -> None:
        """Delete a blob here and in the store; other replicas hear of it."""
        self.forget(name)
        if await self._state.delete_blob(name.plan, name.blob):
            task = asyncio.create_task(self._delete(name))
            self._deleting.add(task)
            task.add_done_callback(self._deleting.discard)

    def forget(self, name: BlobName) -> None:
        """Delete what is here of a blob."""
        self._wanted.discard(name)
        super().forget(name)

    async def look_again(self, name: BlobName) -> None:
        """Another replica completed this blob: whoever waits for it here is served, the aggregator told."""
        if name not in self._blobs:
            return
        blob = await self.locate(name)
        if not blob.shared:
            return
        if name in self._wanted:
            self._begin_copy(name, blob)
        if blob.origin is Origin.WORKER:
            self.on_complete(name)

    async def look_at_all(self) -> None:
        """This replica missed what the others did: forget what is gone, take up what is complete."""
        here = list(self._blobs)
        known = {BlobName(stored.plan, stored.blob) for stored in await self._state.blobs()}
        for name in here:
            if name not in known:
                self.forget(name)
            elif not self._blobs[name].shared:
                await self.look_again(name)

    def _arrived(self, name: BlobName, blob: SpooledBlob) -> None:
        if not blob.shared:  # else this was its copy
            self._start(name, lambda: self._publish(name, blob))

    def _take_up(self, stored: StoredBlob) -> SpooledBlob:
        """The blob of this row; a half upload of what others completed gives way to a copy of theirs."""
        name = BlobName(stored.plan, stored.blob)
        blob = super()._take_up(stored)
        if not stored.shared or blob.shared:
            return blob
        if not blob.is_complete:
            if blob.received_bytes or blob.writing.locked():
                self.forget(name)
                blob = self._hold(name, SpooledBlob(blob.path, stored.origin, stored.total_bytes))
            blob.path = self._path(name).with_suffix(".copy")  # which a late writer of the half cannot reach
            self.reserved_bytes += (stored.total_bytes or 0) - blob.reserved_bytes
            blob.total_bytes = stored.total_bytes
        blob.shared = True
        return blob

    def _start(self, name: BlobName, work: Callable[[], Coroutine[None, None, None]]) -> asyncio.Task[None]:
        task = self._moving.get(name)
        if task is None:
            task = self._moving[name] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: BlobName, task: asyncio.Task[None]) -> None:
        del self._moving[name]
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            reason = failure.reason.code if isinstance(failure, ProtocolError) else None
            _log.warning("blob-not-moved", extra={"plan": name.plan.hex(), "reason": reason})

    async def _publish(self, name: BlobName, blob: SpooledBlob) -> None:
        await self._objects.put(_key(name), blob.path)
        stored = StoredBlob(name.plan, name.blob, blob.origin, blob.total_bytes, True, blob.received_bytes)
        if not await self._state.finish_blob(stored):  # discarded meanwhile
            await self._objects.delete(_key(name))
            return
        blob.shared = True
        if blob.origin is Origin.WORKER:
            self.on_complete(name)

    def _begin_copy(self, name: BlobName, blob: SpooledBlob) -> None:
        if not blob.is_complete:
            blob.failure = None
            self._start(name, lambda: self._copy(name, blob))

    async def _copy(self, name: BlobName, blob: SpooledBlob) -> None:
        """Read the blob's parts in order, a window of them at a time, from where an earlier copy stopped."""
        total = blob.total_bytes or 0
        reading: deque[asyncio.Task[bytes]] = deque()

        async def add_next() -> None:
            await self._append(name, blob, blob.received_bytes, [await reading.popleft()], whole=total)

        try:
            for offset in range(blob.received_bytes, total, _PART_BYTES):
                read = self._objects.read(_key(name), offset, min(_PART_BYTES, total - offset))
                reading.append(asyncio.create_task(read))
                if len(reading) == _PARTS_AT_ONCE:
                    await add_next()
            while reading:
                await add_next()
        except RunError as failure:
            blob.failure = failure
            blob.moved()
            raise
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _delete(self, name: BlobName) -> None:
        try:
            await self._objects.delete(_key(name))
        except ProtocolError as failure:
            _log.warning("blob-not-deleted", extra={"plan": name.plan.hex(), "reason": failure.reason.code})


def _thrown_away(source: Source) -> int:
    return sum(iter(lambda: len(source()), 0))


def _key(name: BlobName) -> str:
    return f"{name.plan.hex()}/{name.blob.hex()}"
