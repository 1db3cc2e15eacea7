"""Blobs over HTTP at a real host: up, down, resumed, followed, and refused with a status and a number."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from secrets import token_bytes
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest

from coordinator.door import DoorKind
from protos.v1 import cloister_pb2
from tests.host.conftest import OTHER_PLAN, PLAN, DoorPeer, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, name_of, refused, wait_for, write_large
from trusted.errors import Reason
from worker.dialer import Dialer

PATH = "/cloister/v1/blob"
WAIT_S = 20
THRESHOLD_BYTES = 64 << 10  # below, the dialler takes gRPC
Make = Callable[..., RunningHost]
pytestmark = pytest.mark.usefixtures("no_errors")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the dialler wants to know of a header."""

    sealed_bytes: int
    prefix_bytes: int = 100
    segment_bytes: int = MIB + 16


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def reason(self) -> Reason:
        return Reason(int(self.fields["cloister-reason"]))

    @property
    def refusal(self) -> tuple[int, Reason]:
        assert self.body
        assert self.fields["connection"] == "close"
        return self.status, self.reason


class Talk:
    """One connection to the blob port, and what is said on it."""

    def __init__(self, host: RunningHost, *, buffer_bytes: int = 0, greets: bool = True) -> None:
        name = "localhost" if host.ready.ca_pem else "127.0.0.1"
        self.sock = dial(name, host.ready.blob_port or 0, buffer_bytes)
        if greets and host.ready.ca_pem is not None:
            context = ssl.create_default_context(cadata=host.ca.decode())
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, method: str, blob: bytes, first: int, size: int, **fields: str) -> Talk:
        """Send a head; ``fields`` are added, in place of those of the same name."""
        ranged = {"range": f"bytes={first}-{first + size - 1}"}
        if method == "PUT":
            ranged = {"content-range": f"bytes {first}-{first + size - 1}/*", "content-length": str(size)}
        names = {"host": "h", "cloister-plan": PLAN.hex(), "cloister-blob": blob.hex()}
        told = names | ranged | {name.replace("_", "-"): value for name, value in fields.items()}
        return self.say(f"{method} {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", "")

    def say(self, *lines: str) -> Talk:
        return self.send("\r\n".join(lines).encode())

    def send(self, data: bytes) -> Talk:
        self.sock.sendall(data)
        return self

    def answer(self) -> Answer:
        with self.begun() as response:
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def begun(self) -> HTTPResponse:
        """An answer whose head is read."""
        response = HTTPResponse(self.sock)
        response.begin()
        return response

    def put(self, blob: bytes, data: bytes, first: int = 0, **fields: str) -> Answer:
        return self.ask("PUT", blob, first, len(data), **fields).send(data).answer()

    def get(self, blob: bytes, first: int, size: int, **fields: str) -> Answer:
        return self.ask("GET", blob, first, size, **fields).answer()

    def is_over(self) -> bool:
        """Whether the host hangs up and says nothing more."""
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def dial(name: str, port: int, buffer_bytes: int = 0) -> socket.socket:
    """A connection; a small buffer has to be asked for before it is made."""
    for family, kind, protocol, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(WAIT_S)
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            sock.close()
            continue
        return sock
    raise ConnectionRefusedError(name)


def door_of(host: RunningHost, plan: bytes = PLAN) -> DoorPeer:
    """The one aggregator of ``plan``."""
    peers = (client for client in host.clients if isinstance(client, DoorPeer) and client.plan == plan)
    return next(peers, None) or host.door(plan)


def announced(host: RunningHost, size: int, plan: bytes = PLAN) -> bytes:
    """A new blob of ``size`` bytes that a worker may upload."""
    blob, dialer = door_of(host, plan).expect(size), host.dialer(plan)
    until(lambda: knows(dialer, blob, plan))
    return blob


def knows(dialer: Dialer, blob: bytes, plan: bytes = PLAN) -> bool:
    with suppress(grpc.RpcError):
        return dialer._blobs.Stat(name_of(blob, plan)) is not None
    return False


def stored(host: RunningHost, data: bytes) -> bytes:
    """A new blob that the aggregator wrote."""
    peer, blob = door_of(host), token_bytes(16)
    for start in range(0, len(data), 4 * MIB):
        part = data[start : start + 4 * MIB]
        assert peer.write(blob, start, part, last=start + len(part) == len(data)) is DoorKind.STORED
    return blob


