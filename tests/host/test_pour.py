"""What is poured into a blob from where it was received: skipped, bounded, kept when cut, and given back when gone."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.host.blob_file import Source
from coordinator.host.limits import Limits
from coordinator.host.spool import BlobName, Spool, SpooledBlob
from coordinator.host.state_sqlite import SqliteState
from tests.host.conftest import PLAN
from trusted.errors import ProtocolError, Reason

WAIT_S = 20
NAME, OTHER = BlobName(PLAN, b"b" * 16), BlobName(PLAN, b"o" * 16)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    state = SqliteState(tmp_path / "host.sqlite")
    spool = Spool(tmp_path / "blobs", state, Limits(free_disk_bytes=1))
    yield spool
    await spool.close()
    await state.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def gives(pieces: Iterable[bytes]) -> Source:
    """A source of ``pieces``, each in the buffer that the next one overwrites."""
    buffer, left = memoryview(bytearray(1 << 20)), iter(pieces)

    def more() -> memoryview:
        buffer[:] = bytes(len(buffer))
        piece = next(left, b"")
        buffer[: len(piece)] = piece
        return buffer[: len(piece)]

    return more


class Gate:
    """A source that gives ``piece`` and then waits in its thread until it is opened."""

    def __init__(self, piece: bytes) -> None:
        self._pieces = iter((piece,))
        self.reached, self.opened = asyncio.Event(), threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> memoryview:
        piece = next(self._pieces, b"")
        if not piece:
            self._loop.call_soon_threadsafe(self.reached.set)
            self.opened.wait(WAIT_S)
        return memoryview(piece)


async def refused(work: Awaitable[object]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        await work
    return caught.value.reason


def stored(blob: SpooledBlob) -> bytes:
    return blob.path.read_bytes()[: blob.received_bytes]


async def test_what_is_poured_is_what_stands_there(spool: Spool, threads: ThreadPoolExecutor) -> None:
    data, arrived = token_bytes(2500), list[BlobName]()
    spool.on_complete = arrived.append
    blob = await spool.expect(NAME, len(data))
    assert await spool.pour(NAME, 0, gives([data[:1000], data[1000:1001]]), threads) == (blob, 1001)
    assert (blob.received_bytes, arrived) == (1001, [])
    assert await spool.pour(NAME, 1001, gives([data[1001:]]), threads) == (blob, 1499)
    assert stored(blob) == data
    assert arrived == [NAME]


@pytest.mark.parametrize("sizes", [[99, 401], [100, 400], [101, 399], [1] * 500, [500]])
async def test_what_is_here_already_is_skipped_and_the_first_bytes_stay(
    spool: Spool,
    threads: ThreadPoolExecutor,
    sizes: list[int],
) -> None:
    data = token_bytes(500)
    blob = await spool.expect(NAME, len(data))
    await spool.pour(NAME, 0, gives([data[:150]]), threads)
    again, pieces = bytes(150) + data[150:], list[bytes]()
    rest = again[50:]
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert await spool.pour(NAME, 50, gives(pieces), threads) == (blob, 450)
    assert stored(blob) == data


async def test_all_of_it_again_changes_nothing(spool: Spool, threads: ThreadPoolExecutor) -> None:
    data = token_bytes(500)
    blob = await spool.expect(NAME, len(data))
    await spool.pour(NAME, 0, gives([data]), threads)
    assert await spool.pour(NAME, 0, gives([bytes(500)]), threads) == (blob, 500)
    assert await spool.pour(NAME, 490, gives([bytes(10)]), threads) == (blob, 10)
    assert stored(blob) == data


async def test_a_source_that_gives_nothing_changes_nothing(spool: Spool, threads: ThreadPoolExecutor) -> None:
    blob = await spool.expect(NAME, 10)
    assert await spool.pour(NAME, 0, gives([]), threads) == (blob, 0)
    assert blob.received_bytes == 0
    await spool.pour(NAME, 0, gives([b"0123456789"]), threads)
    assert stored(blob) == b"0123456789"


@pytest.mark.parametrize("pieces", [[b"678901"], [b"67890", b"1"], [b"5678901"]])
async def test_more_than_was_announced_is_refused_and_the_end_may_still_come(
    spool: Spool,
    threads: ThreadPoolExecutor,
    pieces: list[bytes],
) -> None:
    blob = await spool.expect(NAME, 10)
    await spool.pour(NAME, 0, gives([b"12345"]), threads)
    offset = 4 if pieces[0].startswith(b"5") else 5
    assert await refused(spool.pour(NAME, offset, gives(pieces), threads)) is Reason.BLOB_TOO_LONG
    assert stored(blob) == b"12345"
    await spool.pour(NAME, 5, gives([b"67890"]), threads)
    assert stored(blob) == b"1234567890"
    assert await refused(spool.pour(NAME, 10, gives([b"x"]), threads)) is Reason.BLOB_TOO_LONG
    assert blob.path.stat().st_size == 10


async def test_what_may_not_be_poured_is_refused_before_the_source_is_asked(
    spool: Spool,
    threads: ThreadPoolExecutor,
) -> None:
    await spool.expect(NAME, 10)
    await spool.write(OTHER, 0, b"model", last=False)

    def never() -> memoryview:
        raise AssertionError

    unknown = BlobName(PLAN, b"u" * 16)
    assert await refused(spool.pour(NAME, 1, never, threads)) is Reason.BLOB_OFFSET
    assert await refused(spool.pour(OTHER, 5, never, threads)) is Reason.BLOB_UNKNOWN
    assert await refused(spool.pour(unknown, 0, never, threads)) is Reason.BLOB_UNKNOWN


async def test_a_blob_that_is_discarded_meanwhile_gives_its_file_back(
    spool: Spool,
    threads: ThreadPoolExecutor,
) -> None:
    blob = await spool.expect(NAME, 1000)
    gate = Gate(bytes(600))
    pouring = asyncio.create_task(spool.pour(NAME, 0, gate, threads))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    await spool.discard(NAME)
    assert blob.path.exists()  # it is written to: nobody may have it yet
    gate.opened.set()
    await asyncio.wait([pouring], timeout=WAIT_S)
    assert not blob.path.exists()
    assert spool._pool.size_bytes == 600
    assert spool.reserved_bytes == 0
    assert await refused(spool.pour(NAME, 600, gives([b"x"]), threads)) is Reason.BLOB_UNKNOWN
    again = await spool.expect(OTHER, 900)
    await spool.pour(OTHER, 0, gives([b"y" * 900]), threads)
    assert spool._pool.size_bytes == 0  # the file is used again
    assert stored(again) == b"y" * 900


async def test_one_who_waits_for_a_discarded_blob_is_told(spool: Spool, threads: ThreadPoolExecutor) -> None:
    await spool.expect(NAME, 1000)
    gate = Gate(bytes(600))
    first = asyncio.create_task(spool.pour(NAME, 0, gate, threads))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    second = asyncio.create_task(spool.pour(NAME, 0, gives([bytes(700)]), threads))
    await asyncio.sleep(0)
    await spool.discard(NAME)
    gate.opened.set()
    await asyncio.wait([first], timeout=WAIT_S)
    assert await refused(asyncio.wait_for(second, WAIT_S)) is Reason.BLOB_UNKNOWN


async def test_two_who_pour_one_blob_take_turns(spool: Spool, threads: ThreadPoolExecutor) -> None:
    data = token_bytes(1000)
    blob = await spool.expect(NAME, len(data))
    gate = Gate(data[:600])
    first = asyncio.create_task(spool.pour(NAME, 0, gate, threads))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    second = asyncio.create_task(spool.pour(NAME, 0, gives([bytes(600) + data[600:]]), threads))
    await asyncio.sleep(0)
    gate.opened.set()
    assert await asyncio.gather(first, second) == [(blob, 600), (blob, 1000)]
    assert stored(blob) == data


async def test_one_who_is_cancelled_leaves_what_its_thread_had(
    spool: Spool,
    threads: ThreadPoolExecutor,
) -> None:
    data = token_bytes(1000)
    blob = await spool.expect(NAME, len(data))
    gate = Gate(data[:600])
    pouring = asyncio.create_task(spool.pour(NAME, 0, gate, threads))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    pouring.cancel()
    await asyncio.sleep(0)
    assert not pouring.done()  # its thread writes
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(pouring, WAIT_S)
    assert stored(blob) == data[:600]
    await spool.pour(NAME, 600, gives([data[600:]]), threads)
    assert stored(blob) == data


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, Reason.HOST_SHORT), (errno.EIO, Reason.STORE_AWAY)], ids=["full", "failing"]
)
async def test_a_disk_that_refuses_loses_nothing_that_was_there_before(
    spool: Spool,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: Reason,
) -> None:
    data, write = token_bytes(1000), os.pwritev
    blob = await spool.expect(NAME, len(data))
    await spool.pour(NAME, 0, gives([data[:300]]), threads)

    def pwritev(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        if offset >= 600:
            raise OSError(number, "the disk")
        return write(descriptor, [piece[: 600 - offset] for piece in pieces], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    assert await refused(spool.pour(NAME, 300, gives([data[300:500], data[500:]]), threads)) is reason
    assert stored(blob) == data[:300]
    monkeypatch.setattr(os, "pwritev", write)
    await spool.pour(NAME, 300, gives([data[300:]]), threads)
    assert stored(blob) == data


async def test_a_source_that_breaks_loses_nothing_that_was_there_before(
    spool: Spool,
    threads: ThreadPoolExecutor,
) -> None:
    blob = await spool.expect(NAME, 10)
    await spool.pour(NAME, 0, gives([b"123"]), threads)

    def broken() -> memoryview:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await spool.pour(NAME, 3, broken, threads)
    assert stored(blob) == b"123"
    await spool.pour(NAME, 3, gives([b"4567890"]), threads)
    assert stored(blob) == b"1234567890"


async def test_a_reader_wakes_when_more_was_poured(spool: Spool, threads: ThreadPoolExecutor) -> None:
    blob = await spool.expect(NAME, 10)
    waiting = asyncio.create_task(blob.beyond(2, stall_s=WAIT_S))
    await asyncio.sleep(0)
    await spool.pour(NAME, 0, gives([b"123"]), threads)
    assert await asyncio.wait_for(waiting, WAIT_S) == 3
