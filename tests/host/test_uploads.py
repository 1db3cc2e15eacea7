"""Uploads in fair turns: all finish, who stands still holds up nobody, and a window has a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest

from coordinator.host.limits import Limits
from coordinator.host.spool import BlobName, Spool
from coordinator.host.state_sqlite import SqliteState
from coordinator.host.turns import Turns
from coordinator.host.uploads import Window
from protos.chunks import PutChunk
from protos.v1 import cloister_pb2
from tests.host.conftest import PLAN, RunningHost
from tests.host.test_blobs import MIB, name_of, wait_for
from trusted.errors import ProtocolError, Reason

NAME = BlobName(PLAN, b"b" * 16)


def chunk(size: int) -> PutChunk:
    return PutChunk(b"", b"", 0, memoryview(bytes(size)))


async def messages(count: int, size: int = MIB) -> AsyncIterator[PutChunk]:
    for _ in range(count):
        await asyncio.sleep(0)
        yield chunk(size)


async def silence() -> AsyncIterator[PutChunk]:
    await asyncio.Event().wait()
    yield chunk(1)


async def take_all(messages: AsyncIterator[PutChunk], turns: Turns) -> int:
    taken = 0
    async with turns.turn() as turn:
        while (message := await turn.move(anext(messages, None))) is not None:
            taken += len(message.data)
            turn.used(len(message.data))
    return taken


async def test_more_uploads_than_turns_all_finish_and_never_more_at_once() -> None:
    turns, reading, most = Turns(3, 120.0), 0, 0

    async def watched() -> AsyncIterator[PutChunk]:
        nonlocal reading, most
        for _ in range(20):
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0.001)
            reading -= 1
            yield chunk(MIB)

    taken = await asyncio.wait_for(asyncio.gather(*(take_all(watched(), turns) for _ in range(12))), 20)
    assert taken == [20 * MIB] * 12
    assert most == 3


async def test_an_upload_that_stands_still_gives_its_turn_back() -> None:
    turns = Turns(1, 120.0)
    stalled = asyncio.create_task(take_all(silence(), turns))
    await asyncio.sleep(0)
    assert turns.wanted
    assert await asyncio.wait_for(take_all(messages(3), turns), 5) == 3 * MIB
    assert not stalled.done()
    stalled.cancel()


async def test_an_upload_that_stands_still_for_too_long_is_ended_and_its_turn_is_free() -> None:
    turns = Turns(1, 0.1)
    with pytest.raises(ProtocolError) as caught:
        await take_all(silence(), turns)
    assert caught.value.reason is Reason.UNREACHABLE
    assert not turns.wanted
    assert await take_all(messages(2), turns) == 2 * MIB


async def test_a_small_upload_does_not_wait_for_the_end_of_a_large_one() -> None:
    turns = Turns(1, 120.0)
    ended: list[str] = []

    async def upload(name: str, count: int) -> None:
        await take_all(messages(count), turns)
        ended.append(name)

    await asyncio.wait_for(asyncio.gather(upload("large", 100), upload("small", 1), upload("middle", 10)), 20)
    assert ended == ["small", "middle", "large"]


@pytest.mark.parametrize("failure", [RuntimeError, asyncio.CancelledError])
async def test_an_upload_that_breaks_leaves_its_turn(failure: type[BaseException]) -> None:
    turns = Turns(1, 120.0)

    async def broken() -> AsyncIterator[PutChunk]:
        yield chunk(1)
        raise failure

    with pytest.raises(failure):
        await take_all(broken(), turns)
    assert not turns.wanted


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    state = SqliteState(tmp_path / "host.sqlite")
    spool = Spool(tmp_path / "blobs", state, Limits(free_disk_bytes=1))
    yield spool
    await spool.close()
    await state.close()


async def test_a_window_waits_for_the_disk_and_holds_no_more_than_its_bound(spool: Spool) -> None:
    blob = await spool.expect(NAME, 20 * MIB)
    window = Window(spool, NAME, 0, Limits(upload_window_bytes=4 * MIB))
    added = 0

    async def send() -> None:
        nonlocal added
        for _ in range(20):
            await window.add(memoryview(bytes(MIB)))
            added += 1

    async with blob.writing:  # a disk that takes nothing
        sending = asyncio.create_task(send())
        for _ in range(200):
            await asyncio.sleep(0)
        assert not sending.done()
        assert 4 <= added <= 9  # what the disk was given, and a window behind it
    await asyncio.wait_for(sending, 10)
    await window.close()
    assert blob.is_complete


async def test_bytes_beyond_the_announced_end_are_refused_and_what_came_before_stays(spool: Spool) -> None:
    blob = await spool.expect(NAME, 10)
    window = Window(spool, NAME, 0, Limits())
    await window.add(memoryview(b"12345"))
    await window.close()
    await window.add(memoryview(b"678901"))
    with pytest.raises(ProtocolError) as caught:
        await window.close()
    assert caught.value.reason is Reason.BLOB_TOO_LONG
    assert blob.path.read_bytes()[: blob.received_bytes] == b"12345"


async def test_thousands_of_tiny_messages_that_wait_for_the_disk_are_written_together(spool: Spool) -> None:
    """More than one call of the kernel takes: it is no reason to refuse them."""
    data = token_bytes(3000)
    blob = await spool.expect(NAME, len(data))
    window = Window(spool, NAME, 0, Limits())
    async with blob.writing:
        for at in range(len(data)):
            await window.add(memoryview(data)[at : at + 1])
            await asyncio.sleep(0)
    await asyncio.wait_for(window.close(), 10)
    assert blob.is_complete
    assert blob.path.read_bytes() == data


def test_a_host_with_two_turns_takes_eight_uploads_beside_two_that_stand_still(
    make_host: Callable[..., RunningHost],
) -> None:
    host = make_host(uploads=2)
    peer, data, gone = host.door(), token_bytes(3 * MIB + 1), threading.Event()
    dialers = [host.dialer() for _ in range(10)]
    blobs = [peer.expect(len(data)) for _ in dialers]
    for dialer, blob in zip(dialers, blobs, strict=True):
        wait_for(dialer, blob)

    def stalled(blob: bytes) -> Iterator[Any]:
        yield cloister_pb2.PutChunk(name=name_of(blob), data=data[:100])
        gone.wait(20)

    calls = [dialers[at]._blobs.Put.future(stalled(blobs[at])) for at in (0, 1)]
    for at in (0, 1):
        wait_for(dialers[at], blobs[at], 100)
    threads = [threading.Thread(target=dialers[at].put_blob, args=(blobs[at], data)) for at in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for at in range(2, 10):
        assert b"".join(dialers[at].get_blob(blobs[at])) == data
    assert not any(call.done() for call in calls)
    gone.set()
