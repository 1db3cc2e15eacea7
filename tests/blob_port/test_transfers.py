"""Blobs over the blob port, as a worker sees it: what goes there, what does not, and what a lying host gains."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.client import HTTPException
from pathlib import Path

import grpc
import pytest

from coordinator.host.tls import server_identity
from tests.blob_port.servers import (
    BLOB,
    DATA,
    KIB,
    LONG_S,
    MIB,
    PLAN,
    SIZE,
    Asked,
    Coordinator,
    Talk,
    TlsFiles,
    a_minute_passes,
    answer,
    head,
    honest,
    refusal,
    saying,
    within,
)
from trusted.errors import BlobError, ProtocolError, Reason
from worker import http_blobs
from worker.coordinators import Coordinators
from worker.dialer import Dialer, Patience
from worker.grpc_channel import HostAddress
from worker.http_blobs import HttpBlobs, Wanted

Make = Callable[..., Coordinator]


# What goes where.


def test_a_large_blob_goes_up_and_down_over_the_port(make: Make, maybe_tls: TlsFiles | None) -> None:
    coordinator = make(empty=True, tls=maybe_tls)
    dialer, sent = coordinator.dialer(), list[int]()
    dialer.put_blob(BLOB, DATA, sent.append)
    assert coordinator.store.held == DATA
    assert coordinator.get(dialer) == DATA
    assert (sent[0], sent[-1]) == (0, len(DATA))
    assert [(asked.connection, asked.method) for asked in coordinator.port.asked] == [(1, "PUT"), (1, "GET")]
    assert coordinator.first.calls == {"Http": 1}
    assert coordinator.notes == []


@pytest.mark.parametrize(("size", "over_http"), [(64 * KIB - 1, False), (64 * KIB, True)])
def test_a_blob_of_less_than_64_kib_goes_over_grpc(make: Make, size: int, over_http: bool) -> None:
    coordinator = make(data=DATA[:size], empty=True)
    dialer = coordinator.dialer()
    dialer.put_blob(BLOB, DATA[:size])
    assert coordinator.get(dialer) == DATA[:size]
    assert len(coordinator.port.asked) == (2 if over_http else 0)
    assert coordinator.first.calls == ({"Http": 1} if over_http else {"Put": 1, "Get": 1})


def test_a_blob_whose_header_nobody_knows_comes_over_grpc(make: Make) -> None:
    coordinator = make()
    assert b"".join(coordinator.dialer().get_blob(BLOB)) == DATA
    assert coordinator.port.connections == 0


@pytest.mark.parametrize("announced", [None, 0, 65536, 70000, (1 << 32) - 1])
def test_a_host_that_announces_no_port_is_asked_once_and_serves_over_grpc(make: Make, announced: int | None) -> None:
    coordinator = make(empty=True)
    coordinator.first.announced = announced
    dialer = coordinator.dialer()
    dialer.put_blob(BLOB, DATA)
    assert coordinator.get(dialer) == DATA
    assert coordinator.first.calls == {"Http": 1, "Put": 1, "Get": 1}
    assert coordinator.notes == []


def test_a_host_that_was_away_when_it_was_asked_for_its_port_is_asked_again_with_the_next_blob(make: Make) -> None:
    coordinator = make()
    coordinator.first.refusals = [grpc.StatusCode.UNAVAILABLE]
    dialer = coordinator.dialer()
    assert coordinator.get(dialer) == coordinator.get(dialer) == DATA
    assert coordinator.first.calls == {"Http": 2, "Get": 1}
    assert len(coordinator.port.asked) == 1


# How it is cut.


def piece_ends(size: int, offset: int) -> list[int]:
    """Where messages of four pieces end, behind a prefix of 300 bytes."""
    ends = [*range(300 + 128 * KIB, size, 128 * KIB), size]
    return [end for end in ends if end > offset]


@pytest.mark.parametrize("offset", [0, 1, 300, 300 + 128 * KIB - 1, 300 + 128 * KIB, 300 + 128 * KIB + 5])
def test_what_comes_is_cut_where_the_headers_pieces_begin(make: Make, offset: int) -> None:
    coordinator, position = make(), offset
    ends = list[int]()
    for piece in coordinator.dialer().get_blob(BLOB, offset, header=coordinator.header):
        assert piece == DATA[position : position + len(piece)]  # good until the next
        position += len(piece)
        ends.append(position)
    assert ends == piece_ends(len(DATA), offset)
    assert coordinator.port.asked == [Asked(1, "GET", offset, len(DATA) - 1)]


def test_pieces_longer_than_the_buffer_come_in_parts(make: Make) -> None:
    data = os.urandom(9 * MIB)
    coordinator = make(data=data)
    http = HttpBlobs(HostAddress(coordinator.target, None), coordinator.port.number)
    got = b"".join(map(bytes, http.get(Wanted(PLAN, BLOB, 0, len(data)), first_bytes=6 * MIB, then_bytes=6 * MIB)))
    http.close()
    assert got == data


# A port that is not reached.


def closed(coordinator: Coordinator, tls: TlsFiles, other: TlsFiles) -> None:
    coordinator.port.stop()


def no_tls(coordinator: Coordinator, tls: TlsFiles, other: TlsFiles) -> None:
    coordinator.port.context = None
    coordinator.port.otherwise = lambda talk: talk.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def silent_tls(coordinator: Coordinator, tls: TlsFiles, other: TlsFiles) -> None:
    coordinator.port.context = None
    coordinator.port.otherwise = Talk.until_they_hang_up


def hangs_up(coordinator: Coordinator, tls: TlsFiles, other: TlsFiles) -> None:
    coordinator.port.context = None
    coordinator.port.otherwise = lambda talk: None


def another_ca(coordinator: Coordinator, tls: TlsFiles, other: TlsFiles) -> None:
    coordinator.port.context = other.context


@pytest.mark.parametrize("break_it", [closed, no_tls, silent_tls, hangs_up, another_ca])
def test_a_port_that_is_not_reached_is_noted_once_and_all_goes_over_grpc(
    make: Make, tls: TlsFiles, other_tls: TlsFiles, monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., None]
) -> None:
    monkeypatch.setattr(http_blobs, "_CONNECT_S", 1.0)
    coordinator = make(empty=True, tls=tls)
    break_it(coordinator, tls, other_tls)
    dialer = coordinator.dialer()
    within(LONG_S, lambda: dialer.put_blob(BLOB, DATA))
    assert coordinator.store.held == DATA
    assert within(LONG_S, lambda: coordinator.get(dialer)) == DATA
    assert coordinator.first.calls == {"Http": 1, "Put": 1, "Get": 1}
    assert coordinator.port.connections == (0 if break_it is closed else 1)
    assert coordinator.port.asked == []
    assert coordinator.notes == ["blob-port-away"]


def test_a_port_that_was_away_is_tried_again_after_a_while(make: Make) -> None:
    coordinator = make()
    reached, coordinator.first.announced = coordinator.first.announced, 1  # nobody listens there
    dialer = coordinator.dialer()
    assert coordinator.get(dialer) == DATA
    coordinator.first.announced = reached
    assert coordinator.get(dialer) == DATA
    assert coordinator.port.connections == 0
    a_minute_passes(dialer)
    assert coordinator.get(dialer) == DATA
    assert coordinator.port.connections == 1
    assert coordinator.first.calls == {"Http": 2, "Get": 2}
    assert coordinator.notes == ["blob-port-away"]


def test_a_port_whose_certificate_is_for_another_name_is_told_no_name_of_a_blob(
    make: Make, tls: TlsFiles, tmp_path: Path, now: datetime
) -> None:
    """The same CA: every name that it vouches for is not yet this host."""
    folder = tmp_path / "tls"
    identity = server_identity(folder, ["localhost"], now)
    coordinator = make(tls=TlsFiles(identity, folder))
    elsewhere = server_identity(folder, ["elsewhere.example"], now)
    assert elsewhere.ca_pem == identity.ca_pem
    coordinator.port.context = TlsFiles(elsewhere, folder).context
    assert coordinator.get(coordinator.dialer()) == DATA
    assert coordinator.port.asked == []
    assert coordinator.notes == ["blob-port-away"]


def test_a_port_that_swallows_connections_is_given_up_in_bounded_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall that drops: here a listener whose queue is full, to which nobody can connect."""
    monkeypatch.setattr(http_blobs, "_CONNECT_S", 0.5)
    coordinator = make()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole:
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(hole.getsockname())
        coordinator.first.announced = hole.getsockname()[1]
        dialer = coordinator.dialer()
        assert within(LONG_S, lambda: coordinator.get(dialer)) == DATA
        assert within(LONG_S, lambda: coordinator.get(dialer)) == DATA
        for sock in waiting:
            sock.close()
    assert coordinator.notes == ["blob-port-away"]