def calls(host: RunningHost, method: str, code: str = "OK") -> float:
    return host.metric("cloister_rpc_duration_seconds_count", method=method, code=code)


def got(dialer: Dialer, blob: bytes, size: int, offset: int = 0) -> bytes:
    return b"".join(bytes(piece) for piece in dialer.get_blob(blob, offset, header=Shape(size)))  # type: ignore[arg-type]


PLAIN = {"listen": "http://127.0.0.1:0", "blob_listen": "http://127.0.0.1:0"}


@pytest.fixture(params=["tls", "plain"])
def either(request: pytest.FixtureRequest, make_host: Make) -> RunningHost:
    """A host with a blob port, with TLS and without."""
    return make_host(**({"blob_listen": "localhost:0"} if request.param == "tls" else PLAIN))


# up and down


@pytest.mark.parametrize("size", [THRESHOLD_BYTES + 1, 3 * MIB + 17, 20 * MIB])
def test_a_blob_goes_up_and_down_unchanged_over_http(either: RunningHost, size: int) -> None:
    peer, dialer, data, seen = either.door(), either.dialer(), token_bytes(size), list[int]()
    blob = peer.expect(size)
    wait_for(dialer, blob)
    dialer.put_blob(blob, data, seen.append)
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert seen[-1] == size
    assert got(dialer, blob, size) == data
    assert peer.read(blob, 0, min(size, MIB)) == data[:MIB]
    until(lambda: calls(either, "Blobs.HttpPut") == 1 and calls(either, "Blobs.HttpGet") == 1)
    assert calls(either, "Blobs.Put") == calls(either, "Blobs.Get") == 0


@pytest.mark.parametrize("offset", [1, MIB - 1, 4 * MIB + 100, 5 * MIB])
def test_a_blob_comes_down_from_an_offset(either: RunningHost, offset: int) -> None:
    data = token_bytes(6 * MIB + 1)
    assert got(either.dialer(), stored(either, data), len(data), offset) == data[offset:]


def test_an_answer_says_what_it_carries_and_is_stored_nowhere(blob_host: RunningHost) -> None:
    data = token_bytes(1000)
    with Talk(blob_host) as talk:
        answer = talk.get(stored(blob_host, data), 10, 100)
    assert (answer.status, answer.body) == (206, data[10:110])
    assert answer.fields["content-range"] == "bytes 10-109/1000"
    assert answer.fields["cache-control"] == "no-store"


def test_many_requests_follow_each_other_on_one_line(either: RunningHost) -> None:
    sizes = [1, 1000, MIB + 1, 17]
    blobs = [(token_bytes(size), announced(either, size)) for size in sizes]
    with Talk(either) as talk:
        for _ in range(3):
            for data, blob in blobs:
                answer = talk.put(blob, data)
                assert (answer.status, answer.fields["cloister-received"]) == (200, str(len(data)))
                assert answer.fields["cloister-total"] == str(len(data))
                assert talk.get(blob, 0, len(data)).body == data


def test_requests_that_are_sent_at_once_are_answered_in_their_order(blob_host: RunningHost) -> None:
    data = token_bytes(1000)
    blob = announced(blob_host, len(data))
    with Talk(blob_host) as talk:
        talk.ask("PUT", blob, 0, 1000).send(data).ask("GET", blob, 0, 1000, connection="close")
        whole = b""
        while part := talk.sock.recv(65_536):
            whole += part
    assert whole.startswith(b"HTTP/1.1 200 ")
    assert whole.count(b"HTTP/1.1 206 ") == 1
    assert whole.endswith(data)


def test_a_line_that_its_peer_does_not_keep_is_ended(blob_host: RunningHost) -> None:
    with Talk(blob_host) as talk:
        assert talk.get(stored(blob_host, b"abc"), 0, 3, connection="close").body == b"abc"
        assert talk.is_over()


def test_a_peer_that_speaks_http_1_0_is_answered_and_hung_up_on(blob_host: RunningHost) -> None:
    blob = stored(blob_host, b"abc")
    names = f"cloister-plan: {PLAN.hex()}", f"cloister-blob: {blob.hex()}", "range: bytes=0-2"
    with Talk(blob_host) as talk:
        assert talk.say(f"GET {PATH} HTTP/1.0", *names, "", "").answer().body == b"abc"
        talk.sock.settimeout(3)
        assert talk.is_over()


