"""The door, over real sockets: registration, announcements, and the data path."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import Address, BlobRange, Decline, DoorKind, DoorRole, Registration, decode_reason
from coordinator.door_socket import DoorConnection, connect
from coordinator.host.door_server import listen
from tests.host.conftest import OTHER_PLAN, PLAN, RunningHost
from trusted.errors import Reason, RunError


def test_a_second_aggregator_is_refused_while_the_first_is_connected(host: RunningHost) -> None:
    first = host.door()
    with pytest.raises(RunError) as caught:
        host.door()
    assert caught.value.reason is Reason.AGGREGATOR_TAKEN
    host.door(OTHER_PLAN)
    first.close()
    deadline = time.monotonic() + 5
    while True:
        try:
            host.door()
            return
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_data_connection_with_another_token_is_refused(host: RunningHost) -> None:
    peer = host.door(with_data=False)
    for plan, token in ((PLAN, token_bytes(16)), (OTHER_PLAN, peer.token)):
        connection = DoorConnection(connect(peer.address))
        with pytest.raises(RunError), connection:
            connection.register(Registration(plan, DoorRole.DATA, token))


def test_a_connection_that_talks_nonsense_is_closed_and_the_others_go_on(host: RunningHost) -> None:
    peer = host.door()
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 13, b"\xff" * 64):
        sock = connect(peer.address)
        sock.sendall(nonsense)
        with DoorConnection(sock) as connection:
            answer = connection.receive()
            assert answer is not None
            assert answer.kind is DoorKind.REFUSED
            with suppress(ConnectionError):  # what it did not read of the nonsense
                assert connection.receive() is None
    assert peer.write(token_bytes(16), 0, b"x", last=True) is DoorKind.STORED


def test_a_control_message_on_the_data_connection_ends_it(host: RunningHost) -> None:
    peer = host.door()
    peer.data.send(DoorKind.EXPECT, 0, bytes(24))
    answer = peer.data.receive()
    assert answer is not None
    assert Reason(decode_reason(answer.body)) is Reason.UNEXPECTED_MESSAGE
    with suppress(ConnectionError):
        assert peer.data.receive() is None


def test_a_data_message_on_the_control_connection_ends_the_aggregator(host: RunningHost) -> None:
    peer = host.door()
    peer.control.send(DoorKind.READ, 0, BlobRange(bytes(16), 0, 1).encode())
    assert Reason(decode_reason(peer.next(DoorKind.REFUSED).body)) is Reason.UNEXPECTED_MESSAGE
    with pytest.raises((OSError, RunError)):
        peer.write(bytes(16), 0, b"x", last=True)


def test_an_aggregator_that_is_cut_off_takes_its_data_connection_with_it(host: RunningHost) -> None:
    peer = host.door()
    peer.control.close()
    deadline = time.monotonic() + 5
    with suppress(OSError):
        while time.monotonic() < deadline:
            peer.read(bytes(16), 0, 1)
    assert time.monotonic() < deadline


def test_what_is_written_is_read_and_nothing_beyond(host: RunningHost) -> None:
    peer, blob, data = host.door(), token_bytes(16), token_bytes(3000)
    assert peer.read(blob, 0, 10) is None
    assert peer.write(blob, 0, data[:1000], last=False) is DoorKind.STORED
    assert peer.read(blob, 0, 5000) == data[:1000]
    assert peer.write(blob, 2000, data[2000:], last=True) is DoorKind.REFUSED
    assert peer.write(blob, 1000, data[1000:], last=True) is DoorKind.STORED
    assert peer.write(blob, 1000, data[1000:], last=True) is DoorKind.STORED
    assert peer.write(blob, 3000, b"more", last=True) is DoorKind.REFUSED
    assert peer.read(blob, 100, 5000) == data[100:]
    assert peer.read(blob, 3000, 1) == b""
    assert peer.read(blob, 3001, 1) is None


def test_an_aggregator_reaches_no_blob_of_another_plan(host: RunningHost) -> None:
    peer, other, blob = host.door(), host.door(OTHER_PLAN), token_bytes(16)
    peer.write(blob, 0, b"mine", last=True)
    assert other.read(blob, 0, 4) is None


def test_an_upload_is_announced_when_complete_and_again_when_expected_again(host: RunningHost) -> None:
    peer, data = host.door(), token_bytes(2_500_000)
    blob = peer.expect(len(data))
    assert peer.read(blob, 0, 1) is None or peer.read(blob, 0, 1) == b""
    host.dialer().put_blob(blob, data)
    assert peer.next(DoorKind.ARRIVED).body == blob
    peer.expect(len(data), blob)
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert peer.read(blob, 1 << 20, 1 << 20) == data[1 << 20 : 2 << 20]


def test_an_announcement_that_cannot_be_kept_is_declined(make_host: Callable[..., RunningHost]) -> None:
    peer = make_host(spool_bytes=1000).door()
    kept = peer.expect(900)
    declined = peer.expect(200)
    answer = Decline.decode(peer.next(DoorKind.DECLINED).body)
    assert (answer.blob, answer.reason) == (declined, Reason.QUOTA)
    peer.expect(901, kept)
    assert Decline.decode(peer.next(DoorKind.DECLINED).body).reason == Reason.RUN_STATE
    peer.control.send(DoorKind.DISCARD, 0, kept)
    peer.expect(200, declined)
    peer.expect(2000)
    assert Decline.decode(peer.next(DoorKind.DECLINED).body).blob != declined


def test_a_discarded_blob_is_gone_from_disk(host: RunningHost) -> None:
    peer, blob = host.door(), token_bytes(16)
    peer.write(blob, 0, b"secret" * 10, last=True)
    path = host.config.state / "blobs" / PLAN.hex() / blob.hex()
    assert path.exists()
    peer.control.send(DoorKind.DISCARD, 0, blob)
    while peer.read(blob, 0, 1) is not None:
        pass
    assert not path.exists()


def test_the_data_path_moves_a_model(host: RunningHost, capsys: pytest.CaptureFixture[str]) -> None:
    peer, blob, chunk = host.door(), token_bytes(16), bytes(4 << 20)
    count, started = 16, time.perf_counter()
    for index in range(count):
        peer.write(blob, index * len(chunk), chunk, last=index == count - 1)
    written = time.perf_counter()
    for index in range(count):
        peer.data.send(DoorKind.READ, 0, BlobRange(blob, index * len(chunk), len(chunk)).encode())
        assert peer.data.receive_into(peer.buffer) == (DoorKind.DATA, len(chunk))
    read = time.perf_counter()
    size = count * len(chunk) / 1e6
    with capsys.disabled():
        print(f"\ndoor: write {size / (written - started):.0f} MB/s, read {size / (read - written):.0f} MB/s")


def test_a_unix_door_replaces_one_that_nobody_serves_and_no_other(tmp_path: Path) -> None:
    address = Address.parse(f"unix:{tmp_path}/d/s")
    with listen(address), pytest.raises(OSError, match="in use"):
        listen(address)
    with listen(address):
        connect(address).close()


def test_a_door_that_nobody_serves_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        connect(Address.parse(f"unix:{tmp_path}/none"))
    assert caught.value.reason is Reason.UNREACHABLE


def test_the_door_opens_on_loopback_tcp() -> None:
    with listen(Address.parse("tcp:127.0.0.1:0")) as sock:
        connect(Address.parse(f"tcp:127.0.0.1:{sock.getsockname()[1]}")).close()
