"""A disk that is full for a while: uploads and writes wait, and no door breaks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from secrets import token_bytes

import pytest

from coordinator.door import Address
from coordinator.enclave.door_store import StoreRefused
from coordinator.enclave.doors import Doors
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
    assert caught.value.reason is Reason.QUOTA


def test_a_write_that_finds_no_room_says_so_and_breaks_no_door(doors: Doors, full: Disk) -> None:
    (link,) = doors._links
    data, blob = token_bytes(1000), token_bytes(16)
    full(1)
    with pytest.raises(StoreRefused) as caught:
        doors.write(blob, len(data), [data])
    assert caught.value.reason is Reason.QUOTA
    doors.write(blob, len(data), [data])
    assert arrivals(doors) == []
    assert doors._links == [link]
    assert doors.read(blob, 0, 1000) == data
