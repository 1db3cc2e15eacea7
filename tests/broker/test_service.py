"""The broker over real gRPC and TLS on loopback: what strangers may cost it, what it says, what it writes down."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from broker.holdings import StoreHoldings
from broker.limits import BrokerLimits
from broker.records import Event
from broker.service import Broker, Listening
from protos.v1 import keys_pb2, keys_pb2_grpc
from tests.broker.test_store import KEY, granted, reason_of, withdrawal
from tests.keys.holdings import KEY_ID, asker, requester
from tests.world import NOW
from trusted.channel.refusal import PeerRefused, read_refusal
from trusted.documents.grant import Withdrawn
from trusted.documents.schema import Validity
from trusted.errors import ProtocolError, Reason, RunError
from worker.key_client import BrokerAddress, fetch_key


@contextmanager
def serving(store, store_key, *, address: str = "127.0.0.1:0", **limits: float) -> Iterator[BrokerAddress]:
    """A broker in a thread of its own, at the tests' time; how it is reached."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def run() -> None:
        listening = Listening(address, store.folder / "tls", limits=replace(BrokerLimits(), **limits))
        async with Broker(store, StoreHoldings(store, store_key), listening, lambda: NOW) as broker:
            ca = broker.ca_pem.read_bytes() if broker.ca_pem else None
            found.append(BrokerAddress(f"127.0.0.1:{broker.port}" if ca else f"http://127.0.0.1:{broker.port}", ca))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the broker did not start")
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


def said_by(caught: pytest.ExceptionInfo[ProtocolError]) -> Reason:
    error = caught.value
    return error.peer_reason if isinstance(error, PeerRefused) else error.reason


@pytest.mark.parametrize("address", ["127.0.0.1:0", "http://127.0.0.1:0"])
def test_a_worker_fetches_its_key(store, store_key, world, address):
    granted(store, world)
    with serving(store, store_key, address=address) as broker:
        assert fetch_key(broker, lambda: requester(world)).key == KEY
    assert store.grants()[0].remaining == 1


def test_who_is_refused_learns_a_number_and_the_log_says_it_too(store, store_key, world, caplog):
    granted(store, world)
    caplog.set_level(logging.INFO, "broker")
    with serving(store, store_key) as broker:
        impostor = asker(world, measurement=b"\x11" * 48)
        with pytest.raises(ProtocolError) as caught:
            fetch_key(broker, lambda: requester(world, impostor))
    assert said_by(caught) is Reason.MEASUREMENT
    last = store.log()[-1]
    assert (last.event, last.key, last.reason) == (Event.REFUSED, KEY_ID, Reason.MEASUREMENT)
    assert store.grants()[0].remaining == 2
    (line,) = [record for record in caplog.records if record.name == "broker.service"]
    assert (line.msg, line.reason, line.key_id) == ("key-refused", "ATT-214", KEY_ID.hex())


def test_what_is_revoked_while_it_serves_is_refused_from_then_on(store, store_key, world):
    grant = granted(store, world)
    with serving(store, store_key) as broker:
        fetch_key(broker, lambda: requester(world))
        store.withdraw(withdrawal(world, Withdrawn.GRANT, grant.digest), NOW)
        with pytest.raises(ProtocolError) as caught:
            fetch_key(broker, lambda: requester(world))
    assert said_by(caught) is Reason.GRANT_REVOKED


def test_one_address_asks_no_more_often_than_it_may(store, store_key, world):
    granted(store, world, releases=9)
    with serving(store, store_key, exchanges_at_once=2, exchanges_per_s=0.0) as broker:
        fetch_key(broker, lambda: requester(world))
        fetch_key(broker, lambda: requester(world))
        with pytest.raises(ProtocolError) as caught:
            fetch_key(broker, lambda: requester(world), patience_s=0)
    assert said_by(caught) is Reason.QUOTA
    assert store.grants()[0].remaining == 7
    assert store.log()[-1].event is Event.RELEASED


