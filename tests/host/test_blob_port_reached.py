"""A real host's blob port, reached by a real worker: directly, through a proxy, or not at all."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_bytes
from time import monotonic, sleep
from typing import Any

import pytest

from coordinator.door import Address, DoorKind
from coordinator.host.blob_port import BlobPort
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from tests.host.conftest import OTHER_PLAN, PLAN, DoorPeer, RunningHost
from tests.host.test_blobs import MIB, Stretches, refused, wait_for
from tests.host.test_reaching import ConnectProxy
from tests.world import NOW, World
from trusted.blob import BlobHeader, BlobKind
from trusted.errors import BlobError, Reason
from worker.coordinators import Coordinators
from worker.dialer import Dialer, Patience
from worker.grpc_channel import HostAddress
from worker.http_blobs import HttpBlobs, PortAway, Wanted

HEADER = BlobHeader(BlobKind.UPDATE, PLAN, 3, "site-1", bytes(32), elements=3_000_017)
MakeHost = Callable[..., RunningHost]


@pytest.fixture
def no_proxy_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables that this machine may have."""
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def make_ported(world: World, tmp_path: Path, no_proxy_environment: pytest.MonkeyPatch) -> Iterator[MakeHost]:
    """Start hosts that have a blob port; ``plaintext`` on both ports, or TLS; more of the configuration by keyword."""
    hosts: list[RunningHost] = []
    doors = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes

    def make(*, plaintext: bool = False, limits: dict[str, Any] | None = None, **config: Any) -> RunningHost:
        number = len(hosts)
        listen = "http://127.0.0.1:0" if plaintext else "localhost:0"
        made = HostConfig(
            tmp_path / f"state-{number}",
            listen,
            Address.parse(f"unix:{doors}/{number}.sock"),
            tmp_path / "charter",
            limits=Limits(**({"free_disk_bytes": 1} | (limits or {}))),
            **({"blob_listen": listen} | config),
        )
        hosts.append(RunningHost(made, world, lambda: NOW))
        return hosts[-1]

    yield make
    for host in hosts:
        if host.thread.is_alive():
            host.stop()
    shutil.rmtree(doors, ignore_errors=True)


@pytest.fixture
def ported(make_ported: MakeHost) -> RunningHost:
    """A host with TLS on both ports."""
    return make_ported()


class EndingProxy(ConnectProxy):
    """One that ends both sides when one has ended, also where it waits for the other."""

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    """A proxy that lets everything through."""
    made = EndingProxy()
    yield made
    stop(made)


def stop(proxy: ConnectProxy) -> None:
    proxy.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
    proxy.listener.close()


def require_calls(host: RunningHost, code: str = "OK", **expected: int) -> None:
    """So many calls of each method came to an end; the host counts one a moment after it has answered it."""
    deadline = monotonic() + 20
    while True:
        counts = {
            method: host.metric("cloister_rpc_duration_seconds_count", method=f"Blobs.{method}", code=code)
            for method in expected
        }
        if counts == expected or monotonic() > deadline:
            assert counts == expected
            return
        sleep(0.01)


def expect(host: RunningHost, dialer: Dialer) -> tuple[bytes, bytes]:
    """The name that the aggregator gave to what belongs to ``HEADER``, and bytes of that size."""
    data = token_bytes(HEADER.sealed_bytes)
    blob = door_of(host).expect(len(data))
    wait_for(dialer, blob)
    return blob, data


def door_of(host: RunningHost) -> DoorPeer:
    """The aggregator's end, of which there is one."""
    return next((client for client in host.clients if isinstance(client, DoorPeer)), None) or host.door()


def whole(pieces: Iterator[memoryview]) -> bytes:
    return b"".join(map(bytes, pieces))  # each is good until the next


def up_and_down(host: RunningHost, dialer: Dialer) -> None:
    blob, data = expect(host, dialer)
    dialer.put_blob(blob, data)
    assert whole(dialer.get_blob(blob, header=HEADER)) == data


