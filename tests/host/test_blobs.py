"""Sealed blobs through a real host: resumed, repeated, refused, and followed while they are written."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_bytes
from typing import Any

import grpc
import pytest

from coordinator.door import DoorKind
from protos.v1 import cloister_pb2
from tests.host.conftest import OTHER_PLAN, PLAN, DoorPeer, RunningHost
from trusted.errors import ProtocolError, Reason
from worker.dialer import Dialer, Patience

MIB = 1 << 20


def name_of(blob: bytes, plan: bytes = PLAN) -> Any:
    return cloister_pb2.BlobName(plan=plan, blob=blob)


def refused(call: Callable[[], Any]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        call()
    return caught.value.reason


def put_raw(dialer: Dialer, blob: bytes, offset: int, *pieces: bytes) -> Any:
    """One upload exactly as given; the status name when it is refused."""
    first = cloister_pb2.PutChunk(name=name_of(blob), offset=offset, data=pieces[0])
    try:
        return dialer._blobs.Put(
            iter([first, *(cloister_pb2.PutChunk(data=piece) for piece in pieces[1:])]), timeout=10
        )
    except grpc.RpcError as error:
        return error.code().name


def test_a_blob_goes_up_and_down_unchanged(host: RunningHost) -> None:
    peer, dialer, data = host.door(), host.dialer(), token_bytes(3 * MIB + 17)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    seen: list[int] = []
    dialer.put_blob(blob, memoryview(data), seen.append)
    assert seen == [0, MIB, 2 * MIB, 3 * MIB, len(data)]
    assert b"".join(dialer.get_blob(blob)) == data
    assert b"".join(dialer.get_blob(blob, 2 * MIB)) == data[2 * MIB :]
    assert b"".join(dialer.get_blob(blob, len(data))) == b""
    assert refused(lambda: list(dialer.get_blob(blob, len(data) + 1))) is Reason.BLOB_OFFSET


def wait_for(dialer: Dialer, blob: bytes, received: int = 0) -> None:
    """Until the host knows ``blob`` and holds ``received`` bytes: door and gRPC are two connections."""
    deadline = time.monotonic() + 5
    while True:
        try:
            if dialer._blobs.Stat(name_of(blob)).received_bytes >= received:
                return
        except grpc.RpcError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cut_upload_continues_where_it_stopped(host: RunningHost) -> None:
    peer, dialer, data = host.door(), host.dialer(), token_bytes(4 * MIB)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    gone = threading.Event()

    def cut() -> Iterator[Any]:
        yield cloister_pb2.PutChunk(name=name_of(blob), offset=0, data=data[:MIB])
        yield cloister_pb2.PutChunk(data=data[MIB : MIB + 77])
        gone.wait(10)

    call = dialer._blobs.Put.future(cut())
    wait_for(dialer, blob, MIB + 77)
    call.cancel()
    gone.set()
    sent: list[int] = []
    dialer.put_blob(blob, data, sent.append)
    assert sent[0] == MIB + 77
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert b"".join(dialer.get_blob(blob)) == data


def test_an_upload_continues_after_the_host_restarted(make_host: Callable[..., RunningHost]) -> None:
    host = make_host()
    data = token_bytes(2 * MIB)
    blob = host.door().expect(len(data))
    dialer = host.dialer()
    wait_for(dialer, blob)
    put_raw(dialer, blob, 0, data[:MIB])
    host.stop()
    again = make_host()
    sent: list[int] = []
    again.dialer().put_blob(blob, data, sent.append)
    assert sent[0] == MIB
    peer = again.door()
    peer.expect(len(data), blob)
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert peer.read(blob, 0, MIB) == data[:MIB]


def test_a_repeated_upload_is_harmless_and_the_first_bytes_stay(host: RunningHost) -> None:
    peer, dialer, data = host.door(), host.dialer(), token_bytes(MIB + 5)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    dialer.put_blob(blob, data)
    assert put_raw(dialer, blob, 0, bytes(MIB), bytes(5)).received_bytes == len(data)
    assert b"".join(dialer.get_blob(blob)) == data


def test_two_uploads_of_one_blob_at_once_make_one_blob(host: RunningHost) -> None:
    peer, data = host.door(), token_bytes(5 * MIB)
    blob = peer.expect(len(data))
    dialers = [host.dialer(), host.dialer()]
    wait_for(dialers[0], blob)
    threads = [threading.Thread(target=dialer.put_blob, args=(blob, data)) for dialer in dialers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert b"".join(dialers[0].get_blob(blob)) == data


def test_sizes_names_and_offsets_other_than_announced_are_refused(host: RunningHost) -> None:
    peer, dialer = host.door(), host.dialer()
    blob = peer.expect(1000)
    wait_for(dialer, blob)
    assert put_raw(dialer, blob, 0, bytes(1001)) == "OUT_OF_RANGE"
    assert put_raw(dialer, blob, 0, bytes(600), bytes(401)) == "OUT_OF_RANGE"
    assert put_raw(dialer, blob, 601, b"x") == "OUT_OF_RANGE"
    assert put_raw(dialer, blob, (1 << 64) - 1, b"x") == "OUT_OF_RANGE"
    assert put_raw(dialer, token_bytes(16), 0, b"x") == "NOT_FOUND"
    assert put_raw(dialer, b"short", 0, b"x") == "INVALID_ARGUMENT"
    assert put_raw(dialer, blob, 600, bytes(400)).received_bytes == 1000
    assert refused(lambda: dialer.put_blob(blob, bytes(999))) is Reason.BLOB_LAYOUT
    assert refused(lambda: dialer.put_blob(token_bytes(16), bytes(9))) is Reason.BLOB_UNKNOWN
    assert refused(lambda: list(dialer.get_blob(token_bytes(16)))) is Reason.BLOB_UNKNOWN
    assert refused(lambda: list(host.dialer(OTHER_PLAN).get_blob(blob))) is Reason.BLOB_UNKNOWN


def test_nobody_uploads_to_a_blob_of_the_aggregator(host: RunningHost) -> None:
    peer, dialer, blob = host.door(), host.dialer(), token_bytes(16)
    peer.write(blob, 0, b"model", last=False)
    assert put_raw(dialer, blob, 5, b"x") == "NOT_FOUND"
    peer.write(blob, 5, b"!", last=True)
    assert put_raw(dialer, blob, 0, b"model!") == "NOT_FOUND"


def test_a_download_follows_the_aggregator_while_it_writes(host: RunningHost) -> None:
    peer, dialer, blob = host.door(), host.dialer(), token_bytes(16)
    peer.write(blob, 0, b"a" * 10, last=False)
    pieces = dialer.get_blob(blob)
    assert next(pieces) == b"a" * 10
    peer.write(blob, 10, b"b" * 10, last=False)
    assert next(pieces) == b"b" * 10
    peer.write(blob, 20, b"c", last=True)
    assert list(pieces) == [b"c"]


def test_a_download_of_a_discarded_blob_ends(host: RunningHost) -> None:
    peer, dialer, blob = host.door(), host.dialer(), token_bytes(16)
    peer.write(blob, 0, b"a", last=False)
    pieces = dialer.get_blob(blob)
    assert next(pieces) == b"a"
    peer.control.send(DoorKind.DISCARD, 0, blob)
    assert refused(lambda: next(pieces)) is Reason.BLOB_UNKNOWN


def test_transfers_that_stand_still_are_ended(make_host: Callable[..., RunningHost]) -> None:
    host = make_host(stall_s=0.2)
    peer, dialer, blob = host.door(), host.dialer(patience=Patience(2, 0.05)), token_bytes(16)
    peer.write(blob, 0, b"a", last=False)
    pieces = dialer.get_blob(blob)
    assert next(pieces) == b"a"
    assert refused(lambda: next(pieces)) is Reason.UNREACHABLE
    upload = peer.expect(10)
    wait_for(dialer, upload)
    never = threading.Event()

    def stalled() -> Iterator[Any]:
        yield cloister_pb2.PutChunk(name=name_of(upload), data=b"abc")
        never.wait(10)

    with pytest.raises(grpc.RpcError):
        dialer._blobs.Put(stalled())
    never.set()
    assert dialer._blobs.Stat(name_of(upload)).received_bytes == 3


def test_a_reader_that_does_not_read_makes_nothing_grow(host: RunningHost) -> None:
    peer, dialer, blob = host.door(), host.dialer(), token_bytes(16)
    write_large(peer, blob, 128 * MIB)
    pieces = dialer.get_blob(blob)
    assert len(next(pieces)) == MIB
    before = resident_bytes()
    time.sleep(1)
    assert resident_bytes() - before < 48 * MIB


def write_large(peer: DoorPeer, blob: bytes, size: int) -> None:
    chunk = bytes(4 * MIB)
    for offset in range(0, size, len(chunk)):
        peer.write(blob, offset, chunk, last=offset + len(chunk) == size)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_files_that_no_row_names_are_swept_at_start(make_host: Callable[..., RunningHost]) -> None:
    host = make_host()
    peer, blob = host.door(), token_bytes(16)
    peer.write(blob, 0, b"kept", last=True)
    orphan = host.config.state / "blobs" / PLAN.hex() / ("00" * 16)
    host.stop()
    orphan.write_bytes(b"left behind")
    again = make_host()
    assert not orphan.exists()
    assert again.door().read(blob, 0, 9) == b"kept"


def test_a_used_file_never_makes_another_blob_longer_than_it_is(host: RunningHost) -> None:
    peer, dialer, folder = host.door(), host.dialer(), host.config.state / "blobs" / PLAN.hex()
    used = token_bytes(16)
    write_large(peer, used, 12 * MIB)
    for size, last in ((7 * MIB, True), (1000, True), (5 * MIB, False)):
        peer.control.send(DoorKind.DISCARD, 0, used)
        blob = peer.expect(size) if last else token_bytes(16)
        if last:
            wait_for(dialer, blob)
            dialer.put_blob(blob, bytes(size))
        else:  # nobody knows how long it will be
            peer.write(blob, 0, bytes(4 * MIB), last=False)
            peer.write(blob, 4 * MIB, bytes(MIB), last=True)
        assert (folder / blob.hex()).stat().st_size == size
        assert peer.read(blob, size - 10, 20) == bytes(10)
        used = token_bytes(16)
        write_large(peer, used, 12 * MIB)


def test_the_quota_shows_in_the_metrics(host: RunningHost) -> None:
    peer, dialer = host.door(), host.dialer()
    blob = peer.expect(1000)
    wait_for(dialer, blob)
    assert host.metric("cloister_spool_bytes") == 1000
    dialer.put_blob(blob, bytes(1000))
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert host.metric("cloister_payload_bytes_total", direction="in", kind="blob") == 1000


class Stretches:
    """A blob that is made when it is sent, a mebibyte at a time; at ``fails_at`` its maker has a fault."""

    def __init__(self, data: bytes, fails_at: int | None = None) -> None:
        self._data, self._fails_at = data, fails_at

    def __len__(self) -> int:
        return len(self._data)

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        for start in range(offset, len(self._data), MIB):
            if start == self._fails_at:
                raise ZeroDivisionError
            yield memoryview(self._data)[start : start + MIB]


def test_what_fails_while_it_is_sealed_is_raised_at_its_sender_and_the_upload_goes_on_later(host: RunningHost) -> None:
    peer, dialer, data = host.door(), host.dialer(), token_bytes(5 * MIB + 17)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    with pytest.raises(ZeroDivisionError):
        dialer.put_blob(blob, Stretches(data, fails_at=4 * MIB))
    wait_for(dialer, blob, 4 * MIB)
    dialer.put_blob(blob, Stretches(data))
    assert b"".join(dialer.get_blob(blob)) == data
