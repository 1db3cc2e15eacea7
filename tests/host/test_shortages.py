"""A host whose machine is short of something: refused by number, nothing lost, and on it goes when there is enough."""

from __future__ import annotations

import itertools
import resource
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from secrets import token_bytes

import pytest

from coordinator.door import Address, DoorKind, DoorMessage
from coordinator.door_socket import connect
from tests.host.conftest import OTHER_PLAN, PLAN, DoorPeer
from tests.host.processes import HostProcess, until
from tests.host.test_blobs import MIB, refused, wait_for
from trusted.errors import Reason
from worker.dialer import Dialer

Start = Callable[..., HostProcess]
pytestmark = pytest.mark.slow


class Heard:
    """Everything that a host says on a control connection."""

    def __init__(self, peer: DoorPeer) -> None:
        self.messages: list[DoorMessage] = []
        threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    def _listen(self, peer: DoorPeer) -> None:
        try:
            while (message := peer.control.receive()) is not None:
                self.messages.append(message)
        except OSError:
            pass

    def of(self, kind: DoorKind) -> list[DoorMessage]:
        return [message for message in list(self.messages) if message.kind is kind]

    @property
    def recorded(self) -> list[int]:
        return [message.channel for message in self.of(DoorKind.RECORDED)]


def tell(peer: DoorPeer, number: int) -> None:
    """A numbered public event of 20 kB."""
    ear = f"a.{'b' * 20_000}.c"
    peer.control.send(DoorKind.EVENT, number, f'{{"event":"attested","round":{number},"ear":"{ear}"}}'.encode())


def session_goes_on(peer: DoorPeer, heard: Heard, dialer: Dialer) -> None:
    """A worker's new stream carries in both directions."""
    before, text = len(heard.of(DoorKind.ATTACHED)), token_bytes(8)
    with dialer.attach() as stream:
        stream.send(text)
        until(lambda: any(message.body == text for message in heard.of(DoorKind.FRAME)))
        session = heard.of(DoorKind.ATTACHED)[before].channel
        peer.control.send(DoorKind.FRAME, session, b"and back")
        assert stream.receive(timeout=10) == b"and back"


def lines(host: HostProcess, event: str) -> int:
    return sum(line["event"] == event for line in host.log())


def test_on_a_full_disk_uploads_are_refused_events_wait_sessions_go_on_and_nothing_is_lost(
    start_process: Start,
) -> None:
    host = start_process(disk_bytes=16 * MIB)
    assert host.disk is not None
    peer, dialer, data = host.door(), host.dialer(), token_bytes(3 * MIB)
    heard = Heard(peer)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    tell(peer, 1)
    until(lambda: heard.recorded == [1])
    ballast = host.disk.fill()
    assert refused(lambda: dialer.put_blob(blob, data)) is Reason.HOST_SHORT
    for number in range(2, 102):  # 2 MB, and the write-ahead log is short
        tell(peer, number)
    later = peer.expect(MIB)
    until(lambda: lines(host, "message-waits"))
    session_goes_on(peer, heard, dialer)
    waits = refused(lambda: dialer.put_blob(later, bytes(MIB)))  # told behind what waits: not unknown
    assert waits is Reason.HOST_SHORT
    assert len(heard.recorded) < 101
    assert not heard.of(DoorKind.ARRIVED)
    ballast.unlink()
    dialer.put_blob(blob, data)
    until(lambda: heard.recorded == list(range(1, 102)))
    wait_for(dialer, later)
    assert [message.body for message in heard.of(DoorKind.ARRIVED)] == [blob]
    assert host.end(signal.SIGKILL) == -signal.SIGKILL
    again = host.start()
    assert b"".join(again.dialer().get_blob(blob)) == data
    seen = (event.fields for event in again.client().watch(PLAN))
    told = (fields["round"] for fields in seen if fields["event"] == "attested")
    assert list(itertools.islice(told, 101)) == list(range(1, 102))


def test_a_disk_that_fills_up_gets_the_room_of_discarded_blobs_back(start_process: Start) -> None:
    host = start_process(disk_bytes=16 * MIB)
    assert host.disk is not None
    peer, dialer, data = host.door(), host.dialer(), token_bytes(4 * MIB)
    heard = Heard(peer)
    old, new = peer.expect(len(data)), peer.expect(len(data))
    wait_for(dialer, new)
    dialer.put_blob(old, data)
    host.disk.fill()
    number = 0
    while not lines(host, "message-waits"):  # until not even a name can be forgotten
        number += 1
        tell(peer, number)
        time.sleep(0.002)
    assert refused(lambda: dialer.put_blob(new, data)) is Reason.HOST_SHORT
    peer.control.send(DoorKind.DISCARD, 0, old)
    until(lambda: heard.recorded == list(range(1, number + 1)))
    assert refused(lambda: list(dialer.get_blob(old))) is Reason.BLOB_UNKNOWN
    session_goes_on(peer, heard, dialer)