def raw(broker: BrokerAddress, *frames: bytes) -> bytes | None:
    """What a peer that sends ``frames`` and then waits hears last; None when gRPC itself ends the call."""
    with grpc.insecure_channel(broker.target.removeprefix("http://")) as channel:
        waiting = threading.Event()

        def outgoing() -> Iterator[object]:
            for data in frames:
                yield keys_pb2.KeyFrame(data=data)
            waiting.wait(30)

        try:
            heard = [frame.data for frame in keys_pb2_grpc.KeysStub(channel).Release(outgoing(), timeout=30)]
        except grpc.RpcError:
            return None
        finally:
            waiting.set()
        return heard[-1]


def test_a_stream_that_is_left_open_is_ended(store, store_key, world):
    granted(store, world)
    with serving(store, store_key, address="http://127.0.0.1:0", exchange_s=0.2) as broker:
        last = raw(broker, requester(world).begin())
    assert read_refusal(last).peer_reason is Reason.HANDSHAKE_TIMEOUT


def test_a_frame_larger_than_any_evidence_is_not_read(store, store_key, world):
    limit = BrokerLimits().frame_bytes
    with serving(store, store_key, address="http://127.0.0.1:0") as broker:
        assert read_refusal(raw(broker, bytes(limit + 1))).peer_reason is Reason.TOO_LARGE
        assert raw(broker, bytes(limit + 4096)) is None


def test_garbage_ends_its_own_stream_and_the_next_is_served(store, store_key, world):
    granted(store, world)
    with serving(store, store_key, address="http://127.0.0.1:0") as broker:
        assert read_refusal(raw(broker, b"\xff" * 100)).peer_reason is Reason.MALFORMED
        assert fetch_key(broker, lambda: requester(world)).key == KEY


def test_a_broker_that_is_away_is_said_to_be_away(world):
    with pytest.raises(RunError) as caught:
        fetch_key(BrokerAddress("http://127.0.0.1:1"), lambda: requester(world), patience_s=0)
    assert caught.value.reason is Reason.UNREACHABLE
    assert caught.value.detail.startswith("options.key_broker:")


def test_a_broker_that_is_away_for_a_moment_is_asked_again(store, store_key, world, monkeypatch):
    """It comes up while the asking side waits."""
    granted(store, world)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with ExitStack() as stack:
        started = lambda _: stack.enter_context(serving(store, store_key, address=address))  # noqa: E731
        monkeypatch.setattr("worker.key_client.time.sleep", started)
        assert fetch_key(BrokerAddress(address), lambda: requester(world)).key == KEY


def test_plaintext_leaves_no_machine(store, store_key):
    async def start() -> None:
        async with Broker(store, StoreHoldings(store, store_key), Listening("http://0.0.0.0:0", store.folder)):
            raise RuntimeError("it listens")

    assert reason_of(asyncio.run, start()) is Reason.MALFORMED


def test_an_address_that_is_taken_is_said(store, store_key):
    async def twice() -> None:
        async with Broker(store, StoreHoldings(store, store_key), Listening("http://127.0.0.1:0", store.folder)) as one:
            address = f"http://127.0.0.1:{one.port}"
            async with Broker(store, StoreHoldings(store, store_key), Listening(address, store.folder)):
                raise RuntimeError("it listens")

    assert reason_of(asyncio.run, twice()) is Reason.UNREACHABLE


def test_asking_imports_no_grpc_into_a_process_that_has_yet_to_fork():
    code = "import sys, worker.key_client; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_grant_that_has_ended_is_refused_over_the_wire_too(store, store_key, world):
    granted(store, world, validity=Validity(NOW - timedelta(hours=2), NOW - timedelta(minutes=10)))
    with serving(store, store_key) as broker, pytest.raises(ProtocolError) as caught:
        fetch_key(broker, lambda: requester(world))
    assert said_by(caught) is Reason.GRANT_EXPIRED
