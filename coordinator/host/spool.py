"""Sealed blobs on disk: one file each, written front to back, never rewritten. Trust zone: host.

Rules:
 1. A blob exists because the aggregator announced it (with its exact size) or writes it itself. Nothing else makes one.
 2. What the store remembers to have arrived is where an upload continues after a crash: never more than the file holds.
 3. The first byte that arrives at an offset stays. Bytes that were received before are skipped, so an upload may be
    repeated; a worker that seals anew under another key needs another name.
 4. Announced bytes count against the quota at once, so that uploads which were promised room have it.

Waiting is for an event of the blob, never for a clock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from coordinator.door import BLOB_BYTES, PLAN_BYTES
from coordinator.host.blob_file import Buffer, Pouring, Source, behind, too_long, write_at
from coordinator.host.file_pool import FilePool, cut
from coordinator.host.limits import Limits
from coordinator.host.shortages import HostShort, naming_shortages
from coordinator.host.state import HostState, Origin, StoredBlob
from trusted.errors import Reason, RunError

MAX_BLOB_BYTES = 1 << 44
_DISK_THREADS = 4
_REMEMBER_BYTES = 64 << 20  # at most so much arrives twice after a crash
_MAX_DECLINED = 4096  # beyond, the oldest are unknown again


@dataclass(frozen=True, slots=True)
class BlobName:
    """A plan digest (32 bytes) and a name (16 random bytes), which is the capability to upload and to fetch."""

    plan: bytes
    blob: bytes

    def __post_init__(self) -> None:
        if len(self.plan) != PLAN_BYTES or len(self.blob) != BLOB_BYTES:
            raise RunError(Reason.MALFORMED, f"blob name: {PLAN_BYTES} and {BLOB_BYTES} bytes expected")

    def __repr__(self) -> str:
        return f"BlobName(plan={self.plan.hex()[:12]}…)"  # the rest is a capability


class SpooledBlob:
    """One blob. Its fields change only through the :class:`Spool`."""

    def __init__(self, path: Path, origin: Origin, total_bytes: int | None, received_bytes: int = 0) -> None:
        self.path = path
        self.origin = origin
        self.total_bytes = total_bytes
        self.received_bytes = received_bytes
        self.remembered_bytes = received_bytes
        self.discarded = False
        self.shared = False  # all of it lies in the object store (coordinator/host/shared_spool.py)
        self.failure: RunError | None = None  # why the rest does not come from there
        self.writing = asyncio.Lock()
        self._moved = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        """Every byte is here."""
        return self.received_bytes == self.total_bytes

    @property
    def held_bytes(self) -> int:
        """How far an upload is: all of it when the object store has it."""
        return self.total_bytes if self.shared and self.total_bytes is not None else self.received_bytes

    @property
    def reserved_bytes(self) -> int:
        """What the blob takes of the quota: all that was announced, or what was written."""
        return self.received_bytes if self.total_bytes is None else self.total_bytes

    def moved(self) -> None:
        """Wake whoever waits: bytes arrived, the end is known, or the blob is gone."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def beyond(self, offset: int, *, stall_s: float) -> int:
        """How many bytes are here, once there are more than ``offset`` or the blob is complete.

        Raises:
            RunError: the blob was discarded, its rest cannot be had, or nothing moved for ``stall_s`` seconds.
        """
        while self.received_bytes <= offset and not (self.is_complete or self.discarded or self.failure):
            try:
                await asyncio.wait_for(self._moved.wait(), stall_s)
            except TimeoutError:
                raise RunError(Reason.UNREACHABLE, "blob: its writer stalls; ask again for the rest") from None
        if self.discarded:
            raise _unknown()
        if self.received_bytes <= offset and self.failure is not None:
            raise self.failure
        return self.received_bytes

    def open(self) -> BinaryIO:
        """The file, for reading.

        Raises:
            RunError: nothing has arrived yet, the blob was discarded, or no more files may be opened.
        """
        try:
            with naming_shortages():
                return self.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise _unknown() from None


