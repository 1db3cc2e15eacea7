"""The aggregator's end of several doors: real hosts, of which any may be gone or lying."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest

from coordinator.door import Address, DoorKind, DoorMessage, encode_message
from coordinator.enclave.__main__ import _addresses
from coordinator.enclave.door_store import StoreRefused
from coordinator.enclave.doors import MAX_DOORS, Doors, Link
from coordinator.enclave.sessions import Sessions
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from tests.host.conftest import NOW, PLAN, RunningHost
from tests.host.test_blobs import wait_for
from tests.ports import free_port
from tests.world import World
from trusted.errors import ProtocolError, Reason
from worker.dialer import Dialer


@pytest.fixture
def two(world: World, tmp_path: Path) -> Iterator[list[RunningHost]]:
    """Two hosts that share nothing: what each of them knows, it was told itself."""
    hosts: list[RunningHost] = []
    for number in range(2):
        door, charter = Address.parse(f"tcp:127.0.0.1:{free_port()}"), tmp_path / "charter"
        limits = Limits(free_disk_bytes=1)
        config = HostConfig(tmp_path / str(number), "localhost:0", door, charter, limits=limits)
        hosts.append(RunningHost(config, world, lambda: NOW))
    yield hosts
    for host in hosts:
        if host.thread.is_alive():
            host.stop()


@pytest.fixture
def doors(two: list[RunningHost]) -> Iterator[Doors]:
    with Doors([host.config.door for host in two], PLAN, lambda event, **fields: None) as doors:
        yield doors


def arrivals(doors: Doors, enough: Callable[[], bool] | None = None) -> list[Any]:
    """What comes until ``enough``, or else for a second, as the shell would take it."""
    found: list[Any] = []
    until = time.monotonic() + (1 if enough is None else 20)
    while time.monotonic() < until and not (enough is not None and enough()):
        try:
            found.append(doors.next(0.05))
        except queue.Empty:
            continue
    return found


def opened(doors: Doors, count: int = 2) -> None:
    arrivals(doors, lambda: len(doors._links) == count)
    assert len(doors._links) == count


def events_of(host: RunningHost, count: int) -> list[str]:
    client = host.client()
    return [str(event.fields["event"]) for _, event in zip(range(count), client.watch(PLAN), strict=False)]


def test_sessions_of_two_doors_that_number_alike_are_told_apart(two: list[RunningHost], doors: Doors) -> None:
    opened(doors)
    sessions = Sessions()
    streams = [host.dialer().attach() for host in two]
    seen = [(link, message) for link, message in arrivals(doors) if message is not None]
    assert [message.kind for _, message in seen] == [DoorKind.ATTACHED] * 2
    assert {message.channel for _, message in seen} == {1}
    numbers = [sessions.attach(link, message.channel) for link, message in seen]
    assert sorted(numbers) == [1, 2]
    for number in numbers:
        link, channel = sessions.place_of(number) or pytest.fail("no such session")
        doors.send(link, DoorKind.FRAME, channel, str(link.address).encode())
    assert [stream.receive(5) for stream in streams] == [str(host.config.door).encode() for host in two]


def test_a_session_number_is_never_used_again_and_what_a_door_says_twice_changes_nothing() -> None:
    sessions, here, there = Sessions(), object(), object()
    assert [sessions.attach(link, 7) for link in (here, there, here)] == [1, 2, 1]  # type: ignore[arg-type]
    assert sessions.detach(here, 7) == 1  # type: ignore[arg-type]
    assert sessions.detach(here, 7) is None  # type: ignore[arg-type]
    assert sessions.find(here, 7) is None  # type: ignore[arg-type]
    assert sessions.place_of(1) is None
    assert sessions.attach(here, 7) == 3  # type: ignore[arg-type]
    assert sessions.drop(there) == (2,)  # type: ignore[arg-type]
    assert sessions.drop(there) == ()  # type: ignore[arg-type]
    assert len(sessions) == 1


def test_a_blob_is_announced_everywhere_and_read_wherever_it_is(two: list[RunningHost], doors: Doors) -> None:
    opened(doors)
    data, blob = token_bytes(100_000), token_bytes(16)
    doors.expect(blob, len(data))
    for host in two:
        wait_for(host.dialer(), blob)
    two[1].dialer().put_blob(blob, data)
    assert doors.read(blob, 10, 50) == data[10:60]
    doors.discard(blob)
    arrivals(doors)
    assert doors.read(blob, 0, 1) == b""


def test_what_is_written_again_through_another_door_after_the_answer_was_lost_stays_as_it_was_first(
    two: list[RunningHost], doors: Doors
) -> None:
    opened(doors)
    name = token_bytes(16)
    for again in (b"first", b"again"):
        doors.write(name, len(again), [again])
    assert doors.read(name, 0, 5) == b"first"
    with pytest.raises(StoreRefused) as caught:
        doors.write(name, 6, [b"longer"])
    assert caught.value.reason is Reason.RUN_STATE
    assert not any(link.is_broken for link in doors._links)


def test_a_refusal_among_writes_that_were_sent_ahead_is_told_once_and_the_connection_goes_on(doors: Doors) -> None:
    opened(doors)
    kept, changed, size = token_bytes(16), token_bytes(16), 10 << 20
    doors.write(changed, 3, [b"abc"])
    chunk = bytes(1 << 20)
    with pytest.raises(StoreRefused) as caught:
        doors.write(changed, size, [chunk] * 10)  # another size than it has: the first piece is refused already
    assert caught.value.reason is Reason.RUN_STATE
    assert doors.read(changed, 0, 5) == b"abc"
    doors.write(kept, size, [chunk] * 10)
    assert doors.read(kept, size - 3, 5) == bytes(3)
    assert not any(link.is_broken for link in doors._links)


def test_a_job_that_is_done_comes_out_among_the_messages_from_whichever_thread_posts_it(doors: Doors) -> None:
    done: list[datetime] = []
    thread = threading.Thread(target=lambda: doors.post(done.append))
    thread.start()
    thread.join()
    finish = next(item for item in arrivals(doors) if not isinstance(item, tuple))
    finish(NOW)
    assert done == [NOW]


def test_many_threads_read_and_write_at_once(doors: Doors) -> None:
    opened(doors)
    blobs = {token_bytes(16): token_bytes(100_000) for _ in range(6)}

    def there_and_back(name: bytes) -> bool:
        doors.write(name, len(blobs[name]), [blobs[name]])
        return bytes(doors.read(name, 0, len(blobs[name]))) == blobs[name]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(there_and_back, blobs))


def test_events_go_on_through_the_next_door_and_what_was_acknowledged_is_not_told_again(
    two: list[RunningHost], doors: Doors
) -> None:
    opened(doors)
    speaker = next(host for host in two if host.config.door == doors._links[0].address)
    other = two[1 - two.index(speaker)]
    doors.tell(b'{"event":"first"}')
    arrivals(doors, lambda: not doors.has_unheard_events)
    assert not doors.has_unheard_events
    assert events_of(speaker, 2) == ["aggregator-registered", "first"]
    speaker.stop()
    doors.tell(b'{"event":"second"}')  # perhaps into a socket that nobody reads any more
    arrivals(doors, lambda: not doors.has_unheard_events)
    doors.tell(b'{"event":"third"}')
    arrivals(doors, lambda: not doors.has_unheard_events)
    assert events_of(other, 3) == ["aggregator-registered", "second", "third"]


def test_events_without_a_door_wait_for_one_and_the_store_says_that_there_is_none(two: list[RunningHost]) -> None:
    lonely = Doors([host.config.door for host in two], PLAN, lambda event, **fields: None)
    lonely.tell(b'{"event":"early"}')
    for act in (
        lambda: lonely.read(b"b" * 16, 0, 1),
        lambda: lonely.write(b"b" * 16, 1, [b"x"]),
        lambda: lonely.expect(b"b" * 16, 1),
        lambda: lonely.discard(b"b" * 16),
    ):
        with pytest.raises(ConnectionError):
            act()
    with lonely as doors:
        arrivals(doors, lambda: not doors.has_unheard_events)
        speaker = next(host for host in two if host.config.door == doors._links[0].address)
        assert events_of(speaker, 2) == ["aggregator-registered", "early"]


def test_a_door_that_breaks_is_dialled_again_while_the_other_goes_on(two: list[RunningHost], doors: Doors) -> None:
    opened(doors)
    blob = token_bytes(16)
    two[0].stop()
    gone = [link for link, message in arrivals(doors, lambda: len(doors._links) == 1) if message is None]
    assert [link.address for link in gone] == [two[0].config.door]
    doors.write(blob, 3, [b"abc"])
    with Dialer(two[1].target, two[1].ca, PLAN) as dialer:
        assert b"".join(dialer.get_blob(blob)) == b"abc"
    two[0].start()
    until = time.monotonic() + 10
    while len(doors._links) < 2 and time.monotonic() < until:
        arrivals(doors, lambda: len(doors._links) == 2)
    assert doors.read(blob, 0, 3) == b"abc"


class LyingHost:
    """Registers whoever comes, and says ``lies`` on control as soon as it has."""

    def __init__(self, lies: bytes) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = Address.parse(f"tcp:127.0.0.1:{self.server.getsockname()[1]}")
        self.lies, self.kept = lies, list[socket.socket]()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        for lies in (self.lies, b""):
            sock, _ = self.server.accept()
            self.kept.append(sock)
            sock.recv(1000)
            sock.sendall(encode_message(DoorKind.REGISTERED) + lies)

    def close(self) -> None:
        for sock in (*self.kept, self.server):
            sock.close()


def heard(doors: Doors) -> None:
    """Every event is acknowledged, while the shell tends its doors."""
    for _ in range(20):
        if doors.has_unheard_events:
            arrivals(doors)
            doors.tend()
    assert not doors.has_unheard_events


def test_doors_that_hear_no_event_are_passed_over(two: list[RunningHost], monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [LyingHost(b"") for _ in range(2)]
    with Doors([host.address for host in silent], PLAN, lambda event, **fields: None) as doors:
        opened(doors)  # so that both are asked before the one that hears
        doors.tell(b'{"event":"told"}')
        link = Link(two[0].config.door, PLAN, doors._token)
        threading.Thread(target=doors._pass_on, args=(link,), daemon=True).start()
        arrivals(doors, lambda: len(doors._links) == 3)
        doors.tend()
        assert doors._links[-1] is link  # they still have time
        monkeypatch.setattr("coordinator.enclave.doors._SILENCE_S", 0.5)
        heard(doors)
        assert events_of(two[0], 2) == ["aggregator-registered", "told"]
    for host in silent:
        host.close()


def test_a_slow_door_is_told_each_event_once_and_may_acknowledge_it_after_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host whose disk is full keeps what it was told, within a bound."""
    monkeypatch.setattr("coordinator.enclave.doors._SILENCE_S", 0.0)
    slow = [LyingHost(b"") for _ in range(2)]
    with Doors([host.address for host in slow], PLAN, lambda event, **fields: None) as doors:
        opened(doors)
        events = [b'{"event":"first"}', b'{"event":"second"}']
        for event in events:
            doors.tell(event)
        for _ in range(5):  # turns
            doors.tend()
        said = b"".join(encode_message(DoorKind.EVENT, 1 + place, event) for place, event in enumerate(events))
        for host in slow:
            (control,) = host.kept
            control.settimeout(5)
            assert control.recv(len(said), socket.MSG_WAITALL) == said
            control.setblocking(False)
            with pytest.raises(BlockingIOError):
                control.recv(1)
        for number, host in enumerate(slow, 1):  # one of them has no turn now
            host.kept[0].setblocking(True)
            host.kept[0].sendall(encode_message(DoorKind.RECORDED, number))
        arrivals(doors, lambda: not doors.has_unheard_events)
        assert not doors.has_unheard_events
    for host in slow:
        host.close()


