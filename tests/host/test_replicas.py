"""Two hosts on one database and one store of blobs: what one is told, the other serves."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

import grpc
import pytest

from coordinator.door import Address, DoorKind
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from coordinator.host.places import BlobPlace, Database
from coordinator.host.staged import StagedUploads
from protos.v1 import cloister_pb2
from tests.host.conftest import NOW, PLAN, DoorPeer, RunningHost, signed_order
from tests.host.test_blobs import name_of, put_raw, refused, wait_for
from tests.stores import postgres as postgres_server
from tests.stores import s3 as s3_server
from tests.world import World
from trusted.documents.order import Action
from trusted.errors import ProtocolError, Reason
from worker.coordinators import Coordinators

MIB = 1 << 20


@dataclass
class Replicas:
    """Hosts on the same stores, each with a state folder, a port and a door of its own."""

    world: World
    folder: Path
    doors: Path
    database: Database
    place: BlobPlace
    hosts: list[RunningHost]

    def start(self, number: int, **limits: float) -> RunningHost:
        door = Address.parse(f"unix:{self.doors}/{number}.sock")
        config = HostConfig(
            self.folder / str(number),
            "localhost:0",
            door,
            self.folder / "charter",
            limits=Limits(**({"free_disk_bytes": 1} | limits)),
            database=self.database,
            blobs=self.place,
        )
        self.hosts.append(RunningHost(config, self.world, lambda: NOW))
        return self.hosts[-1]

    def files(self, number: int) -> list[Path]:
        """The blob files on the disk of a host."""
        return [path for path in (self.folder / str(number) / "blobs").glob("*/*") if path.is_file()]


@pytest.fixture(params=["folder", "s3"])
def replicas(
    request: pytest.FixtureRequest, world: World, tmp_path: Path, postgres: postgres_server.Server
) -> Iterator[Replicas]:
    doors = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes
    if request.param == "folder":
        (tmp_path / "shared").mkdir()
        place = BlobPlace(f"folder:{tmp_path / 'shared'}")
    else:
        place = request.getfixturevalue("s3").new_place()
    made = Replicas(world, tmp_path, doors, postgres.new_database(), place, [])
    yield made
    for host in made.hosts:
        if host.thread.is_alive():
            host.stop()
    shutil.rmtree(doors, ignore_errors=True)


def stored_keys(replicas: Replicas, s3: s3_server.Server) -> set[str]:
    """What the shared store holds, by the two names in its key."""
    if replicas.place.is_s3:
        return {key.removeprefix(replicas.place.prefix + "/") for key in s3.keys(replicas.place)}
    folder = replicas.place.folder
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what one replica tells the other."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_blob_announced_at_one_replica_goes_up_at_the_other_and_down_at_both(
    replicas: Replicas, s3: s3_server.Server
) -> None:
    first, second = replicas.start(1), replicas.start(2)
    here, there = first.door(), second.door()
    data = token_bytes(21 * MIB + 17)  # more than the window of a copy
    blob = here.expect(len(data))
    wait_for(first.dialer(), blob)
    second.dialer().put_blob(blob, data)
    assert stored_keys(replicas, s3) == {f"{PLAN.hex()}/{blob.hex()}"}
    assert here.next(DoorKind.ARRIVED).body == blob
    assert there.next(DoorKind.ARRIVED).body == blob
    for peer in (here, there):
        read = [peer.read(blob, offset, 4 * MIB) for offset in range(0, len(data), 4 * MIB)]
        assert b"".join(piece or b"" for piece in read) == data
        assert peer.read(blob, len(data) + 1, 1) is None
    for host in (first, second):
        assert b"".join(host.dialer().get_blob(blob)) == data
        assert b"".join(host.dialer().get_blob(blob, 5 * MIB)) == data[5 * MIB :]


def test_what_the_aggregator_writes_at_one_door_is_read_at_the_other_replica(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data, blob = first.door(), token_bytes(9 * MIB), token_bytes(16)
    for start in range(0, len(data), 3 * MIB):
        last = start + 3 * MIB == len(data)
        assert peer.write(blob, start, data[start : start + 3 * MIB], last=last) is DoorKind.STORED
    assert b"".join(second.dialer().get_blob(blob)) == data


def test_what_the_aggregator_writes_again_at_the_other_door_stays_as_it_was_first(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    here, there, name = first.door(), second.door(), token_bytes(16)
    data = token_bytes(MIB)
    assert here.write(name, 0, data, last=True) is DoorKind.STORED
    for peer in (there, here):
        assert peer.write(name, 0, bytes(MIB), last=True) is DoorKind.STORED  # its first answer may have been lost
        assert peer.read(name, 0, MIB) == data
        assert peer.write(name, 0, bytes(MIB + 1), last=True) is DoorKind.REFUSED
    for host in (first, second):
        assert b"".join(host.dialer().get_blob(name)) == data


def test_a_replica_that_starts_again_serves_whole_blobs_and_takes_half_ones_to_their_end(replicas: Replicas) -> None:
    host = replicas.start(1)
    peer, whole, half = host.door(), token_bytes(MIB), token_bytes(3 * MIB)
    blobs = [peer.expect(len(whole)), peer.expect(len(half))]
    wait_for(host.dialer(), blobs[1])
    host.dialer().put_blob(blobs[0], whole)
    put_raw(host.dialer(), blobs[1], 0, half[:MIB])
    host.stop()
    host = replicas.start(1)
    peer = host.door()
    assert peer.read(blobs[0], 0, MIB) == whole
    host.dialer().put_blob(blobs[1], half)
    assert b"".join(host.dialer().get_blob(blobs[1])) == half


def test_half_an_upload_goes_on_at_the_same_replica_after_it_started_again(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data = first.door(), token_bytes(3 * MIB)
    blob = peer.expect(len(data))
    wait_for(first.dialer(), blob)
    put_raw(first.dialer(), blob, 0, data[:MIB])
    first.stop()
    first = replicas.start(1)
    assert first.dialer()._blobs.Stat(name_of(blob)).received_bytes == MIB
    assert second.dialer()._blobs.Stat(name_of(blob)).received_bytes == 0
    assert put_raw(first.dialer(), blob, MIB, data[MIB : 2 * MIB], data[2 * MIB :]).received_bytes == len(data)
    for host in (first, second):
        assert b"".join(host.dialer().get_blob(blob)) == data


@pytest.mark.parametrize("meanwhile", ["completed", "discarded"])
def test_half_an_upload_counts_no_more_once_others_ended_it_while_its_replica_was_away(
    replicas: Replicas, meanwhile: str
) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data = first.door(), token_bytes(3 * MIB)
    blob = peer.expect(len(data))
    wait_for(first.dialer(), blob)
    put_raw(first.dialer(), blob, 0, bytes(MIB))  # which is not what will stand there
    first.stop()
    if meanwhile == "completed":
        second.dialer().put_blob(blob, data)
    else:
        other = second.door()
        wait_for(second.dialer(), blob)
        other.control.send(DoorKind.DISCARD, 0, blob)
        eventually(lambda: put_raw(second.dialer(), blob, 0, data[:MIB]) == "NOT_FOUND")
    first = replicas.start(1)
    first.stop()
    staged = StagedUploads(replicas.folder / "1" / "staged.sqlite")
    assert staged.received_bytes(PLAN, blob) == 0
    staged.close()
    first = replicas.start(1)
    if meanwhile == "completed":
        assert b"".join(first.dialer().get_blob(blob)) == data
    else:
        assert refused(lambda: list(first.dialer().get_blob(blob))) is Reason.BLOB_UNKNOWN
        assert replicas.files(1) == []


def test_files_of_discarded_blobs_are_used_again_and_change_nothing_that_is_shared(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, kept = first.door(), {}
    for number in range(6):
        name, data = token_bytes(16), bytes([number]) * MIB
        assert peer.write(name, 0, data, last=True) is DoorKind.STORED
        assert b"".join(second.dialer().get_blob(name)) == data
        if number % 2:
            peer.control.send(DoorKind.DISCARD, 0, name)
            eventually(lambda: len(replicas.files(1)) == len(replicas.files(2)) == len(kept))
        else:
            kept[name] = data
    assert list((replicas.folder / "1").glob("blob-pool/*"))
    for name, data in kept.items():
        for host in (first, second, replicas.start(3)):
            assert b"".join(host.dialer().get_blob(name)) == data
        replicas.hosts.pop().stop()


def test_a_reader_at_the_other_replica_waits_while_the_aggregator_still_writes(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data, blob = first.door(), token_bytes(2 * MIB), token_bytes(16)
    assert peer.write(blob, 0, data[:MIB], last=False) is DoorKind.STORED
    got: list[bytes] = []
    dialer = second.dialer()
    reader = threading.Thread(target=lambda: got.extend(dialer.get_blob(blob)))
    reader.start()
    eventually(lambda: second.metric("cloister_rpc_duration_seconds_count", method="Blobs.Get", code="OK") == 0)
    time.sleep(0.2)
    assert not got
    assert peer.write(blob, MIB, data[MIB:], last=True) is DoorKind.STORED
    reader.join(10)
    assert b"".join(got) == data


def test_half_an_upload_is_known_to_its_replica_alone_and_the_whole_one_counts(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data = first.door(), token_bytes(3 * MIB)
    blob = peer.expect(len(data))
    at_first, at_second = first.dialer(), second.dialer()
    wait_for(at_first, blob)
    put_raw(at_first, blob, 0, data[:MIB])
    assert at_first._blobs.Stat(name_of(blob)).received_bytes == MIB
    assert at_second._blobs.Stat(name_of(blob)).received_bytes == 0
    at_second.put_blob(blob, data)
    for dialer in (at_first, at_second):
        eventually(lambda dialer=dialer: dialer._blobs.Stat(name_of(blob)).received_bytes == len(data))
    assert b"".join(at_first.get_blob(blob)) == data
    late = cloister_pb2.PutChunk(name=name_of(blob), offset=MIB, data=b"\x00" * MIB)
    assert at_first._blobs.Put(iter([late])).received_bytes == len(data)  # what came first stays
    for peer_, host in ((peer, first), (second.door(), second)):
        assert peer_.read(blob, MIB, 64) == data[MIB : MIB + 64]
        assert b"".join(host.dialer().get_blob(blob)) == data


def test_what_is_discarded_at_one_replica_is_gone_everywhere(replicas: Replicas, s3: s3_server.Server) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, data = first.door(), token_bytes(MIB)
    blob = peer.expect(len(data))
    wait_for(first.dialer(), blob)
    first.dialer().put_blob(blob, data)
    assert b"".join(second.dialer().get_blob(blob)) == data
    second.door().control.send(DoorKind.DISCARD, 0, blob)
    eventually(lambda: not replicas.files(1) and not replicas.files(2) and not stored_keys(replicas, s3))
    for host in (first, second):
        assert refused(lambda host=host: list(host.dialer().get_blob(blob))) is Reason.BLOB_UNKNOWN


def test_a_replica_that_lost_its_disk_serves_what_was_complete(replicas: Replicas) -> None:
    host = replicas.start(1)
    peer, whole, half = host.door(), token_bytes(MIB), token_bytes(MIB)
    blobs = [peer.expect(MIB), peer.expect(MIB)]
    wait_for(host.dialer(), blobs[1])
    host.dialer().put_blob(blobs[0], whole)
    put_raw(host.dialer(), blobs[1], 0, half[:100])
    host.stop()
    shutil.rmtree(replicas.folder / "1" / "blobs")
    host = replicas.start(1)
    assert b"".join(host.dialer().get_blob(blobs[0])) == whole
    assert host.dialer()._blobs.Stat(name_of(blobs[1])).received_bytes == 0
    host.dialer().put_blob(blobs[1], half)
    assert b"".join(host.dialer().get_blob(blobs[1])) == half


def test_events_reach_the_watchers_of_every_replica_in_one_order(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peers = first.door(), second.door()
    watchers = [host.client().watch(PLAN) for host in (first, second)]
    for number in range(20):
        peers[number % 2].event(event="round-opened", round=number)
    seen = [[next(watcher) for _ in range(22)] for watcher in watchers]
    assert seen[0] == seen[1]
    assert [event.number for event in seen[0]] == list(range(1, 23))
    assert {event.fields.get("round") for event in seen[0]} == {None, *range(20)}
    assert [host.client().status(PLAN).round for host in (first, second)] == [19, 19]


def test_an_event_told_again_at_the_other_replica_is_stored_once_and_acknowledged_twice(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    here = first.door()
    there = first._own(DoorPeer(second.ready.door, PLAN, token=here.token))
    for peer in (here, there):
        peer.control.send(DoorKind.EVENT, 7, b'{"event":"run-started"}')
        assert peer.next(DoorKind.RECORDED).channel == 7
    names = [event.fields["event"] for _, event in zip(range(3), first.client().watch(PLAN), strict=False)]
    assert sorted(names) == ["aggregator-registered", "aggregator-registered", "run-started"]


def test_an_order_is_honoured_once_and_told_to_an_aggregator_at_either_replica(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer, order = second.door(), signed_order(replicas.world)
    first.client().submit(order)
    assert peer.next(DoorKind.START).body == order
    assert refused(lambda: second.client().submit(order)) is Reason.ORDER_REPLAYED
    assert refused(lambda: first.client().submit(order)) is Reason.ORDER_REPLAYED
    stop = signed_order(replicas.world, Action.STOP)
    second.client().submit(stop)
    while (message := peer.control.receive()) is not None and message.kind is not DoorKind.STOP:
        assert message.kind is DoorKind.START
    assert message is not None
    assert message.body == stop
    names = [event.fields["event"] for _, event in zip(range(3), first.client().watch(PLAN), strict=False)]
    assert sorted(names) == ["aggregator-registered", "order-honoured", "order-honoured"]


def test_a_replica_that_starts_later_knows_the_run(replicas: Replicas) -> None:
    first = replicas.start(1)
    first.door().event(event="run-started", rounds=3)
    eventually(lambda: bool(first.client().runs()) and first.client().runs()[0].rounds == 3)
    assert replicas.start(2).client().status(PLAN).rounds == 3


def test_a_database_that_went_away_is_a_clear_passing_refusal_and_comes_back(
    replicas: Replicas, postgres: postgres_server.Server
) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peer = first.door()
    blob = peer.expect(MIB)
    wait_for(second.dialer(), blob)
    postgres.stop()
    try:
        assert refused(lambda: second.client().status(PLAN)) is Reason.STORE_AWAY
        with pytest.raises(grpc.RpcError) as caught:
            second.dialer()._blobs.Stat(name_of(blob))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        postgres.start()
    eventually(lambda: refused_or_known(second))
    data = token_bytes(MIB)
    second.dialer().put_blob(blob, data)
    eventually(lambda: b"".join(first.dialer().get_blob(blob)) == data)


def refused_or_known(host: RunningHost) -> bool:
    try:
        return host.client().status(PLAN).plan == PLAN.hex()
    except Exception:
        return False


def test_a_worker_goes_to_the_next_replica_in_the_middle_of_a_transfer(replicas: Replicas) -> None:
    first, second = replicas.start(1), replicas.start(2)
    peers, data = [first.door(), second.door()], token_bytes(8 * MIB)
    blob = peers[0].expect(len(data))
    peers[1].expect(len(data), blob)
    for host in (first, second):
        wait_for(host.dialer(), blob)
    with Coordinators([first.target, second.target], first.ca + second.ca, PLAN) as coordinators:
        with pytest.raises(ProtocolError) as caught:
            coordinators.put_blob(token_bytes(16), data)
        assert caught.value.reason is Reason.BLOB_UNKNOWN  # a refusal stands: no other replica is asked

        def stop_the_first(sent_bytes: int) -> None:
            if sent_bytes == 4 * MIB and first.thread.is_alive():
                threading.Thread(target=first.stop).start()
                time.sleep(1)

        coordinators.put_blob(blob, data, stop_the_first)
        first.thread.join(20)
        eventually(lambda: b"".join(coordinators.get_blob(blob, 5)) == data[5:])
    assert b"".join(second.dialer().get_blob(blob)) == data
