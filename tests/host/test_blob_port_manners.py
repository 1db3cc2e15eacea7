"""The blob port beside peers without manners, full disks, ends and replicas: nobody else pays, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from contextlib import ExitStack
from http.client import IncompleteRead
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import Address
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from tests.host.blob_port_talk import (
    PLAIN,
    Make,
    Talk,
    announced,
    calls,
    calls_under_way,
    door_of,
    got,
    in_threads,
    stored,
)
from tests.host.conftest import NOW, OTHER_PLAN, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, wait_for, write_large
from tests.host.test_full_disk import Disk, full  # noqa: F401  # a fixture
from tests.host.test_replicas import Replicas, replicas  # noqa: F401  # a fixture
from trusted.errors import ProtocolError, Reason

TLS = {"blob_listen": "localhost:0"}
pytestmark = pytest.mark.usefixtures("no_errors")


@pytest.fixture(params=[TLS, PLAIN], ids=["tls", "plain"])
def port(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where a host listens."""
    chosen: dict[str, str] = request.param
    return chosen


# turns


def test_an_upload_that_stands_still_gives_its_turn_to_another_and_ends_when_it_goes_on(
    make_host: Make, port: dict[str, str]
) -> None:
    host, data = make_host(**port, uploads=1), token_bytes(3 * MIB)
    slow, blob = announced(host, len(data)), announced(host, len(data))
    with Talk(host) as still, Talk(host) as talk:
        still.ask("PUT", slow, 0, len(data)).send(data[:1000])
        wait_for(host.dialer(), slow, 1000)
        assert talk.put(blob, data).status == 200
        assert still.send(data[1000:]).answer().status == 200
        assert talk.get(slow, 0, len(data)).body == data


def test_a_download_that_nobody_reads_gives_its_turn_to_another_and_ends_when_it_is_read(
    make_host: Make, port: dict[str, str]
) -> None:
    host, data = make_host(**port, downloads=1), token_bytes(24 * MIB)
    blob = stored(host, data)
    with Talk(host, buffer_bytes=4096) as still, Talk(host) as talk:
        response = still.ask("GET", blob, 0, len(data)).begun()
        assert talk.get(blob, 0, len(data)).body == data
        assert response.read() == data


@pytest.mark.parametrize("sent", [0, 100])
def test_an_upload_that_stands_still_for_too_long_is_refused_and_goes_on_later(
    make_host: Make, port: dict[str, str], sent: int
) -> None:
    host, data = make_host(**port, stall_s=0.3), token_bytes(1000)
    blob = announced(host, len(data))
    with Talk(host) as still:
        assert still.ask("PUT", blob, 0, 1000).send(data[:sent]).answer().refusal == (503, Reason.UNREACHABLE)
    with Talk(host) as talk:
        assert talk.put(blob, data[sent:], sent).status == 200
        assert talk.get(blob, 0, 1000).body == data


def test_a_byte_now_and_then_is_ended_and_holds_no_turn(make_host: Make) -> None:
    host, data = make_host(**PLAIN, uploads=1, stall_s=1.0, crawl_bytes=1000), token_bytes(MIB)
    slow, blob = announced(host, 10_000), announced(host, len(data))
    with Talk(host) as crawler, Talk(host) as talk:
        crawler.ask("PUT", slow, 0, 10_000)
        crawler.sock.settimeout(0.1)
        ended = threading.Event()

        def crawl() -> None:
            while not ended.is_set():
                crawler.send(b"x")
                try:
                    crawler.sock.recv(1, socket.MSG_PEEK)
                    ended.set()
                except TimeoutError:
                    pass

        thread = threading.Thread(target=crawl)
        thread.start()
        assert talk.put(blob, data).status == 200
        thread.join(20)
        assert ended.is_set()
        crawler.sock.settimeout(10)
        assert crawler.answer().refusal == (503, Reason.UNREACHABLE)