def test_only_the_door_that_is_told_an_event_acknowledges_it(two: list[RunningHost]) -> None:
    quiet, hasty = LyingHost(b""), LyingHost(encode_message(DoorKind.RECORDED, 1))
    with Doors([quiet.address], PLAN, lambda event, **fields: None) as doors:
        opened(doors, 1)
        doors.tell(b'{"event":"told"}')
        threading.Thread(target=doors._pass_on, args=(Link(hasty.address, PLAN, doors._token),), daemon=True).start()
        arrivals(doors)
        assert len(doors._links) == 2
        assert doors.has_unheard_events
    for host in (quiet, hasty):
        host.close()


def test_a_door_that_answers_and_breaks_is_not_dialled_in_a_row() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialled: list[float] = []

        def serve() -> None:
            for _ in range(3):
                sock, _ = server.accept()
                dialled.append(time.monotonic())
                sock.recv(1000)
                sock.sendall(encode_message(DoorKind.REGISTERED))
                sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with Doors([Address.parse(f"tcp:127.0.0.1:{server.getsockname()[1]}")], PLAN, lambda *_, **__: None):
            thread.join(20)
    assert len(dialled) == 3
    assert all(after - before >= 0.2 for before, after in pairwise(dialled))


def test_a_lying_door_makes_nothing_be_remembered_and_hides_no_session_of_the_other(
    two: list[RunningHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.enclave.doors._SILENCE_S", 1)
    names = b"".join(encode_message(DoorKind.ARRIVED, 0, token_bytes(16)) for _ in range(100))
    numbers = b"".join(encode_message(DoorKind.RECORDED, number) for number in (0, 1, 2, (1 << 64) - 1))
    nonsense = encode_message(DoorKind.STORED) + b"\xff" * 13  # what belongs elsewhere, then what is no message
    liar = LyingHost(names + numbers + nonsense)
    with Doors([liar.address, two[0].config.door], PLAN, lambda event, **fields: None) as doors:
        stream = two[0].dialer()
        until = time.monotonic() + 10
        seen: list[tuple[Link, DoorMessage | None]] = []
        while not any(message is None for _, message in seen) and time.monotonic() < until:
            seen += arrivals(doors)
        opened(doors)  # the liar's second connection, which says nothing
        assert not doors._nearest
        with stream.attach():
            seen += arrivals(doors)
        doors.tell(b'{"event":"told"}')
        heard(doors)
        assert events_of(two[0], 2) == ["aggregator-registered", "told"]
    kinds = [message.kind if message else None for link, message in seen if link.address == two[0].config.door]
    assert kinds.count(DoorKind.ATTACHED) == 1
    assert None in [message for link, message in seen if link.address == liar.address]
    liar.close()


def test_a_door_that_never_stops_talking_stops_no_clock() -> None:
    chatter = encode_message(DoorKind.ARRIVED, 0, token_bytes(16)) * 200_000
    liar = LyingHost(chatter)
    with Doors([liar.address], PLAN, lambda event, **fields: None) as doors:
        arrivals(doors, lambda: len(doors._links) == 1)
        until = time.monotonic() + 10
        while doors._arrivals.qsize() < 100 and time.monotonic() < until:
            time.sleep(0.01)
        waiting = doors._arrivals.qsize()
        with pytest.raises(queue.Empty):
            doors.next(0.0)
        assert 100 <= waiting <= doors._arrivals.qsize() + 1  # one was taken, though many wait that need no answer
    liar.close()


@pytest.mark.parametrize(
    "said",
    [
        [],
        ["unix:/a", "unix:/a"],
        [f"unix:/{n}" for n in range(MAX_DOORS + 1)],
        ["tcp:10.0.0.1:1"],
        [7],
        "unix:/a",
        None,
    ],
)
def test_doors_that_are_none_twice_too_many_or_elsewhere_are_refused(said: object) -> None:
    with pytest.raises(ProtocolError):
        _addresses({"doors": said})  # type: ignore[dict-item]
    assert len(_addresses({"doors": ["unix:/a", "tcp:127.0.0.1:1"]})) == 2


def test_what_fails_while_a_blob_is_made_leaves_no_answer_to_the_next_question(doors: Doors) -> None:
    arrivals(doors)
    kept, broken = token_bytes(16), token_bytes(16)
    doors.write(kept, 3, [b"abc"])

    def pieces() -> Iterator[bytes]:
        yield b"ab"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        doors.write(broken, 3, pieces())
    assert bytes(doors.read(kept, 0, 3)) == b"abc"