@pytest.mark.parametrize("plaintext", [False, True], ids=["TLS", "plaintext"])
def test_blobs_go_over_the_blob_port_where_there_is_one(make_ported: MakeHost, plaintext: bool) -> None:
    host = make_ported(plaintext=plaintext)
    target = f"http://127.0.0.1:{host.ready.port}" if plaintext else host.target
    with Dialer(target, None if plaintext else host.ca, PLAN, patience=Patience(1)) as dialer:
        up_and_down(host, dialer)
    require_calls(host, HttpPut=1, HttpGet=1, Http=1, Put=0, Get=0)


def test_blobs_go_over_grpc_where_the_host_has_no_blob_port(make_ported: MakeHost) -> None:
    host = make_ported(blob_listen=None)
    up_and_down(host, host.dialer())
    require_calls(host, HttpPut=0, HttpGet=0, Http=1, Put=1, Get=1)


def test_a_small_blob_goes_over_grpc_beside_a_blob_port(ported: RunningHost) -> None:
    dialer, data = ported.dialer(), token_bytes((64 << 10) - 1)
    blob = ported.door().expect(len(data))
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    require_calls(ported, Put=1, HttpPut=0, Http=0)


@pytest.mark.parametrize("offset", [0, 1, HEADER.prefix_bytes, HEADER.prefix_bytes + 5 * MIB, HEADER.sealed_bytes - 1])
def test_pieces_come_whole_from_any_offset(ported: RunningHost, offset: int) -> None:
    dialer = ported.dialer()
    blob, data = expect(ported, dialer)
    dialer.put_blob(blob, data)
    position, step = offset, 4 * HEADER.segment_bytes
    for piece in dialer.get_blob(blob, offset, header=HEADER):
        assert piece == data[position : position + len(piece)]
        position += len(piece)
        assert position == len(data) or (position - HEADER.prefix_bytes) % step == 0
    assert position == len(data)


def test_a_blob_is_followed_over_the_port_while_it_is_written(ported: RunningHost) -> None:
    """Its size is known before its end: the worker waits for the rest of what it asked for."""
    peer, dialer, blob, data = ported.door(), ported.dialer(), token_bytes(16), token_bytes(HEADER.sealed_bytes)
    begun = threading.Event()

    def write() -> None:
        for start in range(0, len(data), MIB):
            peer.write(blob, start, data[start : start + MIB], last=start + MIB >= len(data))
            if start == 8 * MIB:
                begun.wait(30)  # more than the first piece is there, and not all

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    wait_for(dialer, blob, MIB)
    pieces = dialer.get_blob(blob, header=HEADER)
    got = bytes(next(pieces))
    begun.set()
    assert got + whole(pieces) == data
    writer.join(30)
    require_calls(ported, HttpGet=1, Get=0)


def test_a_repeated_upload_is_harmless(ported: RunningHost) -> None:
    dialer = ported.dialer()
    blob, data = expect(ported, dialer)
    dialer.put_blob(blob, data)
    dialer.put_blob(blob, data)
    assert whole(dialer.get_blob(blob, header=HEADER)) == data


def test_what_fails_while_it_is_sealed_is_raised_at_its_sender_and_the_upload_goes_on_later(
    ported: RunningHost,
) -> None:
    peer, dialer, data = ported.door(), ported.dialer(), token_bytes(5 * MIB + 17)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    with pytest.raises(ZeroDivisionError):
        dialer.put_blob(blob, Stretches(data, fails_at=4 * MIB))
    dialer.put_blob(blob, Stretches(data))
    assert peer.next(DoorKind.ARRIVED).body == blob
    assert b"".join(dialer.get_blob(blob)) == data
    require_calls(ported, HttpPut=1, Put=0)