class Spool:
    """Every blob of every plan."""

    def __init__(self, folder: Path, state: HostState, limits: Limits) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._state = state
        self._limits = limits
        self._pool = FilePool(folder.parent / "blob-pool", limits.pool_bytes)
        self._disk = ThreadPoolExecutor(max_workers=_DISK_THREADS, thread_name_prefix="spool")
        self._blobs: dict[BlobName, SpooledBlob] = {}
        self._owed: set[BlobName] = set()  # discarded while the disk was too full to forget them
        self._declined: dict[BlobName, Reason] = {}
        self.reserved_bytes = 0  # of the quota
        self.on_complete: Callable[[BlobName], None] = lambda name: None

    async def load(self) -> None:
        """Take up every blob that the state knows; to be called once, before anything else."""
        for stored in await self._state.blobs():
            self._take_up(stored)
        self._sweep()

    async def close(self) -> None:
        """Wait for writes that are under way."""
        self._disk.shutdown(wait=True)

    def find(self, name: BlobName) -> SpooledBlob:
        """The blob ``name``.

        Raises:
            RunError: the aggregator announced no such blob.
        """
        blob = self._blobs.get(name)
        if blob is None and name in self._declined:
            raise RunError(self._declined[name], "blob: announced, and there is no room for it yet; ask again")
        if blob is None:
            raise _unknown()
        return blob

    def decline(self, name: BlobName, reason: Reason) -> None:
        """An announcement was refused for ``reason``: its uploader hears that, and may wait for the next one."""
        while len(self._declined) >= _MAX_DECLINED:
            del self._declined[next(iter(self._declined))]
        self._declined[name] = reason

    def peek(self, name: BlobName) -> SpooledBlob | None:
        """The blob ``name`` as it is here, from any thread; None if nothing is known of it here."""
        return self._blobs.get(name)

    async def locate(self, name: BlobName) -> SpooledBlob:
        """The blob ``name``, also one of which another replica alone was told.

        Raises:
            RunError: the aggregator announced no such blob.
        """
        return self.find(name)

    async def bring(self, name: BlobName, blob: SpooledBlob, upto: int) -> None:
        """Have the bytes before ``upto`` here, if another replica completed the blob.

        Raises:
            RunError: they cannot be had now.
        """

    async def settle(self, name: BlobName, blob: SpooledBlob) -> None:
        """Return when a blob that is complete here can be had from every replica, and after a restart.

        An upload is answered behind this.

        Raises:
            RunError: they cannot have it now, or a full disk keeps this host from remembering it; ask again.
        """
        if blob.is_complete:
            self.remember(name)

    async def expect(self, name: BlobName, size_bytes: int) -> SpooledBlob:
        """Allow an upload of exactly ``size_bytes`` under ``name``. The same announcement again changes nothing.

        Raises:
            RunError: announced with another size or written by the aggregator, or more than there is room for.
        """
        self._declined.pop(name, None)
        known = self._blobs.get(name)
        if known is not None:
            if known.total_bytes != size_bytes or known.origin is not Origin.WORKER:
                raise RunError(Reason.RUN_STATE, "blob: this name stands for another size or writer")
            return known
        if not 0 < size_bytes <= MAX_BLOB_BYTES:
            raise RunError(Reason.TOO_LARGE, f"blob: 1 to {MAX_BLOB_BYTES} bytes")
        self._make_room(size_bytes)
        return await self._add(name, Origin.WORKER, size_bytes)

    async def upload(self, name: BlobName, offset: int, pieces: Sequence[Buffer]) -> SpooledBlob:
        """Add the ``pieces`` that a worker sent from ``offset`` on; what was received before is skipped.

        Raises:
            RunError: never announced, or an offset beyond what is here.
            BlobError: more bytes than were announced.
        """
        blob = self._of_worker(name)
        if offset + sum(map(len, pieces)) > (blob.total_bytes or 0):
            raise too_long()
        await self._append(name, blob, offset, pieces, whole=blob.total_bytes)
        return blob

    async def pour(self, name: BlobName, offset: int, source: Source, threads: Executor) -> tuple[SpooledBlob, int]:
        """As :meth:`upload`, of all that ``source`` gives, which is called in one of ``threads``; the blob, and how
        many bytes were taken. They are written from where they were received: no other thread is woken for them.

        Raises:
            RunError, BlobError: as :meth:`upload`; what the source gave in this call does not count then.
        """
        blob = self._of_worker(name)
        async with blob.writing:
            self._require_here(blob, offset)
            if blob.received_bytes == 0 and not blob.path.exists():
                self._pool.take(blob.path, blob.total_bytes)
            pouring = Pouring(blob.path, blob.received_bytes, blob.received_bytes - offset, blob.total_bytes or 0)
            await self._write_behind(name, blob, partial(pouring.all_of, source), threads)
        return blob, pouring.taken

    def remember(self, name: BlobName) -> None:
        """Write down how far a blob is: an upload that is cut now continues here after a crash, too.

        Raises:
            RunError: HOST_SHORT: it could not be written down, and is tried again when the blob is asked for.
        """
        blob = self._blobs.get(name)
        if blob is not None and blob.remembered_bytes != blob.received_bytes:
            self._state.note_received(_stored(name, blob, blob.received_bytes))
            blob.remembered_bytes = blob.received_bytes
            if blob.is_complete:
                self._arrived(name, blob)

    async def write(self, name: BlobName, offset: int, data: Buffer, *, last: bool) -> SpooledBlob:
        """Add what the aggregator writes; the first write makes the blob, the ``last`` one fixes its size.

        Raises:
            RunError: a worker's blob, an offset beyond what is here, a changed end, or no room.
        """
        self._make_room(len(data))
        blob = self._blobs.get(name) or await self._add(name, Origin.AGGREGATOR, None)
        end = offset + len(data)
        if blob.origin is not Origin.AGGREGATOR or (blob.total_bytes is not None and end > blob.total_bytes):
            raise RunError(Reason.RUN_STATE, "blob: already complete, or announced for a worker")
        await self._append(name, blob, offset, [data], whole=end if last else None)
        if last and blob.total_bytes is None:
            if end != blob.received_bytes:
                raise RunError(Reason.RUN_STATE, "blob: bytes stand behind what is called the last one")
            if not blob.discarded:
                cut(blob.path, end)
            done = StoredBlob(name.plan, name.blob, blob.origin, end, blob.shared, end)
            await self._state.finish_blob(done)  # before the end counts: it is refused, and said again, if this fails
            blob.total_bytes = end
            blob.remembered_bytes = end
            blob.moved()
        return blob

    async def discard(self, name: BlobName) -> None:
        """Delete a blob, whether or not it exists. Its readers and writers are told that it is unknown.

        On a full disk the file goes first, which makes the room to forget its name; what cannot be forgotten yet is
        forgotten with the next blob that is discarded.
        """
        self._declined.pop(name, None)
        if name not in self._blobs:
            return
        self._owed.add(name)
        for owed in list(self._owed):
            try:
                await self._state.delete_blob(owed.plan, owed.blob)
            except HostShort:
                self.forget(owed)
                self._pool.empty()
                continue
            self._owed.discard(owed)
            self.forget(owed)

    def forget(self, name: BlobName) -> None:
        """Delete what is here of a blob."""
        blob = self._blobs.pop(name, None)
        if blob is None:
            return
        self.reserved_bytes -= blob.reserved_bytes
        blob.discarded = True
        if not blob.writing.locked():  # else whoever writes gives the file back
            self._pool.give(blob.path)
        blob.moved()

    async def read(self, file: BinaryIO, offset: int, size_bytes: int) -> bytes:
        """At most ``size_bytes`` of ``file`` from ``offset``; a slow disk keeps nobody else waiting.

        A blob that is discarded meanwhile may give another one's bytes: sealed, and of no use to whoever gets them.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, os.pread, file.fileno(), size_bytes, offset)

    async def _append(
        self, name: BlobName, blob: SpooledBlob, offset: int, pieces: Sequence[Buffer], *, whole: int | None
    ) -> None:
        """Add ``pieces`` of a blob that has ``whole`` bytes in all, as far as anybody knows."""
        async with blob.writing:  # two uploads of one blob take turns, chunk by chunk
            self._require_here(blob, offset)
            new = behind(pieces, blob.received_bytes - offset)
            if new:
                if blob.received_bytes == 0:
                    self._pool.take(blob.path, whole)
                write = partial(write_at, blob.path, blob.received_bytes, new)
                await self._write_behind(name, blob, write, self._disk)
            elif blob.is_complete and blob.remembered_bytes != blob.received_bytes:  # the store was away at the end
                self.remember(name)

    def _of_worker(self, name: BlobName) -> SpooledBlob:
        """A blob that a worker may upload."""
        blob = self.find(name)
        if blob.origin is not Origin.WORKER or blob.total_bytes is None:
            raise RunError(Reason.BLOB_UNKNOWN, "blob: the aggregator writes this one itself")
        return blob

    def _require_here(self, blob: SpooledBlob, offset: int) -> None:
        """What is written from ``offset`` on joins what is here."""
        if blob.discarded:
            raise _unknown()
        if offset > blob.received_bytes:
            raise RunError(Reason.BLOB_OFFSET, "blob: the offset is beyond what is here; ask Stat where to go on")

    async def _write_behind(
        self, name: BlobName, blob: SpooledBlob, write: Callable[[], int], threads: Executor
    ) -> None:
        """Do ``write`` and count what it says it wrote, also when the stream that brought it is cut meanwhile."""
        writing = asyncio.get_running_loop().run_in_executor(threads, write)
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])
            if blob.discarded:
                self._pool.give(blob.path)
            elif writing.exception() is None:
                arrived = writing.result()
                blob.received_bytes += arrived
                if blob.total_bytes is None:
                    self.reserved_bytes += arrived
                blob.moved()
                if blob.is_complete or blob.received_bytes - blob.remembered_bytes >= _REMEMBER_BYTES:
                    self.remember(name)  # a full disk refuses here: the bytes stay, and nobody is told of the end yet

    def _arrived(self, name: BlobName, blob: SpooledBlob) -> None:
        """The last byte is on this disk, and known to be."""
        self.on_complete(name)

    async def _add(self, name: BlobName, origin: Origin, total_bytes: int | None) -> SpooledBlob:
        self._owed.discard(name)  # announced anew
        standing = await self._state.add_blob(StoredBlob(name.plan, name.blob, origin, total_bytes))
        again = origin is standing.origin is Origin.AGGREGATOR  # it is the same one that writes, and may write again
        if not again and (standing.origin, standing.total_bytes) != (origin, total_bytes):
            raise RunError(Reason.RUN_STATE, "blob: this name stands for another size or writer")
        return self._take_up(standing)

    def _take_up(self, stored: StoredBlob) -> SpooledBlob:
        """The blob of this row, whose file may be there already."""
        name = BlobName(stored.plan, stored.blob)
        path = self._path(name)
        with naming_shortages():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._blobs.get(name) or self._hold(name, self._found(path, stored))

    def _hold(self, name: BlobName, blob: SpooledBlob) -> SpooledBlob:
        self._blobs[name] = blob
        self.reserved_bytes += blob.reserved_bytes
        return blob

    def _found(self, path: Path, stored: StoredBlob) -> SpooledBlob:
        """A blob of before the start; a file that was shortened meanwhile counts as far as it goes."""
        received = stored.received_bytes
        if received:
            received = min(received, path.stat().st_size if path.exists() else 0)
        return SpooledBlob(path, stored.origin, stored.total_bytes, received)

    def _sweep(self) -> None:
        """Delete files that no row names: a crash came between the two steps of a discard."""
        known = {blob.path for blob in self._blobs.values()}
        for path in self._folder.glob("*/*"):
            if path not in known:
                path.unlink()

    def _make_room(self, size_bytes: int) -> None:
        if self.reserved_bytes + size_bytes > self._limits.spool_bytes:
            raise RunError(Reason.QUOTA, "spool: the host's quota is taken; raise limits.spool_bytes or end a run")
        if self._free_bytes() < size_bytes + self._limits.free_disk_bytes:
            self._pool.empty()
        if self._free_bytes() < size_bytes + self._limits.free_disk_bytes:
            raise RunError(Reason.QUOTA, "spool: the disk has no room for what is announced")

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def _path(self, name: BlobName) -> Path:
        return self._folder / name.plan.hex() / name.blob.hex()


def _stored(name: BlobName, blob: SpooledBlob, received_bytes: int) -> StoredBlob:
    return StoredBlob(name.plan, name.blob, blob.origin, blob.total_bytes, blob.shared, received_bytes)


def _unknown() -> RunError:
    return RunError(Reason.BLOB_UNKNOWN, "blob: the aggregator announced no such name, or discarded it")