def cut_after(size_bytes: int) -> Callable[[Talk], None]:
    """Of a download or an upload, so much and no more."""

    def script(talk: Talk) -> None:
        asked = talk.request()
        if asked.method == "GET":
            data = talk.store.held[asked.first : asked.first + size_bytes]
            talk.say(head(206, content_length=asked.size), data)
        else:
            talk.take(asked, size_bytes)

    return script


def test_a_port_that_goes_away_in_the_middle_of_a_download_leaves_the_rest_to_grpc(make: Make) -> None:
    def half_then_gone(talk: Talk) -> None:
        talk.port.stop()
        cut_after(200 * KIB)(talk)

    coordinator = make(half_then_gone)
    dialer = coordinator.dialer()
    assert coordinator.get(dialer) == DATA
    assert coordinator.first.calls == {"Http": 1, "Get": 1}
    assert coordinator.notes == ["blob-port-away"]


# Transfers that are cut.


def test_a_cut_download_goes_on_at_the_byte_where_it_stopped(make: Make) -> None:
    coordinator = make(cut_after(300 + 128 * KIB), cut_after(128 * KIB + 5))
    assert coordinator.get(coordinator.dialer()) == DATA
    starts = [asked.first for asked in coordinator.port.asked]
    assert starts == [0, 300 + 128 * KIB, 300 + 256 * KIB]  # what came of a piece that is not whole comes again
    assert {asked.last for asked in coordinator.port.asked} == {len(DATA) - 1}


