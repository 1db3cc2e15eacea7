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
from datetime import UTC, datetime
from secrets import token_bytes

from coordinator.door import Address, DoorKind, DoorMessage, DoorRole, Registration, encode_reason
from coordinator.door_socket import DoorConnection, connect
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.door_store import DoorStore
from coordinator.enclave.effects import Close, Effect, Emit, Send
from coordinator.enclave.run import RunState
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.documents.charter import verify_charter
from trusted.documents.plan import verify_plan
from trusted.errors import ProtocolError
from trusted.evidence.boot import Boot
from trusted.wire import Fields

_TICK_S = 1.0
_REDIAL_S = 1.0
_LINGER_S = 30.0  # after the end: time for members to hear of it and for recipients to be told

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def main(boot: Boot) -> int:
    """Serve one plan until its run ends. The exit status is 0 when the run finished or was stopped."""
    now = _utc_now()
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    with Fields(boot.options, "options") as options:
        address = Address.parse(options.text("door"))
    identity = Identity.generate(boot.provider)
    door = Door(address, federation.plan.digest)
    aggregator = Aggregator(federation, identity, door.store)
    _note("aggregator-started", plan=federation.plan.digest.hex())
    serve(door, aggregator)
    return 0 if aggregator.state in {RunState.FINISHED, RunState.STOPPED} else 1


class Door:
    """The two connections to the host, dialled again whenever they break."""

    def __init__(self, address: Address, plan: bytes) -> None:
        self._address = address
        self._plan = plan
        self.store = _Redialled()
        self._control: DoorConnection | None = None

    def dial(self) -> queue.SimpleQueue[DoorMessage | None]:
        """Connect and register both connections; control messages arrive in the queue, and None at their end.

        Raises:
            OSError, ProtocolError: nobody answers, or the host refuses.
        """
        token = token_bytes(16)
        control = self._register(DoorRole.CONTROL, token)
        data = self._register(DoorRole.DATA, token)
        self._control = control
        self.store.current = DoorStore(control, data)
        messages: queue.SimpleQueue[DoorMessage | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(control, messages), daemon=True).start()
        return messages

    def send(self, kind: DoorKind, channel: int, body: bytes) -> None:
        """Send on control.

        Raises:
            OSError: the host is gone.
        """
        if self._control is None:
            raise ConnectionError("the door is not connected")
        self._control.send(kind, channel, body)

    def _register(self, role: DoorRole, token: bytes) -> DoorConnection:
        connection = DoorConnection(connect(self._address))
        connection.register(Registration(self._plan, role, token))
        return connection


class _Redialled:
    """The store of whichever connection is alive, so that a run need not know that the door was dialled again."""

    def __init__(self) -> None:
        self.current: DoorStore | None = None

    def _live(self) -> DoorStore:
        if self.current is None:
            raise ConnectionError("the door is not connected")
        return self.current

    def expect(self, blob: bytes, size_bytes: int) -> None:
        self._live().expect(blob, size_bytes)

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        return self._live().read(blob, offset, size_bytes)

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[bytes]) -> None:
        self._live().write(blob, size_bytes, pieces)

    def discard(self, blob: bytes) -> None:
        self._live().discard(blob)


def _pump(control: DoorConnection, messages: queue.SimpleQueue[DoorMessage | None]) -> None:
    try:
        while (message := control.receive()) is not None:
            messages.put(message)
    except (OSError, ProtocolError):
        _note("door-broken")
    messages.put(None)


def serve(door: Door, aggregator: Aggregator, *, clock: Clock = _utc_now) -> None:
    """Feed the aggregator until its run has ended and everybody had time to hear of it.

    ``clock`` gives the time in UTC at which it judges; how long this shell itself waits is another matter.
    """
    attached: set[int] = set()
    ended_at: float | None = None
    silent = False
    while ended_at is None or (attached and time.monotonic() - ended_at < _LINGER_S):
        try:
            messages = door.dial()
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
            ended_at = _serve_connection(door, messages, aggregator, attached=attached, clock=clock)
        except (OSError, ProtocolError) as error:
            _note("door-broken", detail=str(error))
        now = clock()
        for connection in list(attached):
            aggregator.detach(connection, now)
        attached.clear()


def _serve_connection(
    door: Door,
    messages: queue.SimpleQueue[DoorMessage | None],
    aggregator: Aggregator,
    *,
    attached: set[int],
    clock: Clock,
) -> float | None:
    """Serve one pair of connections; when it returns, the run has ended (and when), or the host is gone (None)."""
    ended_at: float | None = None
    tick_at = time.monotonic() + _TICK_S
    while ended_at is None or (attached and time.monotonic() - ended_at < _LINGER_S):
        if time.monotonic() >= tick_at:  # also while messages keep coming: a busy host stops no clock
            tick_at = time.monotonic() + _TICK_S
            _perform(door, aggregator.tick(clock()))
        if ended_at is None and aggregator.state not in {RunState.WAITING, RunState.RUNNING}:
            ended_at = time.monotonic()
            continue
        try:
            message = messages.get(timeout=max(0.0, tick_at - time.monotonic()))
        except queue.Empty:
            continue
        if message is None:
            return ended_at
        _perform(door, _feed(aggregator, message, attached, now=clock()))
    return ended_at


def _feed(aggregator: Aggregator, message: DoorMessage, attached: set[int], *, now: datetime) -> tuple[Effect, ...]:
    if message.kind is DoorKind.ATTACHED:
        attached.add(message.channel)
        return aggregator.attach(message.channel, now)
    if message.kind is DoorKind.DETACHED:
        attached.discard(message.channel)
        return aggregator.detach(message.channel, now)
    if message.kind is DoorKind.FRAME:
        return aggregator.receive(message.channel, message.body, now)
    if message.kind is DoorKind.START:
        return aggregator.start(now)
    if message.kind is DoorKind.STOP:
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
