"""The aggregator's process shell: serves the doors of all host replicas, feeds the state machines, does what they ask.

Trust zone: aggregator TEE. This is the enclave's only I/O and its only clock. A host may send anything at any time;
what is no message of the door ends that connection, and it is dialled again. A run survives that: workers come back.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from coordinator.door import Address, DoorKind, DoorMessage, encode_reason
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.doors import MAX_DOORS, Doors, Link
from coordinator.enclave.effects import Close, Effect, Emit, Send
from coordinator.enclave.run import RunState
from coordinator.enclave.server_process import ServerAppProcess, ServerAppSpec
from coordinator.enclave.sessions import Sessions
from coordinator.enclave.workshop import Workshop
from trusted.allocator import keep_chunk_memory
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.clock import JumpDetector
from trusted.documents.charter import verify_charter
from trusted.documents.plan import verify_plan
from trusted.documents.terms import Rule
from trusted.errors import AppError, ProtocolError, Reason, WireError
from trusted.evidence.boot import Boot
from trusted.evidence.clocks import counted_s, utc_now, watched
from trusted.wire import Fields, Json

_TICK_S = 1.0
_DRAIN_S = 3.5  # whoever sent SIGTERM may be about to send SIGKILL
_LINGER_S = 30.0  # after the end: time for members to hear of it, for recipients to be told, for events to be stored

Clock = Callable[[], datetime]


def main(boot: Boot) -> int:
    """Serve one plan until its run ends, or SIGTERM asks to go: what is being written is written first.

    The exit status is 0 when the run finished or was stopped, and when there was nothing to do,
    or this process was asked to go.
    """
    keep_chunk_memory()
    now = utc_now()
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    addresses = _addresses(boot.options)
    try:
        server_app = _server_app(federation, str(boot.options.get("bundle", "")))
    except (AppError, OSError) as error:
        reason = error.reason.code if isinstance(error, AppError) else None
        note("aggregator-refused", reason=reason, detail=str(error))
        return 1
    doors = Doors(addresses, federation.plan.digest, note)
    workshop = Workshop(doors.post)
    aggregator = Aggregator(federation, Identity.generate(boot.provider), doors, workshop, server_app)
    leaving = threading.Event()

    def leave(*_: object) -> None:
        leaving.set()
        doors.post(lambda _: None)  # wakes the shell

    signal.signal(signal.SIGTERM, leave)
    note("aggregator-started", plan=federation.plan.digest.hex())
    try:
        serve(doors, aggregator, jumps=watched(), leaving=leaving)
    finally:
        workshop.close()
        if server_app is not None:
            server_app.stop()
    idle = {RunState.WAITING, RunState.FINISHED, RunState.STOPPED}
    return 0 if leaving.is_set() or aggregator.state in idle else 1


def _server_app(federation: Federation, bundle: str) -> ServerAppProcess | None:
    """The child for the app's own server, where the plan has one: forked before there are keys.

    Raises:
        AppError: the bundle is not the plan's, or names no server. OSError: it cannot be read.
    """
    plan = federation.plan.document
    if plan.aggregation.rule is not Rule.SERVER_APP:
        return None
    if not bundle:
        raise AppError(Reason.BUNDLE_DIGEST, "options.bundle: the plan's app expected: its own server runs here")
    return ServerAppProcess.fork(ServerAppSpec.of(plan, Path(bundle)))


def _addresses(options: Mapping[str, Json]) -> tuple[Address, ...]:
    with Fields(options, "options") as fields:
        doors = fields.items("doors")
        if fields.has("bundle"):
            fields.text("bundle")
    if not 0 < len(doors) <= MAX_DOORS or len(set(map(str, doors))) < len(doors):
        raise WireError(Reason.MALFORMED, f"options.doors: 1 to {MAX_DOORS} addresses, each once")
    return tuple(Address.parse(str(door)) for door in doors)


def serve(
    doors: Doors,
    aggregator: Aggregator,
    *,
    clock: Clock = utc_now,
    jumps: JumpDetector | None = None,
    leaving: threading.Event | None = None,
) -> None:
    """Feed the aggregator until its run has ended and everybody had time to hear of it, or until ``leaving`` is set.

    ``clock`` gives the time in UTC at which it judges, and ``jumps`` watches it; how long this shell itself waits is
    another matter.
    """
    with doors:
        _Shell(doors, aggregator, _Watch(clock, jumps), leaving or threading.Event()).run()


@dataclass(frozen=True, slots=True)
class _Watch:
    """The time, and whether somebody has just set it."""

    clock: Clock
    jumps: JumpDetector | None

    def read(self) -> tuple[datetime, timedelta | None]:
        """Now, and by how much the clock was put forward since it was read last."""
        now = self.clock()
        return now, None if self.jumps is None else self.jumps.jump(now, counted_s())


class _Shell:
    """One thread that does everything but wait for the doors."""

    def __init__(self, doors: Doors, aggregator: Aggregator, watch: _Watch, leaving: threading.Event) -> None:
        self._doors = doors
        self._aggregator = aggregator
        self._watch = watch
        self._leaving = leaving
        self._gone_by: float | None = None
        self._dismissed = False
        self._sessions = Sessions()
        self._ended_at: float | None = None
        self._said_over_at: float | None = None
        self._orders = {
            DoorKind.START: aggregator.start,
            DoorKind.PAUSE: aggregator.pause,
            DoorKind.RESUME: aggregator.unpause,
            DoorKind.STOP: aggregator.stop,
        }

    def run(self) -> None:
        """Until the end, and a while longer for those who are still there."""
        tick_at = time.monotonic() + _TICK_S
        while not self._is_over() and not (self._leaving.is_set() and self._has_drained()):
            if time.monotonic() >= tick_at:  # also while messages keep coming: a busy host stops no clock
                tick_at = time.monotonic() + _TICK_S
                self._do(partial(self._aggregator.tick, self._now()))
                self._do(self._tend)
            try:
                arrived = self._doors.next(max(0.0, tick_at - time.monotonic()))
            except queue.Empty:
                continue
            if not isinstance(arrived, tuple):
                self._do(partial(self._aggregator.finish, arrived, self._now()))
                continue
            link, message = arrived
            if message is None:
                self._end_sessions(link)
            else:
                self._feed(link, message)

    def _now(self) -> datetime:
        now, by = self._watch.read()
        if by is not None:
            note("clock-jumped", seconds=by.total_seconds())
            self._do(partial(self._aggregator.clock_jumped, by, now))
        return now

    def _has_drained(self) -> bool:
        """Whether all is stored that a successor needs and everybody was sent to it; at the latest after a while."""
        if self._gone_by is None:
            self._gone_by = time.monotonic() + _DRAIN_S
            self._do(partial(self._aggregator.drain, self._now()))
        is_late = time.monotonic() >= self._gone_by
        if not self._dismissed and (is_late or not self._aggregator.is_writing):
            self._dismissed = True
            self._do(partial(self._aggregator.dismiss, self._now()))
        return self._dismissed and (is_late or not self._doors.has_unheard_events)

    def _tend(self) -> tuple[Effect, ...]:
        self._doors.tend()
        return ()

    def _is_over(self) -> bool:
        if self._nobody_comes():
            return True
        if self._ended_at is None:
            if self._aggregator.state in {RunState.WAITING, RunState.RUNNING}:
                return False
            self._ended_at = time.monotonic()
        somebody_waits = self._aggregator.is_awaited or len(self._sessions) > 0 or self._doors.has_unheard_events
        return not somebody_waits or time.monotonic() - self._ended_at >= _LINGER_S

    def _nobody_comes(self) -> bool:
        """Started when everybody has gone home: the host says that the run is over, and no worker knows of one."""
        if self._aggregator.state is not RunState.WAITING or len(self._sessions) > 0 or self._said_over_at is None:
            return False
        return time.monotonic() - self._said_over_at >= _LINGER_S

    def _end_sessions(self, link: Link) -> None:
        for number in self._sessions.drop(link):
            self._do(partial(self._aggregator.detach, number, self._now()))

    def _feed(self, link: Link, message: DoorMessage) -> None:
        aggregator, now = self._aggregator, self._now()
        if message.kind is DoorKind.ATTACHED:
            number = self._sessions.attach(link, message.channel)
            self._do(lambda: aggregator.attach(number, now))
        elif message.kind is DoorKind.DETACHED:
            gone = self._sessions.detach(link, message.channel)
            if gone is not None:
                self._do(lambda: aggregator.detach(gone, now))
        elif message.kind is DoorKind.FRAME:
            session = self._sessions.find(link, message.channel)
            if session is not None:
                self._do(lambda: aggregator.receive(session, message.body, now))
        elif message.kind in self._orders:
            self._do(partial(self._orders[message.kind], now))
        elif message.kind is DoorKind.OVER:
            self._said_over_at = self._said_over_at or time.monotonic()

    def _do(self, act: Callable[[], tuple[Effect, ...]]) -> None:
        """Let the aggregator act, and do what it asks. With every door broken, it goes on when one is back."""
        try:
            for effect in act():
                self._perform(effect)
        except (OSError, ProtocolError) as error:
            note("interrupted", detail=str(error))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(connection, frame):
                self._send(connection, DoorKind.FRAME, frame)
            case Close(connection, reason):
                self._send(connection, DoorKind.CLOSE, encode_reason(reason))
            case Emit(event, fields):
                self._doors.tell(json.dumps({"event": event, **fields}).encode())

    def _send(self, connection: int, kind: DoorKind, body: bytes) -> None:
        place = self._sessions.place_of(connection)
        if place is not None:
            link, channel = place
            self._doors.send(link, kind, channel, body)


def note(event: str, **fields: object) -> None:
    """One line for the operator's log: public facts only."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()
