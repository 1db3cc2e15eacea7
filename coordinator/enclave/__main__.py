"""The aggregator's process shell: dials the host's door, feeds the state machines, does what they ask.

Trust zone: aggregator TEE. This is the enclave's only I/O and its only clock. The host may send anything at any time;
what is no message of the door ends the connection, and the shell dials again. A run survives that: workers come back.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes

from coordinator.door import Address, DoorKind, DoorMessage, DoorRole, Registration, encode_reason
from coordinator.door_socket import DoorConnection, connect
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.door_store import DoorStore
from coordinator.enclave.effects import Close, Effect, Emit, Send
from coordinator.enclave.run import RunState
from coordinator.enclave.workshop import Finish, Workshop
from trusted.allocator import keep_chunk_memory
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.documents.charter import verify_charter
from trusted.documents.plan import verify_plan
from trusted.errors import ProtocolError
from trusted.evidence.boot import Boot
from trusted.floe import Buffer
from trusted.wire import Fields

_TICK_S = 1.0
_REDIAL_S = 1.0
_LINGER_S = 30.0  # after the end: time for members to hear of it and for recipients to be told

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def main(boot: Boot) -> int:
    """Serve one plan until its run ends. The exit status is 0 when the run finished or was stopped."""
    keep_chunk_memory()
    now = _utc_now()
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    with Fields(boot.options, "options") as options:
        address = Address.parse(options.text("door"))
    identity = Identity.generate(boot.provider)
    door = Door(address, federation.plan.digest)
    workshop = Workshop(lambda finish: door.inbox.put(_Posted(None, finish)))
    aggregator = Aggregator(federation, identity, door.store, workshop)
    _note("aggregator-started", plan=federation.plan.digest.hex())
    try:
        serve(door, aggregator)
    finally:
        workshop.close()
        door.close()
    return 0 if aggregator.state in {RunState.FINISHED, RunState.STOPPED} else 1


@dataclass(frozen=True, slots=True)
class _Posted:
    """What waits for the aggregator's thread: a message of the door (None: it broke), or a job that came back."""

    source: DoorConnection | None
    item: DoorMessage | Finish | None


class Door:
    """The connections to the host, dialled again whenever they break."""

    def __init__(self, address: Address, plan: bytes) -> None:
        self._address = address
        self._plan = plan
        self.store = _Redialled()
        self.inbox: queue.SimpleQueue[_Posted] = queue.SimpleQueue()
        self._control: DoorConnection | None = None

    def dial(self) -> None:
        """Connect and register; control messages arrive in the inbox, and one without an item at their end.

        Raises:
            OSError, ProtocolError: nobody answers, or the host refuses.
        """
        self.close()
        token = token_bytes(16)
        control = self._register(DoorRole.CONTROL, token)
        self._control = control
        self.store.replace(DoorStore(control, lambda: self._register(DoorRole.DATA, token)))
        threading.Thread(target=self._pump, args=(control,), daemon=True).start()

    def send(self, kind: DoorKind, channel: int, body: bytes) -> None:
        """Send on control.

        Raises:
            OSError: the host is gone.
        """
        if self._control is None:
            raise ConnectionError("the door is not connected")
        self._control.send(kind, channel, body)

    def next(self, timeout_s: float) -> _Posted | None:
        """What comes next, of the connection that is alive or of a job; None when nothing did."""
        try:
            posted = self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return posted if posted.source in (None, self._control) else None

    def close(self) -> None:
        """End all connections; jobs that use them fail and start anew."""
        self.store.replace(None)
        if self._control is not None:
            self._control.close()
            self._control = None

    def _register(self, role: DoorRole, token: bytes) -> DoorConnection:
        connection = DoorConnection(connect(self._address))
        connection.register(Registration(self._plan, role, token))
        return connection

    def _pump(self, control: DoorConnection) -> None:
        try:
            while (message := control.receive()) is not None:
                self.inbox.put(_Posted(control, message))
        except (OSError, ProtocolError):
            _note("door-broken")
        self.inbox.put(_Posted(control, None))