def test_a_limit_of_the_files_size_refuses_an_upload_and_lets_it_go_on(start_process: Start) -> None:
    host = start_process()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(3 * MIB)
    heard = Heard(peer)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    unlimited = host.allow(resource.RLIMIT_FSIZE, MIB + 4096)
    assert refused(lambda: dialer.put_blob(blob, data)) is Reason.HOST_SHORT
    assert peer.write(b"r" * 16, 0, bytes(2 * MIB), last=True) is DoorKind.REFUSED
    host.allow(resource.RLIMIT_FSIZE, unlimited)
    dialer.put_blob(blob, data)
    assert peer.write(b"r" * 16, 0, b"x" * 2 * MIB, last=True) is DoorKind.STORED
    assert peer.read(b"r" * 16, 0, MIB) == b"x" * MIB
    assert b"".join(dialer.get_blob(blob)) == data
    until(lambda: [message.body for message in heard.of(DoorKind.ARRIVED)] == [blob])


def test_the_end_of_a_blob_is_told_to_nobody_before_it_is_remembered(start_process: Start) -> None:
    """Nothing that was answered is lost: an answer stands behind the database's word."""
    host = start_process()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(MIB // 2)
    heard = Heard(peer)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    while (host.state / "host.sqlite-wal").stat().st_size < MIB:
        tell(peer, len(heard.messages) + 1)
        time.sleep(0.005)
    unlimited = host.allow(resource.RLIMIT_FSIZE, MIB)  # a blob's file fits, one more page of the log does not
    assert refused(lambda: dialer.put_blob(blob, data)) is Reason.HOST_SHORT
    assert refused(lambda: dialer.put_blob(blob, data)) is Reason.HOST_SHORT
    session_goes_on(peer, heard, dialer)
    assert not heard.of(DoorKind.ARRIVED)
    host.allow(resource.RLIMIT_FSIZE, unlimited)
    dialer.put_blob(blob, data)
    until(lambda: [message.body for message in heard.of(DoorKind.ARRIVED)] == [blob])
    host.end(signal.SIGKILL)
    assert b"".join(host.start().dialer().get_blob(blob)) == data


def test_a_host_does_not_start_on_a_full_disk_says_so_and_starts_when_there_is_room(start_process: Start) -> None:
    host = start_process(disk_bytes=8 * MIB)
    assert host.disk is not None
    blob = host.door().expect(100)
    wait_for(host.dialer(), blob)
    host.end()
    (host.state / "tls" / "server.pem").unlink()  # it is to be issued anew
    ballast = host.disk.fill()
    assert host.refusal().startswith("RUN-720 HOST_SHORT: host: its disk takes no more")
    ballast.unlink()
    wait_for(host.start().dialer(), blob)


def test_without_descriptors_nobody_is_let_in_nothing_spins_and_it_goes_on_with_them(start_process: Start) -> None:
    host = start_process()
    peer, dialer = host.door(), host.dialer()
    heard = Heard(peer)
    session_goes_on(peer, heard, dialer)
    enough = host.allow(resource.RLIMIT_NOFILE, host.open_files())
    address = Address.parse(host.door_address)
    waiting = [connect(address)]  # the kernel takes it, the host cannot
    waiting += [socket.create_connection(("localhost", int(host.ready["port"]))) for _ in range(3)]
    until(lambda: lines(host, "door-not-accepting"))
    used = host.cpu_seconds()
    time.sleep(2)
    assert host.cpu_seconds() - used < 0.5
    session_goes_on(peer, heard, dialer)  # who is in stays in
    host.allow(resource.RLIMIT_NOFILE, enough)
    for sock in waiting:
        sock.close()
    host.door(OTHER_PLAN)
    with host.dialer(OTHER_PLAN) as other:
        other.attach().send(b"in again")
    assert host.client().runs()


def test_without_descriptors_a_blob_is_refused_by_number_and_served_with_them(start_process: Start) -> None:
    host = start_process()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(MIB)
    blob, other = peer.expect(len(data)), peer.expect(len(data))
    wait_for(dialer, other)
    dialer.put_blob(blob, data)
    enough = host.allow(resource.RLIMIT_NOFILE, host.open_files())
    assert refused(lambda: list(dialer.get_blob(blob))) is Reason.HOST_SHORT
    assert refused(lambda: dialer.put_blob(other, data)) is Reason.HOST_SHORT
    assert peer.read(blob, 0, 10) is None
    host.allow(resource.RLIMIT_NOFILE, enough)
    assert b"".join(dialer.get_blob(blob)) == data
    dialer.put_blob(other, data)
    assert peer.read(other, 0, 10) == data[:10]


def test_metrics_wait_for_descriptors_without_spinning(start_process: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    host = start_process(metrics_port=port)

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    assert 'cloister_host_shortages_total{what="disk"} 0.0' in scrape()
    enough = host.allow(resource.RLIMIT_NOFILE, host.open_files())
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(0.5)
        used = host.cpu_seconds()
        time.sleep(2)
        assert host.cpu_seconds() - used < 0.5
    host.allow(resource.RLIMIT_NOFILE, enough)
    assert "cloister_runs" in scrape()
