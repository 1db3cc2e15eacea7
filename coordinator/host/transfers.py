"""What uploads and downloads share, whichever port they come to: turns, counts, the cut of a blob. Trust zone: host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import BinaryIO

from coordinator.host.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES, Limits
from coordinator.host.metrics import HostMetrics
from coordinator.host.run_book import RunBook
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from coordinator.host.turns import Turn, Turns
from trusted.errors import Reason, RunError

_MAX_STRETCH_BYTES = MAX_MESSAGE_BYTES + (32 << 10)  # four sealed pieces are a little more than 4 MiB
_NEVER = 1 << 63


class Transfers:
    """One set of places for the uploads, and one for the downloads, of a host."""

    def __init__(self, spool: Spool, book: RunBook, metrics: HostMetrics, limits: Limits) -> None:
        self.spool = spool
        self.limits = limits
        self._book = book
        self._metrics = metrics
        floor, waited = limits.crawl_bytes, metrics.upload_wait_seconds.inc
        self._uploads = Turns(limits.uploads, limits.stall_s, waited=waited, floor_bytes=floor)
        self._downloads = Turns(limits.downloads, limits.stall_s, floor_bytes=floor)

    def upload_turn(self, claimed: bytes) -> Turn:
        """For one more upload, in the turn of the plan that it claims; those of plans unknown here are one plan."""
        return self._uploads.turn(claimed if self._book.knows(claimed) else b"")

    def download_turn(self, plan: bytes) -> Turn:
        """For one more download of a blob of ``plan``."""
        return self._downloads.turn(plan)

    async def find_to_send(self, name: BlobName, offset: int) -> SpooledBlob:
        """The blob ``name``, on its way here if another replica has it.

        Raises:
            RunError: unknown, or ``offset`` is beyond it.
        """
        blob = await self.spool.locate(name)
        if offset > (blob.received_bytes if blob.total_bytes is None else blob.total_bytes):
            raise RunError(Reason.BLOB_OFFSET, "Get: the offset is beyond the blob")
        await self.spool.bring(name, blob, offset + 1)
        return blob

    async def follow(
        self,
        blob: SpooledBlob,
        offset: int,
        turn: Turn,
        *,
        first_bytes: int = 0,
        then_bytes: int = 0,
        end: int = _NEVER,
    ) -> AsyncGenerator[tuple[BinaryIO, int, int]]:
        """(file, offset, size) of each stretch to send next, when it is there; the aggregator may still be writing.

        Cut as the reader wishes: ``first_bytes`` at first, then ``then_bytes``, each only when the whole of it is
        there; 0: as this host likes; nothing from ``end`` on. The turn is taken before a stretch is given: who waits
        holds nothing.
        """
        wanted, patient = first_bytes or then_bytes or CHUNK_BYTES, then_bytes > 0
        with ExitStack() as opened:
            file = None
            while offset < end:
                wanted = min(wanted, end - offset)
                last = offset + (wanted - 1 if patient else 0)
                available = await blob.beyond(last, stall_s=self.limits.stall_s)
                if available <= offset:
                    return
                file = file or opened.enter_context(blob.open())
                size = min(wanted, _MAX_STRETCH_BYTES, available - offset)
                await turn.take()
                yield file, offset, size
                offset += size
                wanted = then_bytes or CHUNK_BYTES

    def count(self, name: BlobName, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """So much was taken in or sent: in the metrics, and in what is remembered of the run."""
        direction, size = ("in", bytes_in) if bytes_in else ("out", bytes_out)
        self._metrics.payload_bytes.labels(direction, "blob").inc(size)
        self._book.carried(name.plan, bytes_in=bytes_in, bytes_out=bytes_out)
