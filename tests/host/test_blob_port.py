"""Blobs over HTTP at a real host: up, down, cut, repeated, several at a time."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

import pytest

from coordinator.door import DoorKind
from tests.host.blob_port_talk import (
    PATH,
    THRESHOLD_BYTES,
    Answer,
    Make,
    Talk,
    announced,
    calls,
    got,
    in_threads,
    stored,
)
from tests.host.conftest import PLAN, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, refused, wait_for
from trusted.errors import Reason

pytestmark = pytest.mark.usefixtures("no_errors")


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