def test_a_download_is_cut_any_number_of_times_while_bytes_move(make: Make) -> None:
    data = os.urandom(10 * 128 * KIB)
    coordinator = make(*[cut_after(300 + 129 * KIB)] * 9, data=data)
    assert coordinator.get(coordinator.dialer(Patience(2, 0.01))) == data


def test_a_cut_upload_goes_on_where_the_host_says(make: Make) -> None:
    data = os.urandom(3 * MIB)
    coordinator = make(cut_after(MIB + 77), data=data, empty=True)
    sent = list[int]()
    coordinator.dialer().put_blob(BLOB, data, sent.append)
    assert coordinator.store.held == data
    assert coordinator.first.calls == {"Http": 1, "Stat": 2}
    assert [asked.first for asked in coordinator.port.asked] == [0, MIB + 77]
    assert MIB + 77 in sent


def test_a_cut_upload_of_a_small_blob_is_sent_again(make: Make) -> None:
    coordinator = make(cut_after(100 * KIB), empty=True)
    coordinator.dialer().put_blob(BLOB, DATA)
    assert coordinator.store.held == DATA
    assert coordinator.first.calls == {"Http": 1}
    assert [asked.first for asked in coordinator.port.asked] == [0, 0]


def something_arrives(dialer: Dialer) -> None:
    """At the one connection that is kept: what was sent may be under way for a moment."""
    assert dialer._http is not None
    (kept,) = dialer._http._idle
    assert select.select([kept._http.sock], [], [], LONG_S)[0]


