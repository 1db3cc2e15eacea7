"""Which aggregator serves which plan, and the sessions that the host relays for it. Trust zone: host.

Rules:
 1. A plan has at most one aggregator; a second is refused while the first is connected.
 2. A session belongs to one control connection. When that ends, every session ends, and workers attach again.
 3. Nothing waits for a slow worker: what it does not read is bounded, and then its own session ends.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamWriter
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.door import DoorKind, encode_message
from coordinator.host.limits import Limits
from trusted.errors import ChannelError, Reason, RunError, WireError
from trusted.wire import label_of

_WELCOME = "cloister/welcome/v1"


class Session:
    """One worker's stream. Frames are opaque; of the aggregator's the label is looked at, to see that it admitted."""

    def __init__(self, number: int, limits: Limits, on_admitted: Callable[[], None] = lambda: None) -> None:
        self.number = number
        self.overrun = False
        self.writing: asyncio.Future[None] | None = None  # the frame that is on its way to the worker
        self._on_admitted = on_admitted
        self.admitted = False
        self.received_bytes = 0
        self.sent_bytes = 0
        self._limits = limits
        self._received_frames = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._news = asyncio.Event()
        self._over = False
        self._reason: Reason | None = None

    @property
    def is_over(self) -> bool:
        """No more frames are taken from either side."""
        return self._over

    def count_received(self, size_bytes: int) -> None:
        """Count one frame of the worker.

        Raises:
            ChannelError: too many, or too much, for a worker that is not admitted.
        """
        self._received_frames += 1
        self.received_bytes += size_bytes
        if self.admitted:
            return
        if self._received_frames > self._limits.frames_before_admission:
            raise ChannelError(Reason.QUOTA, "session: too many frames before admission")
        if self.received_bytes > self._limits.bytes_before_admission:
            raise ChannelError(Reason.QUOTA, "session: too many bytes before admission")

    def deliver(self, frame: bytes) -> None:
        """Queue one frame for the worker; a worker that does not read loses its session."""
        if self._over:
            return
        if len(self._queue) >= self._limits.queued_frames or self._queued_bytes > self._limits.queued_bytes:
            self.end(Reason.QUOTA)
            self.overrun = True
            if self.writing is not None:  # which may stand still for long
                self.writing.cancel()
            return
        if not self.admitted and _is_welcome(frame):
            self.admitted = True
            self._on_admitted()
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._news.set()

    def end(self, reason: Reason | None) -> None:
        """Let the worker's stream end behind what is queued. The first reason stands."""
        if not self._over:
            self._over, self._reason = True, reason
            self._news.set()

    async def next_frame(self) -> bytes | None:
        """The next frame for the worker; None when the session ended without a reason.

        Raises:
            RunError: the session ended for a reason.
        """
        while not self._queue:
            if self._over and self._reason is not None:
                raise RunError(self._reason, "session: ended by the coordinator")
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        frame = self._queue.popleft()
        self._queued_bytes -= len(frame)
        return frame


def _is_welcome(frame: bytes) -> bool:
    try:
        return label_of(frame) == _WELCOME
    except WireError:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Aggregator:
    """One registered control connection."""

    plan: bytes
    token: bytes
    writer: StreamWriter
    sessions: dict[int, Session]
    data_tasks: set[asyncio.Task[None]]

    def __repr__(self) -> str:
        return f"Aggregator(plan={self.plan.hex()[:12]}…)"

    def post(self, kind: DoorKind, channel: int = 0, body: bytes = b"") -> None:
        """Send a small message without waiting. Whole messages are buffered: a cancelled caller cuts none."""
        if not self.writer.is_closing():
            self.writer.write(encode_message(kind, channel, body))

    async def send(self, kind: DoorKind, channel: int, body: bytes) -> None:
        """Send a message and wait while the aggregator is behind: that is what slows workers down.

        Raises:
            RunError: the aggregator is gone.
        """
        self.post(kind, channel, body)
        try:
            await self.writer.drain()
        except ConnectionError:
            raise _no_aggregator() from None


class Aggregators:
    """The registry."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_plan: dict[bytes, Aggregator] = {}
        self._next_session = 1

    def register(self, plan: bytes, token: bytes, writer: StreamWriter) -> Aggregator:
        """Let the connection behind ``writer`` serve ``plan``.

        Raises:
            RunError: another one does.
        """
        if plan in self._by_plan:
            raise RunError(Reason.AGGREGATOR_TAKEN, "door: another aggregator serves this plan")
        aggregator = self._by_plan[plan] = Aggregator(plan, token, writer, {}, set())
        return aggregator

    def find(self, plan: bytes) -> Aggregator:
        """The aggregator of ``plan``.

        Raises:
            RunError: none is registered.
        """
        aggregator = self._by_plan.get(plan)
        if aggregator is None:
            raise _no_aggregator()
        return aggregator

    def find_by_token(self, plan: bytes, token: bytes) -> Aggregator:
        """The aggregator of ``plan`` that registered with ``token``: its data connection says the same one.

        Raises:
            RunError: none did.
        """
        aggregator = self.find(plan)
        if aggregator.token != token:
            raise RunError(Reason.AGGREGATOR_TAKEN, "door: this data connection belongs to no control connection")
        return aggregator

    def open_session(self, aggregator: Aggregator, on_admitted: Callable[[], None] = lambda: None) -> Session:
        """A new session, announced to the aggregator. Its number is never used again.

        ``on_admitted`` is called when the aggregator welcomes the worker.

        Raises:
            RunError: the aggregator has as many as it may.
        """
        if len(aggregator.sessions) >= self._limits.sessions_per_plan:
            raise RunError(Reason.QUOTA, "plan: as many sessions as limits.sessions_per_plan allows")
        session = Session(self._next_session, self._limits, on_admitted)
        self._next_session += 1
        aggregator.sessions[session.number] = session
        aggregator.post(DoorKind.ATTACHED, session.number)
        return session

    def close_session(self, aggregator: Aggregator, session: Session) -> None:
        """Forget a session whose stream is over, and say so to the aggregator."""
        session.end(None)
        if aggregator.sessions.pop(session.number, None) is not None:
            aggregator.post(DoorKind.DETACHED, session.number)

    def send_workers_away(self) -> None:
        """This host stops: end every session, so that workers go to another host or come back when it is up again."""
        for aggregator in self._by_plan.values():
            for session in list(aggregator.sessions.values()):
                session.end(Reason.UNREACHABLE)

    def remove(self, aggregator: Aggregator) -> None:
        """The control connection is over: so are its sessions and its data connections."""
        if self._by_plan.get(aggregator.plan) is aggregator:
            del self._by_plan[aggregator.plan]
        for session in list(aggregator.sessions.values()):
            session.end(Reason.NO_AGGREGATOR)
        for task in aggregator.data_tasks:
            task.cancel()


def _no_aggregator() -> RunError:
    return RunError(Reason.NO_AGGREGATOR, "plan: no aggregator serves it at this host; it may be starting, try again")