def test_an_upload_over_a_slow_line_may_take_longer_than_a_stall(make_host: Make, port: dict[str, str]) -> None:
    host, data = make_host(**port, stall_s=0.5, crawl_bytes=10_000), token_bytes(300_000)
    blob = announced(host, len(data))
    with Talk(host) as talk:
        talk.ask("PUT", blob, 0, len(data))
        for start in range(0, len(data), 20_000):
            talk.send(data[start : start + 20_000])
            wait_for(host.dialer(), blob, start + 20_000)
            threading.Event().wait(0.1)  # the slow line
        assert talk.answer().status == 200
        assert talk.get(blob, 0, len(data)).body == data


def test_a_download_that_nobody_reads_for_too_long_is_cut(make_host: Make, port: dict[str, str]) -> None:
    host = make_host(**port, downloads=1, stall_s=0.5)
    blob = stored(host, bytes(24 * MIB))
    with Talk(host, buffer_bytes=4096) as still:
        response = still.ask("GET", blob, 0, 24 * MIB).begun()
        until(lambda: calls(host, "Blobs.HttpGet", "UNAVAILABLE") == 1)
        with pytest.raises((IncompleteRead, OSError)):
            response.read()
    with Talk(host) as talk:
        assert len(talk.get(blob, 0, 24 * MIB).body) == 24 * MIB


def test_a_download_whose_writer_stalls_is_refused_or_cut(make_host: Make) -> None:
    host, blob = make_host(**PLAIN, stall_s=0.3), token_bytes(16)
    host.door().write(blob, 0, bytes(4 * MIB), last=False)
    with Talk(host) as talk:
        assert talk.get(blob, 4 * MIB, 1).refusal == (503, Reason.UNREACHABLE)
    with Talk(host) as talk:
        response = talk.ask("GET", blob, 0, 5 * MIB).begun()
        with pytest.raises(IncompleteRead) as caught:
            response.read()
        assert len(caught.value.partial) == 4 * MIB


def test_forty_uploads_at_two_turns_all_end(make_host: Make, port: dict[str, str]) -> None:
    host, data = make_host(**port, uploads=2), token_bytes(300_000)
    plans = [door_of(host).plan] * 20 + [OTHER_PLAN] * 20
    blobs = [announced(host, len(data), plan) for plan in plans]
    ended: list[bytes] = []

    def put(plan: bytes, blob: bytes) -> None:
        with Talk(host) as talk:
            assert talk.put(blob, data, cloister_plan=plan.hex()).status == 200
            assert talk.get(blob, 0, len(data), cloister_plan=plan.hex()).body == data
            ended.append(blob)

    in_threads(*(lambda p=plan, b=blob: put(p, b) for plan, blob in zip(plans, blobs, strict=True)))
    assert sorted(ended) == sorted(blobs)


# lines


def test_connections_beyond_the_bound_are_closed_until_one_ends(make_host: Make) -> None:
    host = make_host(**PLAIN, connections=4)
    blob = stored(host, b"abc")
    with ExitStack() as stack:
        lines = [stack.enter_context(Talk(host)) for _ in range(4)]
        for line in lines:
            assert line.get(blob, 0, 3).body == b"abc"
        extra = stack.enter_context(Talk(host))
        extra.sock.settimeout(5)  # well before connect_s
        assert extra.is_over()
        assert lines[0].get(blob, 0, 3).body == b"abc"
        lines[1].sock.close()

        def is_served() -> bool:
            try:
                return stack.enter_context(Talk(host)).get(blob, 0, 3).body == b"abc"
            except OSError:
                return False

        until(is_served)


@pytest.mark.parametrize("said", [b"", b"G", b"GET /cloister/v1/blob HTTP/1.1\r\nhost: h\r\n"])
def test_who_says_nothing_or_half_of_a_head_is_hung_up_on(make_host: Make, port: dict[str, str], said: bytes) -> None:
    host = make_host(**port, connect_s=0.3)
    with Talk(host) as talk:
        assert talk.send(said).is_over()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_who_never_ends_the_handshake_is_hung_up_on(make_host: Make, said: bytes) -> None:
    host = make_host(**TLS, connect_s=0.3)
    with Talk(host, greets=False) as talk:
        assert talk.send(said).is_over()
    with Talk(host) as talk:
        assert talk.get(stored(host, b"abc"), 0, 3).body == b"abc"


