"""A disk that is full for a while: uploads and writes wait, and no door breaks."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import Address, Decline
from coordinator.enclave.door_store import StoreRefused
from coordinator.enclave.doors import Doors
from coordinator.host.limits import Limits
from coordinator.host.spool import BlobName, Spool
from coordinator.host.state_sqlite import SqliteState
from tests.host.conftest import PLAN, RunningHost
from tests.host.test_blobs import wait_for
from tests.host.test_doors import arrivals, opened
from trusted.errors import ProtocolError, Reason
from worker.dialer import Patience

Disk = Callable[[int], None]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Let the next so many writes find no room."""
    left, write = [0], os.pwritev

    def pwritev(*args: object) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwritev", pwritev)

    def fill(times: int) -> None:
        left[0] = times

    return fill


@pytest.fixture
def doors(host: RunningHost) -> Iterator[Doors]:
    door: Address = host.config.door
    with Doors([door], PLAN, lambda event, **fields: None) as doors:
        opened(doors, 1)
        yield doors


def test_an_upload_waits_for_room(host: RunningHost, doors: Doors, full: Disk) -> None:
    data, blob = token_bytes(1000), token_bytes(16)
    doors.expect(blob, len(data))
    wait_for(host.dialer(), blob)
    full(2)
    host.dialer(patience=Patience(3, 0.05)).put_blob(blob, data)
    assert doors.read(blob, 0, 1000) == data


def test_an_upload_that_finds_no_room_is_refused_for_that(host: RunningHost, doors: Doors, full: Disk) -> None:
    data, blob = token_bytes(1000), token_bytes(16)
    doors.expect(blob, len(data))
    wait_for(host.dialer(), blob)
    full(100)
    with pytest.raises(ProtocolError) as caught:
        host.dialer(patience=Patience(3, 0.05)).put_blob(blob, data)
    assert caught.value.reason is Reason.HOST_SHORT


def test_a_write_that_finds_no_room_says_so_and_breaks_no_door(doors: Doors, full: Disk) -> None:
    (link,) = doors._links
    data, blob = token_bytes(1000), token_bytes(16)
    full(1)
    with pytest.raises(StoreRefused) as caught:
        doors.write(blob, len(data), [data])
    assert caught.value.reason is Reason.HOST_SHORT
    doors.write(blob, len(data), [data])
    assert arrivals(doors) == []
    assert doors._links == [link]
    assert doors.read(blob, 0, 1000) == data


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[tuple[Spool, SqliteState, sqlite3.Connection]]:
    """A spool, its database, and somebody who can keep it from writing there."""
    state = SqliteState(tmp_path / "db")
    state._db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        yield Spool(tmp_path / "blobs", state, Limits(free_disk_bytes=1)), state, other


async def refused(work: Awaitable[object]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        await work
    return caught.value.reason


async def test_an_upload_whose_end_could_not_be_noted_is_noted_when_it_is_sent_again(spool) -> None:
    blobs, state, other = spool
    name, arrived = BlobName(PLAN, token_bytes(16)), []
    blobs.on_complete = arrived.append
    await blobs.expect(name, 3)
    other.execute("BEGIN IMMEDIATE")
    assert await refused(blobs.upload(name, 0, [b"abc"])) is Reason.STORE_AWAY
    assert await refused(blobs.upload(name, 0, [b"abc"])) is Reason.STORE_AWAY
    assert arrived == []
    other.execute("ROLLBACK")
    await blobs.upload(name, 0, [b"abc"])
    assert arrived == [name]
    assert [blob.received_bytes for blob in await state.blobs()] == [3]


async def test_a_write_whose_end_could_not_be_noted_is_not_taken_for_stored(spool) -> None:
    blobs, state, other = spool
    name = BlobName(PLAN, token_bytes(16))
    await blobs.write(name, 0, b"ab", last=False)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        assert await refused(blobs.write(name, 2, b"c", last=True)) is Reason.STORE_AWAY
    other.execute("ROLLBACK")
    await blobs.write(name, 2, b"c", last=True)
    assert [(blob.total_bytes, blob.received_bytes) for blob in await state.blobs()] == [(3, 3)]


async def test_an_event_that_could_not_be_stored_leaves_no_transaction_behind(spool) -> None:
    _, state, other = spool
    other.execute("BEGIN IMMEDIATE")
    assert await refused(state.append_event(PLAN, "{}")) is Reason.STORE_AWAY
    other.execute("ROLLBACK")
    assert await state.append_event(PLAN, "{}")


async def test_what_was_declined_is_said_to_its_uploader_until_it_is_announced_again(spool) -> None:
    blobs, _, _ = spool
    name, other = BlobName(PLAN, token_bytes(16)), BlobName(PLAN, token_bytes(16))
    blobs.decline(name, Reason.QUOTA)
    assert await refused(blobs.upload(name, 0, [b"a"])) is Reason.QUOTA
    assert await refused(blobs.upload(other, 0, [b"a"])) is Reason.BLOB_UNKNOWN
    await blobs.expect(name, 1)
    await blobs.upload(name, 0, [b"a"])
    await blobs.discard(name)
    assert await refused(blobs.upload(name, 0, [b"a"])) is Reason.BLOB_UNKNOWN


@pytest.mark.parametrize(("reason", "known"), [(Reason.QUOTA, False), (Reason.RUN_STATE, True)])
def test_a_decline_of_a_name_that_nobody_announced_or_for_good_is_not_remembered(doors: Doors, reason, known) -> None:
    announced, other = token_bytes(16), token_bytes(16)
    doors.expect(announced, 10)
    doors._note_declined(Decline(announced if known else other, reason).encode())
    assert doors._declined == set()
    doors._note_declined(Decline(announced, Reason.STORE_AWAY).encode())
    assert doors._declined == {announced}


def test_an_aggregator_announces_again_what_there_was_no_room_for(make_host) -> None:
    host = make_host(spool_bytes=1500)
    with Doors([host.config.door], PLAN, lambda event, **fields: None) as doors:
        opened(doors, 1)
        first, second, data = token_bytes(16), token_bytes(16), token_bytes(1000)
        doors.expect(first, 1000)
        doors.expect(second, 1000)
        arrivals(doors, lambda: bool(doors._declined))
        with pytest.raises(ProtocolError) as caught:
            host.dialer(patience=Patience(2, 0.05)).put_blob(second, data)
        assert caught.value.reason is Reason.QUOTA
        doors.discard(first)
        doors.tend()
        assert doors._declined == set()
        host.dialer(patience=Patience(3, 0.3)).put_blob(second, data)
        assert doors.read(second, 0, 1000) == data