class NotFinite(Stretches):
    """A blob that turns out to hold what is no number."""

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        yield memoryview(self._data)[offset : offset + MIB]
        raise BlobError(Reason.NON_FINITE, "update: every number is one")


def test_an_update_that_is_not_finite_is_refused_by_its_sender(ported: RunningHost) -> None:
    dialer = ported.dialer()
    blob, data = expect(ported, dialer)
    with pytest.raises(BlobError) as caught:
        dialer.put_blob(blob, NotFinite(data))
    assert caught.value.reason is Reason.NON_FINITE
    dialer.put_blob(blob, data)
    assert whole(dialer.get_blob(blob, header=HEADER)) == data


def test_what_the_port_refuses_has_the_reasons_that_it_has_over_grpc(ported: RunningHost) -> None:
    dialer = ported.dialer(patience=Patience(1))
    blob, data = expect(ported, dialer)
    assert refused(lambda: dialer.put_blob(token_bytes(16), bytes(MIB))) is Reason.BLOB_UNKNOWN
    assert refused(lambda: dialer.put_blob(blob, bytes(len(data) + 1))) is Reason.BLOB_LAYOUT
    assert refused(lambda: whole(dialer.get_blob(token_bytes(16), header=HEADER))) is Reason.BLOB_UNKNOWN
    other = ported.dialer(OTHER_PLAN, patience=Patience(1))
    assert refused(lambda: whole(other.get_blob(blob, header=HEADER))) is Reason.BLOB_UNKNOWN
    require_calls(ported, "NOT_FOUND", HttpGet=2, Get=0)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_a_blob_that_is_shorter_than_announced_is_not_taken_for_stored(ported: RunningHost, size: int) -> None:
    dialer = ported.dialer(patience=Patience(1))
    blob, _ = expect(ported, dialer)
    assert refused(lambda: dialer.put_blob(blob, bytes(size))) is Reason.BLOB_LAYOUT


@pytest.mark.parametrize("size", [MIB - 1, 3 * MIB])
def test_a_blob_that_is_longer_than_announced_is_refused(ported: RunningHost, size: int) -> None:
    dialer = ported.dialer(patience=Patience(1))
    blob = ported.door().expect(size - 1)
    wait_for(dialer, blob)
    reason = refused(lambda: dialer.put_blob(blob, bytes(size)))
    assert reason in (Reason.BLOB_OFFSET, Reason.BLOB_TOO_LONG, Reason.BLOB_LAYOUT)


def test_who_sends_20_mib_to_a_name_that_nobody_announced_hears_why(ported: RunningHost) -> None:
    data = bytes(20 * MIB)
    for _ in range(3):
        http = HttpBlobs(ported.dialer()._address, ported.ready.blob_port or 0)
        wanted = Wanted(PLAN, token_bytes(16), 0, len(data))
        stretches = (memoryview(data)[start : start + MIB] for start in range(0, len(data), MIB))
        assert refused(partial(http.put, wanted, stretches)) is Reason.BLOB_UNKNOWN
        http.close()


def test_a_connection_that_the_host_found_idle_for_too_long_costs_no_attempt(make_ported: MakeHost) -> None:
    host = make_ported(limits={"idle_s": 0.3})
    dialer = host.dialer(patience=Patience(1))
    blob, data = expect(host, dialer)
    dialer.put_blob(blob, data)
    for _ in range(2):
        assert whole(dialer.get_blob(blob, header=HEADER)) == data
        assert dialer._http is not None
        (kept,) = dialer._http._idle
        deadline = monotonic() + 20
        while not kept.is_stale():
            assert monotonic() < deadline
            sleep(0.01)
    assert whole(dialer.get_blob(blob, header=HEADER)) == data
    require_calls(host, HttpPut=1, HttpGet=3)