def test_a_kept_connection_that_the_host_ended_costs_no_attempt(make: Make, maybe_tls: TlsFiles | None) -> None:
    ended = threading.Event()

    def answer_and_end(talk: Talk) -> None:
        answer(talk)
        talk.end()
        ended.set()

    coordinator = make(answer_and_end, tls=maybe_tls)
    dialer = coordinator.dialer(Patience(1))
    assert coordinator.get(dialer) == DATA
    assert ended.wait(LONG_S)
    something_arrives(dialer)
    assert coordinator.get(dialer) == DATA
    assert [asked.connection for asked in coordinator.port.asked] == [1, 2]


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(make: Make, maybe_tls: TlsFiles | None) -> None:
    ask, said = threading.Event(), threading.Event()

    def answer_twice(talk: Talk) -> None:
        answer(talk)
        ask.wait(LONG_S)
        talk.say(head(206, content_length=len(DATA)), bytes(1000))
        said.set()
        talk.until_they_hang_up()

    coordinator = make(answer_twice, tls=maybe_tls)
    dialer = coordinator.dialer(Patience(1))
    assert coordinator.get(dialer) == DATA
    ask.set()
    assert said.wait(LONG_S)
    something_arrives(dialer)
    assert coordinator.get(dialer) == DATA
    assert [asked.connection for asked in coordinator.port.asked] == [1, 2]


def test_an_answer_with_a_body_where_none_belongs_costs_the_next_transfer_no_attempt(make: Make) -> None:
    def script(talk: Talk) -> None:
        talk.take(talk.request())
        talk.say(head(200, cloister_received=SIZE, cloister_total=SIZE, content_length=9), b"and more.")
        honest(talk)

    coordinator = make(script, empty=True)
    dialer = coordinator.dialer(Patience(1))
    dialer.put_blob(BLOB, DATA)
    assert coordinator.get(dialer) == DATA
    assert coordinator.store.held == DATA


def test_who_stops_reading_leaves_no_connection_that_is_used_again(make: Make) -> None:
    coordinator = make()
    dialer = coordinator.dialer(Patience(1))
    pieces = dialer.get_blob(BLOB, header=coordinator.header)
    assert next(pieces) == DATA[: 300 + 128 * KIB]
    pieces.close()  # type: ignore[attr-defined]
    assert coordinator.get(dialer) == DATA
    assert [asked.connection for asked in coordinator.port.asked] == [1, 2]


# What is sent, and who makes it.


class Stretches:
    """A blob that is made while it is sent, 64 KiB at a time; at ``fails_at`` its maker raises ``fault``."""

    def __init__(self, data: bytes, fault: Exception, fails_at: int) -> None:
        self.data, self.fault, self.fails_at = data, fault, fails_at

    def __len__(self) -> int:
        return len(self.data)

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        for start in range(offset, len(self.data), 64 * KIB):
            if start == self.fails_at:
                raise self.fault
            yield memoryview(self.data)[start : start + 64 * KIB]


FAULTS = [BlobError(Reason.NON_FINITE, "update: a number is not one"), OSError(5, "a disk"), HTTPException()]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_is_raised_where_a_blob_is_sealed_comes_through_and_ends_the_connection(
    make: Make, fault: Exception
) -> None:
    coordinator = make(empty=True)
    dialer = coordinator.dialer()
    with pytest.raises(type(fault)) as caught:
        dialer.put_blob(BLOB, Stretches(DATA, fault, 128 * KIB))
    assert caught.value is fault
    dialer.put_blob(BLOB, DATA)
    assert coordinator.store.held == DATA
    assert {asked.connection for asked in coordinator.port.asked} == {1, 2}


# Several at a time, and the end.