def test_a_peer_that_waits_to_be_told_is_told_to_go_on(either: RunningHost) -> None:
    data = token_bytes(MIB)
    blob = announced(either, len(data))
    with Talk(either) as talk:
        talk.ask("PUT", blob, 0, len(data), expect="100-continue")
        assert talk.sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert talk.send(data).answer().status == 200
        assert talk.get(blob, 0, 10).body == data[:10]


def test_a_peer_that_waits_to_be_told_is_refused_before_it_sends(blob_host: RunningHost) -> None:
    with Talk(blob_host) as talk:
        talk.ask("PUT", token_bytes(16), 0, 100, expect="100-continue")
        assert talk.sock.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_a_sender_of_another_size_than_was_announced_is_told(blob_host: RunningHost) -> None:
    """As over gRPC: a host that lacks the end of a blob must not count as one that has it."""
    blob = announced(blob_host, THRESHOLD_BYTES + 1000)
    assert refused(lambda: blob_host.dialer().put_blob(blob, bytes(THRESHOLD_BYTES + 999))) is Reason.BLOB_LAYOUT


# cut, repeated, at once


@pytest.mark.parametrize("hang_up", [Talk.reset, lambda talk: talk.sock.close()], ids=["reset", "close"])
def test_an_upload_that_is_cut_keeps_what_arrived_and_goes_on_there(
    either: RunningHost, hang_up: Callable[[Talk], None]
) -> None:
    dialer, data, half = either.dialer(), token_bytes(9 * MIB), 5 * MIB + 77
    blob, seen = announced(either, len(data)), list[int]()
    talk = Talk(either).ask("PUT", blob, 0, len(data)).send(data[:half])
    wait_for(dialer, blob, half)
    hang_up(talk)
    until(lambda: calls(either, "Blobs.HttpPut", "CANCELLED") == 1)
    dialer.put_blob(blob, data, seen.append)
    assert seen[0] == half
    assert got(dialer, blob, len(data)) == data


def test_an_upload_that_was_cut_goes_on_after_the_host_restarted(make_host: Make) -> None:
    host, data = make_host(blob_listen="localhost:0"), token_bytes(2 * MIB)
    blob = announced(host, len(data))
    with Talk(host) as talk:
        talk.ask("PUT", blob, 0, len(data)).send(data[:MIB])
        wait_for(host.dialer(), blob, MIB)
    until(lambda: calls(host, "Blobs.HttpPut", "CANCELLED") == 1)
    host.stop()
    again, seen = make_host(blob_listen="localhost:0"), list[int]()
    again.dialer().put_blob(blob, data, seen.append)
    assert seen[0] == MIB
    assert got(again.dialer(), blob, len(data)) == data


def test_a_repeated_upload_changes_nothing(either: RunningHost) -> None:
    data = token_bytes(3 * MIB + 1)
    blob = announced(either, len(data))
    with Talk(either) as talk:
        assert talk.put(blob, data).status == 200
        for again in (data, bytes(len(data))):
            answer = talk.put(blob, again)
            assert (answer.status, answer.fields["cloister-received"]) == (200, str(len(data)))
        assert talk.put(blob, bytes(100), 50).status == 200
        assert talk.get(blob, 0, len(data)).body == data


def test_an_upload_that_starts_before_what_is_there_is_skipped_over_to_the_right_bytes(either: RunningHost) -> None:
    data = token_bytes(9 * MIB)
    blob = announced(either, len(data))
    with Talk(either) as talk:
        assert talk.put(blob, data[: MIB + 5]).fields["cloister-received"] == str(MIB + 5)
        answer = talk.put(blob, bytes(MIB + 4) + data[MIB + 4 : 2 * MIB])
        assert (answer.status, answer.fields["cloister-received"]) == (200, str(2 * MIB))
        assert talk.put(blob, data[MIB:], MIB).fields["cloister-received"] == str(len(data))
        assert talk.get(blob, 0, len(data)).body == data