def test_a_blob_port_that_goes_away_between_two_blobs_leaves_them_to_the_first_port(make_ported: MakeHost) -> None:
    notes = list[str]()
    host = make_ported()
    with Dialer(host.target, host.ca, PLAN, note=lambda event, **_: notes.append(event)) as dialer:
        up_and_down(host, dialer)
        blob, data = expect(host, dialer)
        _shut_blob_port(host)
        dialer.put_blob(blob, data)
        assert whole(dialer.get_blob(blob, header=HEADER)) == data
    require_calls(host, HttpPut=1, HttpGet=1, Put=1, Get=1)
    assert notes == ["blob-port-away"]


def _shut_blob_port(host: RunningHost) -> None:
    """End the blob port alone."""
    ports = [held for held in gc.get_objects() if isinstance(held, BlobPort) and held._listener is not None]
    (port,) = (port for port in ports if port._listener and port._listener.getsockname()[1] == host.ready.blob_port)
    asyncio.run_coroutine_threadsafe(port.close(), host.loop).result(20)


# Through a proxy.


class OnePortProxy(EndingProxy):
    """A proxy that lets one port out, as many do."""

    def __init__(self, port: int, refusal: bytes = b"HTTP/1.1 403 Forbidden\r\n\r\n") -> None:
        self.port, self.refusal = port, refusal
        self.refused: list[bytes] = []
        super().__init__()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head = client.recv(4096, socket.MSG_PEEK)
        if f":{self.port} ".encode() in head:
            super()._tunnel(client)
            return
        self.refused.append(head)
        client.recv(len(head))
        client.sendall(self.refusal)
        client.close()


def asked(proxy: ConnectProxy, port: int | None) -> list[bytes]:
    """The requests for a tunnel to ``port``."""
    return [head for head in proxy.requests if head.startswith(f"CONNECT localhost:{port} HTTP/1.".encode())]


def test_the_blob_port_is_reached_through_the_proxy_with_its_password(ported: RunningHost, proxy: ConnectProxy) -> None:
    up_and_down(ported, ported.dialer(proxy=proxy.url))
    (request,) = asked(proxy, ported.ready.blob_port)
    assert b"proxy-authorization: basic dxnlcjp3b3jk\r\n" in request.lower()
    require_calls(ported, HttpPut=1, HttpGet=1)


def test_a_password_is_decoded_as_it_is_for_grpc(ported: RunningHost, proxy: ConnectProxy) -> None:
    url = proxy.url.replace("user:word", "a%40b:p%3Aw%2F")
    up_and_down(ported, ported.dialer(proxy=url))
    (first,), (second,) = asked(proxy, ported.ready.port), asked(proxy, ported.ready.blob_port)
    told = [
        line.split(b": ")[1]
        for head in (first, second)
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"proxy-authorization")
    ]
    assert told == [b"Basic YUBiOnA6dy8="] * 2


def test_a_proxy_without_a_password_is_told_none(ported: RunningHost, proxy: ConnectProxy) -> None:
    up_and_down(ported, ported.dialer(proxy=proxy.url.replace("user:word@", "")))
    (request,) = asked(proxy, ported.ready.blob_port)
    assert b"authorization" not in request.lower()


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
def test_the_proxy_of_the_environment_is_used_for_both_ports(
    ported: RunningHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch, variable: str
) -> None:
    no_proxy_environment.setenv(variable, proxy.url)
    up_and_down(ported, ported.dialer())
    assert len(asked(proxy, ported.ready.port)) == 1
    assert len(asked(proxy, ported.ready.blob_port)) == 1


def test_no_proxy_in_the_environment_is_heeded_for_both_ports(
    ported: RunningHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch
) -> None:
    no_proxy_environment.setenv("https_proxy", proxy.url)
    no_proxy_environment.setenv("no_proxy", "elsewhere.example,localhost")
    up_and_down(ported, ported.dialer())
    assert proxy.requests == []
    require_calls(ported, HttpGet=1)