def test_two_threads_transfer_at_a_time_over_connections_of_their_own(make: Make) -> None:
    both = threading.Barrier(2, timeout=LONG_S)

    def together(talk: Talk) -> None:
        asked = talk.request()
        talk.say(head(206, content_length=asked.size), talk.store.held[:1000])
        both.wait()  # neither goes on before the other has begun
        talk.say(talk.store.held[1000:])
        honest(talk)

    coordinator = make(together, together)
    dialer, got = coordinator.dialer(Patience(1)), list[bytes]()
    threads = [threading.Thread(target=lambda: got.append(coordinator.get(dialer)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert got == [DATA, DATA]
    assert coordinator.port.connections == 2
    assert coordinator.first.calls == {"Http": 1}
    assert coordinator.get(dialer) == DATA
    assert coordinator.port.connections == 2  # they are kept


PIECE = 300 + 128 * KIB
WAITS = {
    "for an answer": ("get", SIZE, b"", True),
    "for the rest of an answer": ("get", SIZE, head(206, content_length=SIZE) + DATA[: PIECE + 9], True),
    "for the rest of the last answer": (
        "get",
        SIZE,
        head(206, content_length=SIZE, connection="close") + DATA[: PIECE + 9],
        True,
    ),
    "for a refusal's text": ("get", SIZE, head(404, cloister_reason=709, content_length=9), True),
    "for an upload's answer": ("put", SIZE, b"", True),
    "for a large upload's answer": ("put", 2 * MIB, b"", True),
    "for a large upload to be read": ("put", 40 * MIB, b"", False),
}


@pytest.mark.parametrize("patience", [Patience(1), Patience(4, 0.01)], ids=["one attempt", "four attempts"])
@pytest.mark.parametrize("wait", WAITS)
def test_who_waits_in_a_transfer_is_told_when_the_dialer_closes(
    make: Make, maybe_tls: TlsFiles | None, wait: str, patience: Patience
) -> None:
    method, size, said, reads = WAITS[wait]
    data, reached, over = bytes(size), threading.Event(), threading.Event()

    def stall(talk: Talk) -> None:
        asked = talk.request()
        if reads and asked.method == "PUT":
            talk.take(asked)
        talk.say(said)
        if len(said) < PIECE:  # else the reader says when it has a piece, and waits for the next
            reached.set()
        over.wait(LONG_S)

    def get() -> None:
        for _ in dialer.get_blob(BLOB, header=coordinator.header):
            reached.set()

    def close_when_reached() -> None:
        reached.wait(LONG_S)
        dialer.close()

    coordinator = make(data=data, empty=method == "put", tls=maybe_tls, otherwise=stall)
    dialer = coordinator.dialer(patience)
    threading.Thread(target=close_when_reached, daemon=True).start()
    with pytest.raises(ProtocolError):
        within(10, get if method == "get" else lambda: dialer.put_blob(BLOB, data))
    over.set()
    assert coordinator.notes == []


# Several replicas.


def gone(coordinator: Coordinator) -> None:
    coordinator.first.server.stop(0)
    coordinator.port.stop()


def store_away(coordinator: Coordinator) -> None:
    coordinator.port.otherwise = saying(refusal(Reason.STORE_AWAY.value))


@pytest.mark.parametrize("what", [gone, store_away])
def test_a_download_goes_on_at_the_next_replica_and_each_byte_is_given_once(
    make: Make, what: Callable[[Coordinator], None]
) -> None:
    def half(talk: Talk) -> None:
        what(one)
        cut_after(300 + 128 * KIB + 5)(talk)

    one, two = make(half), make()
    with Coordinators([one.target, two.target], None, PLAN) as replicas:
        got = within(LONG_S, lambda: b"".join(map(bytes, replicas.get_blob(BLOB, header=one.header))))
    assert got == DATA
    assert two.port.asked == [Asked(1, "GET", 300 + 128 * KIB, SIZE - 1)]
    assert two.first.calls == {"Http": 1}


def test_an_upload_goes_to_the_next_replica_when_the_port_of_the_first_says_it_cannot(make: Make) -> None:
    one, two = make(otherwise=saying(refusal(Reason.STORE_AWAY.value)), empty=True), make(empty=True)
    with Coordinators([one.target, two.target], None, PLAN) as replicas:
        within(LONG_S, lambda: replicas.put_blob(BLOB, DATA))
    assert two.store.held == DATA
    assert [asked.method for asked in two.port.asked] == ["PUT"]