class _Redialled:
    """The store of whichever connection is alive, so that a run need not know that the door was dialled again."""

    def __init__(self) -> None:
        self._current: DoorStore | None = None

    def replace(self, store: DoorStore | None) -> None:
        """From now on it is ``store``."""
        earlier, self._current = self._current, store
        if earlier is not None:
            earlier.close()

    def _live(self) -> DoorStore:
        if self._current is None:
            raise ConnectionError("the door is not connected")
        return self._current

    def expect(self, blob: bytes, size_bytes: int) -> None:
        self._live().expect(blob, size_bytes)

    def read(self, blob: bytes, offset: int, size_bytes: int) -> Buffer:
        return self._live().read(blob, offset, size_bytes)

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        self._live().write(blob, size_bytes, pieces)

    def discard(self, blob: bytes) -> None:
        self._live().discard(blob)


def serve(door: Door, aggregator: Aggregator, *, clock: Clock = _utc_now) -> None:
    """Feed the aggregator until its run has ended and everybody had time to hear of it.

    ``clock`` gives the time in UTC at which it judges; how long this shell itself waits is another matter.
    """
    attached: set[int] = set()
    ended_at: float | None = None
    silent = False
    while ended_at is None or (attached and time.monotonic() - ended_at < _LINGER_S):
        try:
            door.dial()
        except (OSError, ProtocolError) as error:
            if ended_at is not None:
                return
            if not silent:
                _note("door-unreachable", detail=str(error))
            silent = True  # once until it answers
            time.sleep(_REDIAL_S)
            continue
        silent = False
        try:
            ended_at = _serve_connection(door, aggregator, attached=attached, clock=clock)
        except (OSError, ProtocolError) as error:
            _note("door-broken", detail=str(error))
        now = clock()
        for connection in list(attached):
            aggregator.detach(connection, now)
        attached.clear()


def _serve_connection(door: Door, aggregator: Aggregator, *, attached: set[int], clock: Clock) -> float | None:
    """Serve one control connection; when it returns, the run has ended (and when), or the host is gone (None)."""
    ended_at: float | None = None
    tick_at = time.monotonic() + _TICK_S
    while ended_at is None or (attached and time.monotonic() - ended_at < _LINGER_S):
        if time.monotonic() >= tick_at:  # also while messages keep coming: a busy host stops no clock
            tick_at = time.monotonic() + _TICK_S
            _perform(door, aggregator.tick(clock()))
        if ended_at is None and aggregator.state not in {RunState.WAITING, RunState.RUNNING}:
            ended_at = time.monotonic()
            continue
        posted = door.next(max(0.0, tick_at - time.monotonic()))
        if posted is None:
            continue
        if posted.item is None:
            return ended_at
        _perform(door, _feed(aggregator, posted.item, attached, now=clock()))
    return ended_at


def _feed(
    aggregator: Aggregator, item: DoorMessage | Finish, attached: set[int], *, now: datetime
) -> tuple[Effect, ...]:
    if not isinstance(item, DoorMessage):
        return aggregator.finish(item, now)
    if item.kind is DoorKind.ATTACHED:
        attached.add(item.channel)
        return aggregator.attach(item.channel, now)
    if item.kind is DoorKind.DETACHED:
        attached.discard(item.channel)
        return aggregator.detach(item.channel, now)
    if item.kind is DoorKind.FRAME:
        return aggregator.receive(item.channel, item.body, now)
    if item.kind is DoorKind.START:
        return aggregator.start(now)
    if item.kind is DoorKind.STOP:
        return aggregator.stop()
    return ()


def _perform(door: Door, effects: tuple[Effect, ...]) -> None:
    for effect in effects:
        match effect:
            case Send(connection, frame):
                door.send(DoorKind.FRAME, connection, frame)
            case Close(connection, reason):
                door.send(DoorKind.CLOSE, connection, encode_reason(reason))
            case Emit(event, fields):
                body = {"event": event, **fields}
                door.send(DoorKind.EVENT, int(fields.get("session", 0)), json.dumps(body).encode())


def _note(event: str, **fields: object) -> None:
    """One line for the operator's log: public facts only."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()