def test_a_proxy_that_is_set_up_is_used_whatever_the_environment_says(
    ported: RunningHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch
) -> None:
    no_proxy_environment.setenv("https_proxy", "http://127.0.0.1:1")
    up_and_down(ported, ported.dialer(proxy=proxy.url))
    assert len(asked(proxy, ported.ready.blob_port)) == 1


def test_plaintext_on_this_machine_never_goes_through_a_proxy(
    make_ported: MakeHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch
) -> None:
    host = make_ported(plaintext=True)
    no_proxy_environment.setenv("https_proxy", proxy.url)
    with Dialer(f"http://127.0.0.1:{host.ready.port}", None, PLAN, proxy=proxy.url) as dialer:
        up_and_down(host, dialer)
    assert proxy.requests == []
    require_calls(host, HttpGet=1)


REFUSALS = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\n\r\n",
    "a wrong password": b"HTTP/1.1 407 user:word is wrong\r\n\r\n",
    "nothing": b"",
    "garbage": b"\xff\x00garbage word\r\n\r\n",
    "another protocol": b"HTTP/9.9 200 OK\r\n\r\n",
    "a line of a mebibyte": b"HTTP/1.1 " + b"x" * MIB + b"\r\n\r\n",
    "a header of a mebibyte": b"HTTP/1.1 200 OK\r\nx: " + b"y" * MIB + b"\r\n\r\n",
    "a tunnel to nowhere": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_proxy_that_lets_the_second_port_not_out_leaves_the_blobs_to_the_first(
    ported: RunningHost, refusal: str
) -> None:
    notes = list[str]()
    proxy = OnePortProxy(ported.ready.port, REFUSALS[refusal])

    def note(event: str, **fields: object) -> None:
        notes.append(f"{event} {fields}")

    dialer = ported.dialer(proxy=proxy.url, note=note)
    up_and_down(ported, dialer)
    stop(proxy)
    require_calls(ported, HttpPut=0, HttpGet=0, Put=1, Get=1)
    assert len(proxy.refused) == 1
    (said,) = notes
    assert said.startswith("blob-port-away ")
    assert "word" not in said


def test_a_proxys_password_stands_in_no_error_and_no_repr(ported: RunningHost) -> None:
    proxy = OnePortProxy(0, REFUSALS["a wrong password"])
    http = HttpBlobs(ported.dialer(proxy=proxy.url)._address, ported.ready.blob_port or 0)
    with pytest.raises(PortAway) as caught:
        http.put(Wanted(PLAN, bytes(16), 0, 1), [memoryview(b"x")])
    stop(proxy)
    for text in (repr(http), repr(http._address), str(caught.value), repr(caught.value)):
        assert "word" not in text
        assert "dXNlcjp3b3Jk" not in text


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[", "http://:0", "http://user:word@", "x" * 300])
def test_a_proxy_that_is_none_is_a_port_that_is_away(ported: RunningHost, url: str) -> None:
    http = HttpBlobs(HostAddress(ported.target, ported.ca, url), ported.ready.blob_port or 0)
    with pytest.raises(PortAway):
        http.put(Wanted(PLAN, bytes(16), 0, 1), [memoryview(b"x")])


# Several replicas.


def test_the_blob_port_of_the_next_replica_serves_when_the_first_host_is_gone(make_ported: MakeHost) -> None:
    one, two = make_ported(plaintext=True), make_ported(plaintext=True)
    targets = [f"http://127.0.0.1:{host.ready.port}" for host in (one, two)]
    data = token_bytes(HEADER.sealed_bytes)
    with Coordinators(targets, None, PLAN) as replicas:
        blob = one.door().expect(len(data))
        two.door().expect(len(data), blob)
        for host, dialer in zip((one, two), replicas._dialers, strict=True):
            wait_for(dialer, blob)
            dialer.put_blob(blob, data)
            require_calls(host, HttpPut=1)
        one.stop()
        assert whole(replicas.get_blob(blob, header=HEADER)) == data
    require_calls(two, HttpGet=1)
