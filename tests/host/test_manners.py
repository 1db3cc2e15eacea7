"""Clients without manners at a real host: each is stopped by number, early, and costs the others nothing."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_bytes
from typing import Any

import grpc
import pytest

from coordinator.door import DoorKind
from coordinator.host.limits import MAX_FRAME_BYTES, Limits
from coordinator.host.peers import Buckets, PeerGate, peer_key
from protos.v1 import cloister_pb2, cloister_pb2_grpc
from tests.host.conftest import PLAN, RunningHost
from tests.host.processes import HostProcess, until
from tests.host.test_blobs import MIB, name_of, wait_for
from tests.host.test_relay import WELCOME, ended_for
from trusted.errors import ProtocolError, Reason
from worker.grpc_channel import HostAddress, refusal_of

Make = Callable[..., RunningHost]


def reason_of(call: Any) -> Reason:
    """Why a raw call whose answers were not read ended."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return refusal_of(caught.value).reason


def an_honest_worker_is_served(host: RunningHost) -> None:
    with host.dialer().attach() as stream:
        with pytest.raises(TimeoutError):
            stream.receive(timeout=0.3)
        assert stream.refusal is None


# streams, calls, connections


def test_thousands_of_streams_on_one_connection_wait_at_the_peer(make_host: Make) -> None:
    host = make_host(streams_per_connection=8)
    host.door()
    with HostAddress(host.target, host.ca).open() as channel:
        attach = cloister_pb2_grpc.RelayStub(channel).Attach
        never = threading.Event()
        metadata = (("cloister-plan", PLAN.hex()),)
        calls = [attach(iter(never.wait, True), metadata=metadata) for _ in range(2000)]
        until(lambda: host.metric("cloister_open_calls") == 8)
        an_honest_worker_is_served(host)
        assert host.metric("cloister_open_calls") <= 9
        for call in calls:
            call.cancel()
        never.set()
    until(lambda: host.metric("cloister_open_calls") == 0)


def test_one_address_calls_so_often_and_then_waits(make_host: Make) -> None:
    host = make_host(calls_at_once=10, calls_per_s=0.01)
    client = host.client()
    for _ in range(10):
        client.runs()
    with pytest.raises(ProtocolError) as caught:
        client.runs()
    assert caught.value.reason is Reason.QUOTA


def test_a_worker_that_attaches_in_a_tight_loop_is_told_to_wait_before_the_aggregator_hears_of_it(
    make_host: Make,
) -> None:
    host = make_host(attaches_at_once=5, attaches_per_s=0.01)
    peer, dialer = host.door(), host.dialer()
    for _ in range(5):
        with dialer.attach():
            peer.next(DoorKind.ATTACHED)
        peer.next(DoorKind.DETACHED)
    for _ in range(20):
        assert ended_for(dialer.attach()) is Reason.QUOTA
    peer.event(event="round-opened")
    assert host.client().runs() is not None  # other calls have a bucket of their own
    peer.control.send(DoorKind.EVENT, 1, b"{}")
    peer.next(DoorKind.RECORDED)  # and no ATTACHED before it


def test_handshakes_that_are_opened_and_left_are_few_and_admitted_workers_do_not_count(make_host: Make) -> None:
    host = make_host(handshakes_per_peer=3)
    peer, dialer = host.door(), host.dialer()
    kept = [dialer.attach() for _ in range(3)]
    sessions = [peer.next(DoorKind.ATTACHED).channel for _ in kept]
    assert ended_for(dialer.attach()) is Reason.QUOTA
    for session in sessions:
        peer.control.send(DoorKind.FRAME, session, WELCOME)
    for stream in kept:
        assert stream.receive(timeout=5) == WELCOME
    fourth = dialer.attach()
    assert peer.next(DoorKind.ATTACHED).channel not in sessions
    fourth.close()
    peer.next(DoorKind.DETACHED)
    again = [dialer.attach() for _ in range(3)]  # what ended is not counted either
    for _ in again:
        peer.next(DoorKind.ATTACHED)


def test_connections_that_say_nothing_are_closed_and_bounded(make_host: Make) -> None:
    host = make_host(connect_s=1.0, connections=6)
    host.door()
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("localhost", host.ready.port))) for _ in range(20)]
        for sock in silent:
            sock.settimeout(10)
            try:
                while sock.recv(4096):
                    pass
            except ConnectionResetError:
                pass  # one that was too many
    an_honest_worker_is_served(host)