def test_scanners_that_reset_what_they_open_are_no_errors(make_host: Make, port: dict[str, str]) -> None:
    host = make_host(**port)
    for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n") * 20:
        Talk(host, greets=False).send(said).reset()
    with Talk(host) as talk:
        assert talk.get(stored(host, b"abc"), 0, 3).body == b"abc"


def test_a_line_that_is_kept_and_idle_is_ended(make_host: Make, port: dict[str, str]) -> None:
    host = make_host(**port, idle_s=0.5)
    with Talk(host) as talk:
        assert talk.get(stored(host, b"abc"), 0, 3).body == b"abc"
        assert talk.is_over()


def test_a_line_at_work_is_not_idle(make_host: Make) -> None:
    host, blob = make_host(**PLAIN, idle_s=0.2, connect_s=0.2), token_bytes(16)
    peer = host.door()
    peer.write(blob, 0, b"abc", last=False)
    with Talk(host) as talk:
        talk.ask("GET", blob, 0, 6)
        talk.sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            talk.sock.recv(1, socket.MSG_PEEK)
        talk.sock.settimeout(20)
        peer.write(blob, 3, b"def", last=True)
        assert talk.answer().body == b"abcdef"


def test_one_address_holds_so_many_transfers(make_host: Make) -> None:
    host, blob = make_host(**PLAIN, streams_per_peer=1), token_bytes(16)
    peer = host.door()
    peer.write(blob, 0, b"abc", last=False)
    with Talk(host) as first, Talk(host) as second, Talk(host) as third:
        first.ask("GET", blob, 0, 4)
        until(lambda: calls_under_way(host) == 1)
        assert second.get(blob, 0, 1).refusal == (429, Reason.QUOTA)
        assert second.is_over()
        peer.write(blob, 3, b"d", last=True)
        assert first.answer().body == b"abcd"
        until(lambda: calls_under_way(host) == 0)
        assert third.get(blob, 0, 1).body == b"a"


def test_one_address_asks_so_often_and_then_waits(make_host: Make) -> None:
    host = make_host(**PLAIN, calls_at_once=5, calls_per_s=0.01)
    blob = stored(host, b"abc")
    with Talk(host) as talk:
        for _ in range(5):
            assert talk.get(blob, 0, 3).status == 206
        assert talk.get(blob, 0, 3).refusal == (429, Reason.QUOTA)
    with Talk(host) as talk:
        assert talk.put(blob, bytes(5 * MIB)).refusal == (429, Reason.QUOTA)


# stopping


def test_a_host_that_stops_ends_idle_lines_and_lets_a_transfer_end(make_host: Make, port: dict[str, str]) -> None:
    host, data = make_host(**port), token_bytes(2 * MIB)
    blob, given = announced(host, len(data)), stored(host, b"abc")
    with Talk(host) as silent, Talk(host) as kept, Talk(host) as busy:
        assert kept.get(given, 0, 3).body == b"abc"
        busy.ask("PUT", blob, 0, len(data)).send(data[:MIB])
        wait_for(host.dialer(), blob, MIB)
        stopping = threading.Thread(target=host.stop)
        stopping.start()
        assert silent.is_over()
        assert kept.is_over()
        assert busy.send(data[MIB:]).answer().status == 200
        assert busy.is_over()
        stopping.join(20)
        assert not host.thread.is_alive()
    with pytest.raises(OSError):
        Talk(host)
    again = make_host(**port)
    assert got(again.dialer(), blob, len(data)) == data


def test_a_transfer_that_does_not_end_is_ended_with_the_host_and_goes_on_afterwards(
    make_host: Make, port: dict[str, str]
) -> None:
    host, data = make_host(**port, drain_s=0.3), token_bytes(2 * MIB)
    blob = announced(host, len(data))
    with Talk(host) as still, Talk(host, buffer_bytes=4096) as unread:
        still.ask("PUT", blob, 0, len(data)).send(data[:MIB])
        wait_for(host.dialer(), blob, MIB)
        large = token_bytes(16)
        write_large(door_of(host), large, 24 * MIB)
        unread.ask("GET", large, 0, 24 * MIB).begun()
        host.stop()
        assert not host.thread.is_alive()
        assert still.is_over()
    again, seen = make_host(**port), list[int]()
    again.dialer().put_blob(blob, data, seen.append)
    assert seen[0] == MIB
    assert got(again.dialer(), blob, len(data)) == data


