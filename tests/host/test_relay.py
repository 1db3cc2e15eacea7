"""Frames between workers and aggregators, through a real host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from coordinator.door import DoorKind, encode_reason
from coordinator.host.aggregators import Session
from coordinator.host.limits import MAX_FRAME_BYTES, Limits
from coordinator.host.rpc import _say
from tests.host.conftest import OTHER_PLAN, RunningHost
from trusted.errors import ProtocolError, Reason
from trusted.wire import pack
from worker.dialer import FrameStream

WELCOME = pack("cloister/welcome/v1", b"sealed")


def ended_for(stream: FrameStream, *, timeout: float = 10) -> Reason | None:
    """Why ``stream`` ended, after everything that was still to come."""
    while stream.receive(timeout=timeout) is not None:
        pass
    return None if stream.refusal is None else stream.refusal.reason


def test_frames_pass_both_ways_unchanged(host: RunningHost) -> None:
    peer = host.door()
    with host.dialer().attach() as stream:
        session = peer.next(DoorKind.ATTACHED).channel
        for frame in (b"hello", b"", bytes(range(256)) * 1024):
            stream.send(frame)
            message = peer.next(DoorKind.FRAME)
            assert (message.channel, message.body) == (session, frame)
            peer.control.send(DoorKind.FRAME, session, frame[::-1])
            assert stream.receive(timeout=5) == frame[::-1]
    assert peer.next(DoorKind.DETACHED).channel == session


def test_two_plans_route_apart_and_sessions_are_told_apart(host: RunningHost) -> None:
    mine, other = host.door(), host.door(OTHER_PLAN)
    streams = [host.dialer().attach(), host.dialer().attach(), host.dialer(OTHER_PLAN).attach()]
    for number, stream in enumerate(streams):
        stream.send(bytes([number]))
    seen: dict[bytes, int] = {}
    for peer, count in ((mine, 4), (other, 2)):
        for _ in range(count):
            message = peer.control.receive()
            assert message is not None
            if message.kind is DoorKind.FRAME:
                seen[message.body] = message.channel
                peer.control.send(DoorKind.FRAME, message.channel, b"re" + message.body)
    assert len(set(seen.values())) == 3
    for number, stream in enumerate(streams):
        assert stream.receive(timeout=5) == b"re" + bytes([number])


def test_without_an_aggregator_the_worker_is_told_run_701(host: RunningHost) -> None:
    stream = host.dialer().attach()
    assert ended_for(stream) is Reason.NO_AGGREGATOR
    assert "RUN-701" in str(stream.refusal)
    assert stream.receive(timeout=1) is None
    stream.send(b"late")


def test_when_the_aggregator_goes_streams_end_and_workers_may_come_back(host: RunningHost) -> None:
    peer = host.door()
    stream = host.dialer().attach()
    peer.next(DoorKind.ATTACHED)
    peer.close()
    assert ended_for(stream) is Reason.NO_AGGREGATOR
    again = host.door()
    host.dialer().attach().send(b"hello")
    again.next(DoorKind.ATTACHED)
    assert again.next(DoorKind.FRAME).body == b"hello"


def test_a_close_ends_one_stream_behind_what_was_sent(host: RunningHost) -> None:
    peer, dialer = host.door(), host.dialer()
    first = dialer.attach()
    closed = peer.next(DoorKind.ATTACHED).channel
    second = dialer.attach()
    kept = peer.next(DoorKind.ATTACHED).channel
    peer.control.send(DoorKind.FRAME, closed, b"refused")
    peer.control.send(DoorKind.CLOSE, closed, encode_reason(Reason.MEASUREMENT))
    assert first.receive(timeout=5) == b"refused"
    assert ended_for(first) is Reason.MEASUREMENT
    assert peer.next(DoorKind.DETACHED).channel == closed
    peer.control.send(DoorKind.FRAME, kept, b"still here")
    assert second.receive(timeout=5) == b"still here"


def test_a_worker_that_is_not_admitted_may_send_few_frames(make_host: Callable[..., RunningHost]) -> None:
    host = make_host(frames_before_admission=3)
    peer = host.door()
    stream = host.dialer().attach()
    for _ in range(4):
        stream.send(b"x")
    assert ended_for(stream) is Reason.QUOTA
    admitted = host.dialer().attach()
    while (message := peer.control.receive()) is not None and message.channel == 1:
        pass
    assert message is not None
    session = message.channel
    peer.control.send(DoorKind.FRAME, session, WELCOME)
    assert admitted.receive(timeout=5) == WELCOME
    for _ in range(20):
        admitted.send(b"x")
    for _ in range(20):
        assert peer.next(DoorKind.FRAME).channel == session


def test_a_stream_that_is_never_admitted_is_ended(make_host: Callable[..., RunningHost]) -> None:
    host = make_host(handshake_s=0.2)
    host.door()
    assert ended_for(host.dialer().attach()) is Reason.HANDSHAKE_TIMEOUT


def test_a_frame_larger_than_a_record_ends_its_stream(host: RunningHost) -> None:
    host.door()
    stream = host.dialer().attach()
    stream.send(bytes(MAX_FRAME_BYTES + 1))
    assert ended_for(stream) is Reason.TOO_LARGE


def test_a_peer_has_a_limited_number_of_streams(make_host: Callable[..., RunningHost]) -> None:
    host = make_host(streams_per_peer=2)
    peer = host.door()
    kept = [host.dialer().attach() for _ in range(2)]
    for _ in kept:
        peer.next(DoorKind.ATTACHED)
    assert ended_for(host.dialer().attach()) is Reason.QUOTA


def test_a_worker_that_does_not_read_loses_its_session_and_no_memory_grows(host: RunningHost) -> None:
    peer = host.door()
    slow, quick = host.dialer().attach(), host.dialer()
    session = peer.next(DoorKind.ATTACHED).channel
    frame = bytes(MAX_FRAME_BYTES)
    for _ in range(400):  # 100 MiB, far above what queues and windows hold
        peer.control.send(DoorKind.FRAME, session, frame)
    assert peer.next(DoorKind.DETACHED).channel == session
    stream = quick.attach()
    peer.next(DoorKind.ATTACHED)
    stream.send(b"the door still answers")
    assert peer.next(DoorKind.FRAME).body == b"the door still answers"
    assert ended_for(slow) is Reason.QUOTA


class Unsendable:
    """A call whose status gRPC cannot send: what it was sent first has not even left."""

    async def abort(self, *_: object) -> None:
        raise grpc.aio.InternalError("too many operations")


async def test_a_call_whose_status_cannot_be_sent_is_cut() -> None:
    with pytest.raises(asyncio.CancelledError):
        await _say(Unsendable(), grpc.StatusCode.ABORTED, "why")  # type: ignore[arg-type]


def test_a_session_queue_is_bounded_by_frames_and_by_bytes() -> None:
    limits = Limits(queued_frames=4, queued_bytes=1000)
    for frame, fits in ((b"x", 4), (bytes(400), 3)):
        session = Session(1, limits)
        for _ in range(fits):
            session.deliver(frame)
        assert not session.is_over
        session.deliver(frame)
        assert session.is_over


def test_a_wrong_plan_in_the_metadata_is_refused(host: RunningHost) -> None:
    assert ended_for(host.dialer(b"short").attach()) is Reason.MALFORMED


def test_receive_times_out_without_ending_the_stream(host: RunningHost) -> None:
    peer = host.door()
    stream = host.dialer().attach()
    with pytest.raises(TimeoutError):
        stream.receive(timeout=0.05)
    peer.control.send(DoorKind.FRAME, peer.next(DoorKind.ATTACHED).channel, b"now")
    assert stream.receive(timeout=5) == b"now"


def test_a_host_that_stops_ends_streams_soon(host: RunningHost) -> None:
    host.door()
    stream = host.dialer().attach()
    with pytest.raises(TimeoutError):
        stream.receive(timeout=0.1)
    stream.close()
    host.stop()
    assert isinstance(stream.refusal, ProtocolError | None)