def test_a_flood_of_watches_ends_at_the_peers_bound(make_host: Make) -> None:
    host = make_host(watches_per_peer=3)
    host.door().event(event="round-opened")
    client = host.client()
    until(client.runs)
    watches = [client.watch(PLAN) for _ in range(3)]
    for watch in watches:
        next(watch)
    with pytest.raises(ProtocolError) as caught:
        next(client.watch(PLAN))
    assert caught.value.reason is Reason.QUOTA
    watches[0].close()  # type: ignore[attr-defined]
    until(lambda: host.metric("cloister_open_calls") == 2)
    assert next(client.watch(PLAN)).number == 1


# bytes before admission


def test_a_worker_that_is_not_admitted_may_send_so_many_bytes(make_host: Make) -> None:
    host = make_host(bytes_before_admission=2 * MAX_FRAME_BYTES)
    peer = host.door()
    stream = host.dialer().attach()
    for _ in range(3):
        stream.send(bytes(MAX_FRAME_BYTES))
    assert ended_for(stream) is Reason.QUOTA
    session = peer.next(DoorKind.ATTACHED).channel
    sizes = 0
    while (message := peer.control.receive()) is not None and message.kind is DoorKind.FRAME:
        assert message.channel == session
        sizes += len(message.body)
    assert sizes == 2 * MAX_FRAME_BYTES


class RawHttp2:
    """Just enough of HTTP/2 to say what no gRPC client would say."""

    def __init__(self, host: HostProcess) -> None:
        context = ssl.create_default_context(cadata=host.ca.decode())
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("localhost", int(host.ready["port"])), timeout=20)
        self.sock = context.wrap_socket(plain, server_hostname="localhost")
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(4, 0, 0, b"")

    def frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        self.sock.sendall(len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body)

    def call(self, stream: int, path: str) -> None:
        """HEADERS of a gRPC call: every field a literal without indexing (RFC 7541, §6.2.2)."""
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            "cloister-plan": PLAN.hex(),
        }
        block = b"".join(
            b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()
            for key, value in fields.items()
        )
        self.frame(1, 4, stream, block)

    def ends(self, stream: int) -> bool:
        """Whether the host ends ``stream`` or the connection."""
        data = b""
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                got = self.sock.recv(65536)
                if not got:
                    return True
                data += got
            size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            number = int.from_bytes(data[5:9], "big")
            data = data[9 + size :]
            if kind in (3, 7) or (number == stream and kind == 1 and flags & 1):
                return True


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Relay/Attach", "Blobs/Put", "Blobs/Get", "Runs/Submit"])
def test_a_message_of_four_gibibytes_is_refused_when_it_is_announced(
    start_process: Callable[..., HostProcess], method: str
) -> None:
    host = start_process()
    host.door()

    def resident() -> int:
        return int(Path(f"/proc/{host.pid}/statm").read_text().split()[1]) * 4096

    before = resident()
    for _ in range(4):
        raw = RawHttp2(host)
        raw.call(1, f"/cloister.v1.{method}")
        raw.frame(0, 0, 1, b"\0\xff\xff\xff\xff" + bytes(8000))
        assert raw.ends(1)
        raw.sock.close()
    assert resident() - before < 16 * MIB
    assert host.client().runs() is not None


# slow writers and readers


def test_a_byte_now_and_then_holds_no_turn_and_is_ended(make_host: Make) -> None:
    host = make_host(uploads=1, stall_s=3.0, crawl_bytes=1000)
    peer, dialer, data = host.door(), host.dialer(), token_bytes(MIB)
    slow, blob = peer.expect(1000), peer.expect(len(data))
    wait_for(dialer, blob)

    def crawl() -> Iterator[Any]:
        yield cloister_pb2.PutChunk(name=name_of(slow), data=b"x")
        for _ in range(900):
            time.sleep(0.6)
            yield cloister_pb2.PutChunk(data=b"x")

    call = host.dialer()._blobs.Put.future(crawl())
    wait_for(dialer, slow, 1)
    host.dialer().put_blob(blob, data)
    assert refusal_of(call.exception(timeout=20)).reason is Reason.UNREACHABLE
    until(lambda: host.metric("cloister_open_calls") == 0)