def test_idle_lines_end_at_once_though_a_call_of_grpc_goes_on(make_host: Make) -> None:
    host, blob = make_host(**PLAIN, drain_s=8.0), token_bytes(16)
    host.door().write(blob, 0, b"abc", last=False)
    reader = host.dialer()
    with Talk(host) as idle:
        assert idle.get(blob, 0, 3).body == b"abc"
        pieces = reader.get_blob(blob)
        assert next(pieces) == b"abc"  # and it waits for more
        host.clients.remove(reader)  # else it is closed first
        stopping = threading.Thread(target=host.stop)
        stopping.start()
        idle.sock.settimeout(4)
        ended = idle.is_over()
        reader.close()
        stopping.join(20)
        assert ended


# configuration

CONFIG = {"state": "state", "door": "unix:/tmp/x", "charter": "charter.json"}


def load(folder: Path, **settings: object) -> HostConfig:
    (folder / "host.json").write_text(json.dumps(CONFIG | settings))
    return HostConfig.load(folder / "host.json")


def test_both_ports_have_tls_or_neither(tmp_path: Path) -> None:
    for listen, blob_listen in (("0.0.0.0:1", "0.0.0.0:2"), ("http://127.0.0.1:1", "http://[::1]:2")):
        assert load(tmp_path, listen=listen, blob_listen=blob_listen).blob_listen == blob_listen
    for listen, blob_listen in (("127.0.0.1:1", "http://127.0.0.1:2"), ("http://127.0.0.1:1", "127.0.0.1:2")):
        with pytest.raises(ProtocolError, match=r"host\.blob_listen") as caught:
            load(tmp_path, listen=listen, blob_listen=blob_listen)
        assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1", "localhost", ":1"])
def test_a_blob_port_in_plaintext_is_on_loopback_alone(tmp_path: Path, address: str) -> None:
    with pytest.raises(ProtocolError, match=r"host\.blob_listen") as caught:
        load(tmp_path, listen="http://127.0.0.1:1", blob_listen=f"http://{address}")
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("number", [0, 65_536, -1, "80"])
def test_a_public_port_is_a_port(tmp_path: Path, number: object) -> None:
    with pytest.raises(ProtocolError):
        load(tmp_path, listen="0.0.0.0:1", blob_listen="0.0.0.0:2", blob_public_port=number)
    assert load(tmp_path, listen="0.0.0.0:1", blob_listen="0.0.0.0:2", blob_public_port=443).blob_public_port == 443


def test_a_proxys_port_that_leads_to_none_of_this_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        load(tmp_path, listen="0.0.0.0:1", blob_public_port=443)
    assert caught.value.reason is Reason.MISSING_FIELD
    assert "host.blob_listen" in str(caught.value)


