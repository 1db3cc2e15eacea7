"""What a real host answers over HTTP: refusals with a status and a number, blobs that are still written, counts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
from prometheus_client import generate_latest

from coordinator.door import DoorKind
from protos.v1 import cloister_pb2
from tests.host.blob_port_talk import (
    PATH,
    PLAIN,
    Answer,
    Make,
    Shape,
    Talk,
    announced,
    calls,
    calls_under_way,
    door_of,
    got,
    knows,
    stored,
)
from tests.host.conftest import OTHER_PLAN, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, refused, wait_for, write_large
from trusted.errors import Reason

pytestmark = pytest.mark.usefixtures("no_errors")


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