def test_a_download_that_nobody_reads_holds_no_turn_and_is_ended(make_host: Make) -> None:
    host = make_host(downloads=1, stall_s=1.0)
    peer, dialer, data = host.door(), host.dialer(), token_bytes(24 * MIB)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    stuck = [
        cloister_pb2_grpc.BlobsStub(host.dialer().channel).Get(cloister_pb2.GetRequest(name=name_of(blob)))
        for _ in range(3)
    ]
    assert b"".join(host.dialer().get_blob(blob)) == data
    until(lambda: host.metric("cloister_open_calls") == 0)
    assert reason_of(stuck[0]) is Reason.UNREACHABLE


def test_a_watch_that_nobody_reads_is_ended(make_host: Make) -> None:
    host = make_host(stall_s=1.0)
    peer = host.door()
    ear = f"a.{'b' * 30_000}.c"
    for _ in range(600):  # 18 MB: more than windows hold
        peer.event(event="attested", ear=ear)
    peer.control.send(DoorKind.EVENT, 1, b"{}")
    peer.next(DoorKind.RECORDED)
    watch = cloister_pb2_grpc.RunsStub(host.dialer().channel).Watch(cloister_pb2.WatchRequest(plan=PLAN))
    until(lambda: host.metric("cloister_open_calls") == 1)
    until(lambda: host.metric("cloister_open_calls") == 0)
    assert reason_of(watch) is Reason.UNREACHABLE


def test_a_worker_that_never_reads_has_its_stream_ended(make_host: Make) -> None:
    host = make_host(stall_s=1.0, queued_bytes=64 * MIB)
    peer = host.door()
    never = threading.Event()
    metadata = (("cloister-plan", PLAN.hex()),)
    call = cloister_pb2_grpc.RelayStub(host.dialer().channel).Attach(iter(never.wait, True), metadata=metadata)
    session = peer.next(DoorKind.ATTACHED).channel
    for _ in range(20):
        peer.control.send(DoorKind.FRAME, session, bytes(MAX_FRAME_BYTES))
    assert peer.next(DoorKind.DETACHED).channel == session
    until(lambda: host.metric("cloister_open_calls") == 0)
    never.set()
    assert reason_of(call) is Reason.UNREACHABLE


# who a peer is, and how many sites one address may be


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("ipv4:10.1.2.3:5678", "10.1.2.3"),
        ("ipv4:10.1.2.3:9", "10.1.2.3"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5678", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:3::1%5D:5678", "2001:db8:1:3::/64"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:5678", "10.1.2.3"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5678", "fe80::/64"),
        ("unix:/run/x", "unix"),
        ("", ""),
    ],
)
def test_a_peer_is_an_address_or_the_network_that_one_customer_has(peer: str, key: str) -> None:
    assert peer_key(peer) == key


def test_a_bucket_fills_with_time_and_never_over_its_edge() -> None:
    now = 0.0
    buckets = Buckets(3, 2.0, lambda: now)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    now = 0.5
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    now = 1000.0
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_million_addresses_are_not_remembered() -> None:
    buckets = Buckets(3, 2.0, lambda: 0.0)
    for number in range(40_000):
        assert buckets.take(str(number))
    assert len(buckets) <= 1 << 14


def test_the_defaults_admit_a_hospital_group_of_two_hundred_sites_behind_one_address() -> None:
    """All attach at once, twice; each round every site downloads and uploads, and asks how far it is."""
    now = 0.0
    gate = PeerGate(Limits(), lambda: now)
    peer = "ipv4:192.0.2.1:1"
    for _ in range(2):
        with ExitStack() as group:
            admissions = []
            for _ in range(200):
                group.enter_context(gate.enter(peer))
                admissions.append(group.enter_context(gate.attach(peer)))
            for admitted in admissions:
                admitted()
            for _ in range(10):
                now += 10.0
                with ExitStack() as transfers:
                    for _ in range(2 * 200):
                        transfers.enter_context(gate.enter(peer))
                for _ in range(200):
                    with gate.enter(peer):
                        pass
    with ExitStack() as crowd:
        for _ in range(1024):
            crowd.enter_context(gate.enter(peer))
        with pytest.raises(ProtocolError) as caught:
            crowd.enter_context(gate.enter(peer))
    assert caught.value.reason is Reason.QUOTA
    with gate.enter("ipv4:192.0.2.2:1"):
        pass