@pytest.mark.parametrize("port", [TLS, PLAIN], ids=["tls", "plain"])
def test_a_port_that_is_taken_stops_the_start_and_is_named(make_host: Make, port: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scheme = port["blob_listen"].rpartition("localhost" if port is TLS else "127.0.0.1")[0]
        with pytest.raises(ProtocolError, match=r"host\.blob_listen") as caught:
            make_host(**port | {"blob_listen": f"{scheme}127.0.0.1:{taken.getsockname()[1]}"})
    assert caught.value.reason is Reason.UNREACHABLE


@pytest.mark.parametrize(
    "address", ["192.0.2.1:0", "no.such.name.invalid:0", "localhost:99999", "localhost:x", "localhost"]
)
def test_an_address_that_is_not_this_machines_stops_the_start(make_host: Make, address: str) -> None:
    with pytest.raises(ProtocolError, match=r"host\.blob_listen") as caught:
        make_host(blob_listen=address)
    assert caught.value.reason is Reason.UNREACHABLE


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_a_port_on_every_address_is_reached_over_ipv4_and_ipv6(make_host: Make) -> None:
    """As the first port is: gRPC's ``[::]`` takes both."""
    host = make_host(listen="[::]:0", blob_listen="[::]:0")
    for number in (host.ready.port, host.ready.blob_port or 0):
        for address in ("::1", "127.0.0.1"):
            socket.create_connection((address, number), timeout=10).close()


# short of something


def test_a_full_disk_refuses_an_upload_which_goes_on_when_there_is_room(
    make_host: Make,
    full: Disk,  # noqa: F811
) -> None:
    host, data = make_host(**TLS), token_bytes(MIB)
    blob = announced(host, len(data))
    with Talk(host) as talk:
        assert talk.put(blob, data[:1000]).status == 200
        full(1)
        assert talk.put(blob, data[1000:], 1000).refusal == (503, Reason.HOST_SHORT)
    assert host.metric("cloister_host_shortages_total", what="disk") == 1
    full(2)
    dialer, seen = host.dialer(), list[int]()
    dialer.put_blob(blob, data, seen.append)
    assert calls(host, "Blobs.HttpPut", "UNAVAILABLE") == 3
    assert got(dialer, blob, len(data)) == data


def test_a_disk_that_fails_refuses_an_upload_which_goes_on_when_it_is_mended(
    make_host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, data, write = make_host(**PLAIN), token_bytes(MIB), os.pwritev
    blob = announced(host, len(data))

    def pwritev(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with Talk(host) as talk:
        assert talk.put(blob, data[:1000]).status == 200
        monkeypatch.setattr(os, "pwritev", pwritev)
        assert talk.put(blob, data[1000:], 1000).refusal == (503, Reason.STORE_AWAY)
    monkeypatch.setattr(os, "pwritev", write)
    with Talk(host) as talk:
        assert talk.put(blob, data[1000:], 1000).status == 200
        assert talk.get(blob, 0, len(data)).body == data


# replicas


@pytest.fixture
def pair(replicas: Replicas) -> tuple[RunningHost, RunningHost]:  # noqa: F811
    """Two hosts with blob ports on the same stores."""

    def start(number: int) -> RunningHost:
        config = HostConfig(
            replicas.folder / str(number),
            "localhost:0",
            Address.parse(f"unix:{replicas.doors}/{number}.sock"),
            replicas.folder / "charter",
            blob_listen="localhost:0",
            limits=Limits(free_disk_bytes=1),
            database=replicas.database,
            blobs=replicas.place,
        )
        replicas.hosts.append(RunningHost(config, replicas.world, lambda: NOW))
        return replicas.hosts[-1]

    return start(1), start(2)


def test_what_goes_up_over_http_at_one_replica_comes_down_over_http_at_both(
    pair: tuple[RunningHost, RunningHost],
) -> None:
    first, second = pair
    data = token_bytes(21 * MIB + 17)
    blob = announced(first, len(data))
    second.dialer().put_blob(blob, data)
    for host in pair:
        assert got(host.dialer(), blob, len(data)) == data
        assert got(host.dialer(), blob, len(data), 5 * MIB) == data[5 * MIB :]
    assert calls(second, "Blobs.HttpPut") == 1
    assert [calls(host, "Blobs.Get") for host in pair] == [0, 0]


def test_what_a_replica_has_already_is_taken_and_thrown_away(pair: tuple[RunningHost, RunningHost]) -> None:
    data = token_bytes(9 * MIB)
    blob = announced(pair[0], len(data))
    pair[0].dialer().put_blob(blob, data)
    for host in pair:
        with Talk(host) as talk:
            answer = talk.put(blob, bytes(len(data)))
            assert (answer.status, answer.fields["cloister-received"]) == (200, str(len(data)))
            assert talk.put(blob, bytes(1000), 8 * MIB).status == 200
            assert talk.get(blob, 0, len(data)).body == data


def test_half_an_upload_at_one_replica_ends_at_the_other(pair: tuple[RunningHost, RunningHost]) -> None:
    first, second = pair
    data = token_bytes(3 * MIB)
    blob = announced(first, len(data))
    with Talk(first) as talk:
        talk.ask("PUT", blob, 0, len(data)).send(data[:MIB])
        wait_for(first.dialer(), blob, MIB)
    second.dialer().put_blob(blob, data)
    for host in pair:
        assert got(host.dialer(), blob, len(data)) == data
    with Talk(first) as talk:  # its worker comes back to the first one
        assert talk.put(blob, data[MIB:], MIB).fields["cloister-received"] == str(len(data))