def test_two_uploads_of_one_blob_at_once_make_one_blob(either: RunningHost) -> None:
    data = token_bytes(20 * MIB)
    blob, answers = announced(either, len(data)), list[Answer]()

    def put() -> None:
        with Talk(either) as talk:
            answers.append(talk.put(blob, data))

    in_threads(*[put] * 2)
    assert [answer.status for answer in answers] == [200, 200]
    assert got(either.dialer(), blob, len(data)) == data


def in_threads(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# refused


def test_what_cannot_be_had_is_refused_by_status_and_number(either: RunningHost) -> None:
    blob, own, unknown = stored(either, bytes(1000)), announced(either, 1000), token_bytes(16)
    other = {"cloister_plan": OTHER_PLAN.hex()}
    asked: list[tuple[Callable[[Talk], Answer], int, Reason]] = [
        (lambda talk: talk.get(unknown, 0, 1), 404, Reason.BLOB_UNKNOWN),
        (lambda talk: talk.put(unknown, b"x"), 404, Reason.BLOB_UNKNOWN),
        (lambda talk: talk.get(blob, 0, 1, **other), 404, Reason.BLOB_UNKNOWN),
        (lambda talk: talk.put(own, b"x", **other), 404, Reason.BLOB_UNKNOWN),
        (lambda talk: talk.put(blob, b"x"), 404, Reason.BLOB_UNKNOWN),
        (lambda talk: talk.get(blob, 1001, 1), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.get(blob, 1000, 1), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.get(blob, 999, 2), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.get(blob, 10**15 - 1, 1), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.put(own, b"x", 1), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.put(own, b"x", 10**15 - 1), 416, Reason.BLOB_OFFSET),
        (lambda talk: talk.put(own, bytes(1001)), 416, Reason.BLOB_TOO_LONG),
    ]
    for ask, status, reason in asked:
        with Talk(either) as talk:
            assert ask(talk).refusal == (status, reason)
    with Talk(either) as talk:
        assert talk.put(own, bytes(1000)).status == 200
        assert talk.get(blob, 999, 1).body == b"\0"


MALFORMED: dict[str, Callable[[Talk, bytes], Talk]] = {
    "no range": lambda talk, blob: talk.ask("GET", blob, 0, 1, range=""),
    "contradicting length": lambda talk, blob: talk.ask("PUT", blob, 0, 10, content_length="11").send(bytes(11)),
    "chunked": lambda talk, blob: talk.ask("PUT", blob, 0, 1, transfer_encoding="chunked").send(b"1\r\nx\r\n0\r\n\r\n"),
    "wrong path": lambda talk, blob: talk.say("GET / HTTP/1.1", "host: h", "", ""),
    "post": lambda talk, blob: talk.ask("POST", blob, 0, 1),
    "bad hex": lambda talk, blob: talk.ask("GET", blob, 0, 1, cloister_blob="z" * 32),
    "short name": lambda talk, blob: talk.ask("GET", blob[:-1], 0, 1),
    "long name": lambda talk, blob: talk.ask("PUT", blob + b"x", 0, 1).send(b"x"),
    "short plan": lambda talk, blob: talk.ask("GET", blob, 0, 1, cloister_plan="00" * 31),
    "no names": lambda talk, blob: talk.say(f"GET {PATH} HTTP/1.1", "host: h", "range: bytes=0-1", "", ""),
    "large head": lambda talk, blob: talk.ask("GET", blob, 0, 1, x="y" * (64 << 10)),
    "not http": lambda talk, blob: talk.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)),
    "http/2": lambda talk, blob: talk.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}


