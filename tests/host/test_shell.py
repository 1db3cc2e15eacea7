"""The aggregator's shell at a real host: a clock that somebody sets, orders, and an end in good order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from coordinator.enclave.__main__ import serve
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.doors import Doors
from coordinator.enclave.workshop import Workshop
from tests.host.conftest import RunningHost, signed_order
from tests.world import NOW, World
from trusted.clock import JumpDetector
from trusted.documents.order import Action
from trusted.errors import ProtocolError, Reason
from trusted.evidence.clocks import counted_s


@dataclass
class Served:
    """A shell that runs on a thread; ``offset`` is what somebody put its clock forward by."""

    host: RunningHost
    world: World
    begun: float = field(default_factory=counted_s)
    offset: timedelta = timedelta()
    leaving: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def clock(self) -> datetime:
        return NOW + timedelta(seconds=counted_s() - self.begun) + self.offset

    def events(self) -> list[str]:
        try:
            return [str(event.fields["event"]) for event in self.host.client().recorded(self.world.plan.digest)]
        except ProtocolError as refusal:
            if refusal.reason is not Reason.RUN_UNKNOWN:  # until the aggregator has registered
                raise
            return []

    def until(self, *events: str) -> None:
        deadline = time.monotonic() + 10
        while [name for name in self.events() if name in events] != list(events):
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.1)


@contextmanager
def _serving(host: RunningHost, world: World) -> Iterator[Served]:
    served = Served(host, world)
    doors = Doors([host.config.door], world.plan.digest, lambda event, **fields: None)
    workshop = Workshop(doors.post)
    aggregator = Aggregator(world.federation, world.identity("aggregator"), doors, workshop)
    watched = JumpDetector(NOW, served.begun)
    options = {"clock": served.clock, "jumps": watched, "leaving": served.leaving}
    served.thread = threading.Thread(target=serve, args=(doors, aggregator), kwargs=options, daemon=True)
    served.thread.start()
    try:
        served.until("aggregator-registered")
        yield served
    finally:
        served.leaving.set()
        served.thread.join(10)
        workshop.close()


@pytest.fixture
def served(make_host: Callable[..., RunningHost], world: World) -> Iterator[Served]:
    with _serving(make_host(), world) as running:
        yield running


def test_each_jump_of_the_clock_is_told_once(served: Served) -> None:
    served.offset = timedelta(days=800)
    served.until("clock-jumped")
    time.sleep(2.5)
    served.offset = -timedelta(days=800)
    served.until("clock-jumped", "clock-jumped")
    time.sleep(1.5)
    served.until("clock-jumped", "clock-jumped")
    told = [e for e in served.host.client().recorded(served.world.plan.digest) if e.fields["event"] == "clock-jumped"]
    assert [round(event.fields["seconds"] / 86400) for event in told] == [800, -1600]


def test_orders_reach_the_run_and_a_pause_is_told_before_the_start(served: Served) -> None:
    client, plan = served.host.client(), served.world.plan.digest
    for action in (Action.PAUSE, Action.START, Action.RESUME):
        client.submit(signed_order(served.world, action, plan=plan))
    served.until("run-paused", "run-started", "run-resumed")
    client.submit(signed_order(served.world, Action.STOP, plan=plan))
    served.until("run-paused", "run-started", "run-resumed", "run-ended")


def test_a_shell_that_is_asked_to_go_ends_every_session_tells_it_and_goes(served: Served) -> None:
    dialer = served.host.dialer(served.world.plan.digest)
    with dialer.attach() as frames:
        frames.send(served.world.worker_channel("site-1").begin())
        assert frames.receive(10) is not None  # the offer
        served.leaving.set()
        assert served.thread is not None
        served.thread.join(10)
        assert not served.thread.is_alive()
        rest = [frames.receive(5) for _ in range(2)]
        assert rest[-1] is None
    served.until("aggregator-drains", "aggregator-gone")


def test_a_shell_that_drains_starts_nothing(served: Served) -> None:
    served.leaving.set()
    assert served.thread is not None
    served.thread.join(10)
    order = signed_order(served.world, plan=served.world.plan.digest)
    served.host.client().submit(order)
    assert "run-started" not in served.events()
