"""Orders, run status and watching, through a real host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from coordinator.door import DoorKind
from coordinator.host.run_status import RunState
from tests.host.conftest import OTHER_PLAN, PLAN, RunningHost, signed_order
from tests.world import NOW, World
from trusted.documents.order import Action
from trusted.errors import ProtocolError, Reason


def refused(call: Callable[[], Any]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        call()
    return caught.value.reason


def test_a_start_order_reaches_the_aggregator_as_it_was_signed(host: RunningHost, world: World) -> None:
    peer, order = host.door(), signed_order(world)
    status = host.client().submit(order)
    assert status.plan == PLAN.hex()
    assert (status.state, status.aggregator) == (RunState.WAITING, "present")
    assert peer.next(DoorKind.START).body == order


def test_a_stop_order_reaches_the_aggregator(host: RunningHost, world: World) -> None:
    peer, order = host.door(), signed_order(world, Action.STOP)
    host.client().submit(order)
    assert peer.next(DoorKind.STOP).body == order


def test_a_pause_reaches_the_aggregator_and_a_later_one_hears_it_before_it_hears_the_start(
    make_host: Callable[..., RunningHost], world: World
) -> None:
    host, start, pause = make_host(), signed_order(world), signed_order(world, Action.PAUSE)
    peer, client = host.door(), host.client()
    client.submit(start)
    client.submit(pause)
    assert peer.next(DoorKind.START).body == start
    assert peer.next(DoorKind.PAUSE).body == pause
    host.stop()
    successor = make_host().door()
    assert [successor.control.receive().body for _ in range(2)] == [pause, start]


def test_a_resume_takes_the_place_of_the_pause(make_host: Callable[..., RunningHost], world: World) -> None:
    host, resume = make_host(), signed_order(world, Action.RESUME)
    peer, client = host.door(), host.client()
    client.submit(signed_order(world, Action.PAUSE))
    client.submit(resume)
    assert peer.next(DoorKind.PAUSE).kind is DoorKind.PAUSE
    assert peer.next(DoorKind.RESUME).body == resume
    host.stop()
    assert make_host().door().control.receive().kind is DoorKind.RESUME


@pytest.mark.parametrize("action", [Action.PAUSE, Action.RESUME])
def test_a_run_that_is_over_or_unknown_is_neither_paused_nor_resumed(
    host: RunningHost, world: World, action: Action
) -> None:
    client = host.client()
    assert refused(lambda: client.submit(signed_order(world, action))) is Reason.RUN_UNKNOWN
    host.door().event(event="run-ended", outcome="finished")
    events = client.watch(PLAN)
    while next(events).fields["event"] != "run-ended":
        pass
    assert refused(lambda: client.submit(signed_order(world, action))) is Reason.RUN_STATE


def test_an_order_is_honoured_once_also_after_a_restart(make_host: Callable[..., RunningHost], world: World) -> None:
    host, order = make_host(), signed_order(world)
    host.client().submit(order)
    assert refused(lambda: host.client().submit(order)) is Reason.ORDER_REPLAYED
    host.stop()
    again = make_host()
    assert refused(lambda: again.client().submit(order)) is Reason.ORDER_REPLAYED
    again.client().submit(signed_order(world))


def test_standing_orders_are_repeated_to_an_aggregator_that_comes_later(
    make_host: Callable[..., RunningHost], world: World
) -> None:
    host, order = make_host(), signed_order(world)
    host.client().submit(order)
    host.stop()
    again = make_host()
    assert again.door().next(DoorKind.START).body == order


def test_an_order_that_no_member_signed_is_refused(host: RunningHost, world: World) -> None:
    client = host.client()
    assert refused(lambda: client.submit(signed_order(world, signed_by=None))) is Reason.THRESHOLD
    other = signed_order(world, signed_by=world.members[1])
    assert refused(lambda: client.submit(other)) is Reason.THRESHOLD
    tampered = bytearray(signed_order(world))
    tampered[40] ^= 1
    for wrong in (bytes(tampered), b"", b"{}", bytes(70_000)):
        refused(partial(client.submit, wrong))
    assert client.runs() == []


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_order_from_another_time_is_refused(host: RunningHost, world: World, seconds: int) -> None:
    order = signed_order(world, issued=NOW + timedelta(seconds=seconds))
    expected = Reason.DOCUMENT_EXPIRED if seconds < 0 else Reason.DOCUMENT_NOT_YET_VALID
    assert refused(lambda: host.client().submit(order)) is expected


def test_unknown_runs_are_refused(host: RunningHost, world: World) -> None:
    client = host.client()
    assert refused(lambda: client.submit(signed_order(world, Action.STOP))) is Reason.RUN_UNKNOWN
    assert refused(lambda: client.status(PLAN)) is Reason.RUN_UNKNOWN
    assert refused(lambda: next(client.watch(PLAN))) is Reason.RUN_UNKNOWN


def test_a_run_that_is_over_is_not_started_again(host: RunningHost, world: World) -> None:
    peer, client = host.door(), host.client()
    peer.event(event="run-ended", outcome="finished")
    events = client.watch(PLAN)
    while next(events).fields["event"] != "run-ended":
        pass
    assert refused(lambda: client.submit(signed_order(world))) is Reason.RUN_STATE


@pytest.mark.parametrize(
    ("orders", "repeated"), [((Action.START,), None), ((Action.START, Action.STOP), DoorKind.STOP)]
)
def test_an_aggregator_that_comes_when_the_run_is_over_is_told_to_stop_but_never_to_start(
    host: RunningHost, world: World, orders: tuple[Action, ...], repeated: DoorKind | None
) -> None:
    first, client = host.door(), host.client()
    for action in orders:
        client.submit(signed_order(world, action))
    first.event(event="run-ended", outcome="stopped" if repeated else "finished")
    events = client.watch(PLAN)
    while next(events).fields["event"] != "run-ended":
        pass
    first.close()
    while next(events).fields["event"] != "aggregator-gone":
        pass
    again = host.door()
    if repeated is not None:
        again.next(repeated)
    again.next(DoorKind.OVER)
    again.control.send(DoorKind.EVENT, 1, b'{"event": "run-waits", "outcome": "witnesses"}')
    again.next(DoorKind.RECORDED)  # and nothing came before it


def test_a_host_holds_a_limited_number_of_runs(make_host: Callable[..., RunningHost], world: World) -> None:
    client = make_host(runs=1).client()
    client.submit(signed_order(world))
    assert refused(lambda: client.submit(signed_order(world, plan=OTHER_PLAN))) is Reason.QUOTA


def test_the_status_is_folded_from_events_and_survives_a_restart(make_host: Callable[..., RunningHost]) -> None:
    host = make_host()
    peer = host.door()
    for fields in (
        {"event": "run-started", "rounds": 5},
        {"event": "admitted", "session": 1, "member": "a", "assurance": "none", "measurement": "ab" * 48},
        {"event": "admitted", "session": 2, "member": "b", "assurance": "none", "measurement": "ab" * 48},
        {"event": "round-opened", "round": 1, "waiting_for": ["a", "b"]},
        {"event": "progress", "round": 1, "member": "a", "outcome": "train 50 %"},
        {"event": "contribution", "round": 1, "member": "a", "outcome": "counted", "bytes": 70},
        {"event": "left", "session": 2, "member": "b"},
    ):
        peer.event(**fields)
    client = host.client()
    events = client.watch(PLAN)
    names = [next(events).fields["event"] for _ in range(8)]
    assert names[0] == "aggregator-registered"
    status = client.status(PLAN)
    assert (status.state, status.round, status.rounds, status.committed) == (RunState.RUNNING, 1, 5, 0)
    assert status.waiting_for == ("b",)
    assert (status.members["a"].attested, status.members["b"].attested) == (True, False)
    assert (status.members["a"].bytes, status.members["a"].last_event) == (70, "contribution")
    assert client.runs() == [status]
    host.stop()
    again = make_host().client().status(PLAN)
    assert (again.aggregator, again.members, again.started) == ("absent", status.members, status.started)


def test_watching_streams_each_event_as_it_comes(host: RunningHost) -> None:
    peer, client = host.door(), host.client()
    events = client.watch(PLAN)
    assert next(events).fields["event"] == "aggregator-registered"
    got: list[tuple[int, str]] = []
    arrived = threading.Event()

    def follow() -> None:
        for event in events:
            got.append((event.number, event.fields["event"]))
            arrived.set()
            if event.number == 5:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(2, 6):
        arrived.clear()
        peer.event(event=f"e{number}")
        assert arrived.wait(5)
    thread.join(5)
    assert got == [(number, f"e{number}") for number in range(2, 6)]
    later = client.watch(PLAN, after=3)
    assert [next(later).number for _ in range(2)] == [4, 5]


def test_watchers_of_one_plan_hear_nothing_of_another(host: RunningHost) -> None:
    peer, other, client = host.door(), host.door(OTHER_PLAN), host.client()
    other.event(event="elsewhere")
    peer.event(event="here", plan=OTHER_PLAN.hex())
    events = client.watch(PLAN)
    seen = [next(events).fields for _ in range(2)]
    assert [fields["event"] for fields in seen] == ["aggregator-registered", "here"]
    assert {fields["plan"] for fields in seen} == {PLAN.hex()}


def test_an_aggregator_that_goes_is_seen(host: RunningHost) -> None:
    peer, client = host.door(), host.client()
    events = client.watch(PLAN)
    next(events)
    peer.close()
    assert next(events).fields["event"] == "aggregator-gone"
    assert client.status(PLAN).aggregator == "absent"


def test_bytes_that_the_host_carried_are_counted_and_kept(make_host: Callable[..., RunningHost]) -> None:
    host = make_host()
    peer = host.door()
    with host.dialer().attach() as stream:
        session = peer.next(DoorKind.ATTACHED).channel
        stream.send(bytes(100))
        peer.next(DoorKind.FRAME)
        peer.control.send(DoorKind.FRAME, session, bytes(40))
        assert stream.receive(timeout=5) == bytes(40)
        assert host.client().status(PLAN).sessions == 1
    peer.next(DoorKind.DETACHED)
    host.stop()
    status = make_host().client().status(PLAN)
    assert (status.bytes_in, status.bytes_out) == (100, 40)