@pytest.mark.parametrize("ask", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_request_is_refused_as_malformed_and_the_line_ends(
    make_host: Make, ask: Callable[[Talk, bytes], Talk]
) -> None:
    host = make_host(**PLAIN)
    with Talk(host) as talk:
        assert ask(talk, stored(host, b"abc")).answer().refusal == (400, Reason.MALFORMED)
        talk.sock.shutdown(socket.SHUT_WR)
        assert talk.is_over()


def test_who_still_sends_twenty_mebibytes_can_read_why_it_is_refused(either: RunningHost) -> None:
    data = bytes(20 * MIB)
    with Talk(either) as talk:
        assert talk.put(token_bytes(16), data).refusal == (404, Reason.BLOB_UNKNOWN)
    blob = announced(either, MIB)
    with Talk(either) as talk:
        assert talk.put(blob, data).refusal == (416, Reason.BLOB_TOO_LONG)
    assert refused(lambda: either.dialer().put_blob(token_bytes(16), data)) is Reason.BLOB_UNKNOWN


def test_a_name_stands_in_no_log_and_no_metric(make_host: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host = make_host(**PLAIN)
    blob, hidden = stored(host, bytes(1000)), token_bytes(16)
    for ask in (
        lambda talk: talk.get(blob, 0, 1000),
        lambda talk: talk.get(hidden, 0, 1),
        lambda talk: talk.put(blob, b"x"),
        lambda talk: talk.ask("POST", blob, 0, 1).answer(),
        lambda talk: talk.ask(f"X{blob.hex()}", blob, 0, 1).answer(),
    ):
        with Talk(host) as talk:
            ask(talk)
    shown = generate_latest(host.host.metrics.registry).decode() + caplog.text
    assert blob.hex() not in shown
    assert hidden.hex() not in shown
    samples = host.host.metrics.rpc_seconds.collect()[0].samples
    methods = {sample.labels["method"] for sample in samples if "Http" in sample.labels["method"]}
    assert methods == {"Blobs.HttpGet", "Blobs.HttpPut", "Blobs.Http"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# followed


def test_a_download_follows_the_aggregator_while_it_writes(either: RunningHost) -> None:
    peer, blob, data = either.door(), token_bytes(16), token_bytes(20 * MIB)
    with Talk(either) as talk:
        peer.write(blob, 0, data[: 4 * MIB], last=False)
        response = talk.ask("GET", blob, 0, len(data)).begun()
        assert response.getheader("content-range") == f"bytes 0-{len(data) - 1}/*"
        seen = response.read(4 * MIB)
        assert seen == data[: 4 * MIB]
        for start in range(4 * MIB, len(data), 4 * MIB):
            peer.write(blob, start, data[start : start + 4 * MIB], last=start == 16 * MIB)
            seen += response.read(4 * MIB)
            assert seen == data[: start + 4 * MIB]


def test_a_part_that_is_there_is_sent_though_the_aggregator_still_writes(make_host: Make) -> None:
    host = make_host(blob_listen="localhost:0", stall_s=2.0)
    peer, blob, data = host.door(), token_bytes(16), token_bytes(5 * MIB)
    peer.write(blob, 0, data[: 4 * MIB], last=False)
    peer.write(blob, 4 * MIB, data[4 * MIB :], last=False)
    for first, size in ((0, 100), (MIB, MIB), (0, 5 * MIB)):
        with Talk(host) as talk:
            answer = talk.get(blob, first, size)
            assert (answer.status, answer.body) == (206, data[first : first + size])


def test_a_download_that_begins_at_the_end_of_what_is_written_waits_for_more(blob_host: RunningHost) -> None:
    peer, blob = blob_host.door(), token_bytes(16)
    peer.write(blob, 0, b"abc", last=False)
    with Talk(blob_host) as talk:
        talk.ask("GET", blob, 3, 4)
        until(lambda: blob_host.metric("cloister_open_calls") == 1)
        peer.write(blob, 3, b"defg", last=True)
        assert talk.answer().body == b"defg"


def test_a_download_of_a_blob_that_is_discarded_is_cut_and_then_unknown(either: RunningHost) -> None:
    peer, blob, data = either.door(), token_bytes(16), token_bytes(4 * MIB)
    peer.write(blob, 0, data, last=False)
    with Talk(either) as talk:
        response = talk.ask("GET", blob, 0, 20 * MIB).begun()
        assert response.read(4 * MIB) == data
        peer.control.send(DoorKind.DISCARD, 0, blob)
        with pytest.raises(IncompleteRead) as caught:
            response.read()
        assert caught.value.partial == b""
    with Talk(either) as talk:
        assert talk.get(blob, 0, 20 * MIB).refusal == (404, Reason.BLOB_UNKNOWN)
    pieces = either.dialer().get_blob(blob, header=Shape(20 * MIB))  # type: ignore[arg-type]
    assert refused(lambda: next(pieces)) is Reason.BLOB_UNKNOWN


def test_a_blob_that_ends_before_the_range_does_is_cut_and_then_refused(blob_host: RunningHost) -> None:
    peer, blob = blob_host.door(), token_bytes(16)
    peer.write(blob, 0, bytes(4 * MIB), last=False)
    with Talk(blob_host) as talk:
        response = talk.ask("GET", blob, 0, 6 * MIB).begun()
        peer.write(blob, 4 * MIB, bytes(MIB), last=True)
        with pytest.raises(IncompleteRead) as caught:
            response.read()
        assert caught.value.partial == bytes(5 * MIB)
    with Talk(blob_host) as talk:
        assert talk.get(blob, 0, 6 * MIB).refusal == (416, Reason.BLOB_OFFSET)


def test_an_upload_of_a_blob_that_is_discarded_is_refused(blob_host: RunningHost) -> None:
    peer = blob_host.door()
    blob = peer.expect(MIB)
    wait_for(blob_host.dialer(), blob)
    with Talk(blob_host) as talk:
        talk.ask("PUT", blob, 0, MIB).send(bytes(1000))
        wait_for(blob_host.dialer(), blob, 1000)
        peer.control.send(DoorKind.DISCARD, 0, blob)
        until(lambda: not knows(blob_host.dialer(), blob))
        assert talk.send(bytes(MIB - 1000)).answer().refusal == (404, Reason.BLOB_UNKNOWN)


# counted


def test_bytes_over_http_count_as_those_over_grpc(either: RunningHost) -> None:
    data = token_bytes(2 * MIB)
    blob = announced(either, len(data))
    door_of(either).event(event="round-opened")
    moved = {"in": 0.0, "out": 0.0}

    def is_counted() -> bool:
        (run,) = either.client().runs() if either.ready.ca_pem else [None]
        told = run is None or (run.bytes_in, run.bytes_out) == (moved["in"], moved["out"])
        counts = (
            either.metric("cloister_payload_bytes_total", direction=way, kind="blob") == moved[way] for way in moved
        )
        return told and all(counts)

    with Talk(either) as talk:
        talk.put(blob, data)
        moved["in"] += len(data)
        until(is_counted)
        talk.get(blob, 5, MIB)
        moved["out"] += MIB
        until(is_counted)
        talk.ask("PUT", blob, 0, len(data)).send(data[:1000])
        until(lambda: calls_under_way(either) == 1)
        talk.sock.close()
        moved["in"] += 1000
        until(is_counted)
    list(either.dialer().get_blob(blob))
    moved["out"] += len(data)
    until(is_counted)


def calls_under_way(host: RunningHost) -> float:
    return host.metric("cloister_open_calls")


def test_who_asks_is_told_the_port_or_the_one_that_a_proxy_has(make_host: Make) -> None:
    def told(host: RunningHost) -> Any:
        return host.dialer()._blobs.Http(cloister_pb2.HttpQuery()).port

    host = make_host()
    assert told(host) == 0
    host.stop()
    host = make_host(blob_listen="localhost:0")
    assert told(host) == host.ready.blob_port
    host.stop()
    assert told(make_host(blob_listen="localhost:0", blob_public_port=4711)) == 4711


# the dialler, where the port is away


def test_a_port_that_is_not_reached_costs_the_transfer_nothing_but_speed(make_host: Make) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        closed = taken.getsockname()[1]
    host, data = make_host(blob_listen="localhost:0", blob_public_port=closed), token_bytes(MIB)
    blob = announced(host, len(data))
    dialer = host.dialer()
    dialer.put_blob(blob, data)
    assert got(dialer, blob, len(data)) == data
    assert (calls(host, "Blobs.HttpPut"), calls(host, "Blobs.Put")) == (0, 1)


# memory


def test_readers_that_read_nothing_pin_no_memory(make_host: Make) -> None:
    host = make_host(**PLAIN)
    blob = token_bytes(16)
    write_large(host.door(), blob, 64 * MIB)
    stuck: list[Talk] = []
    before = resident_bytes()
    for _ in range(16):
        stuck.append(Talk(host, buffer_bytes=4096).ask("GET", blob, 0, 64 * MIB))
    with Talk(host) as talk:  # whom they give their turns to
        assert len(talk.get(blob, 0, MIB).body) == MIB
    until(lambda: calls_under_way(host) == 16)
    assert resident_bytes() - before < 32 * MIB
    for talk in stuck:
        talk.sock.close()
    until(lambda: calls_under_way(host) == 0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
