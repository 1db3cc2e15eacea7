"""One session with the aggregator, driven to its end: frames in and out, work beside. Trust zone: worker TEE's shell.

Rules: frames are answered at once, also while this site trains, so that a challenge never waits for an epoch. Work runs
on one thread; its results come back through the same queue as the frames. Everything said is said by this thread. A
task that comes while an earlier one is at work waits for its end, and a later one takes its place: the run may go on
without a site that is slow, and still want it for the next round.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from trusted.channel.refusal import refusal
from trusted.channel.results import issue_result
from trusted.channel.session import Identity, Proof
from trusted.channel.states import State
from trusted.channel.worker import Membership, WorkerChannel
from trusted.clock import Clock, utc_now
from trusted.errors import ChannelError, ProtocolError, Reason
from worker.contribution import Contributor, Vector
from worker.participant import Answer, Closed, Participant, Receipt, SendInitial, Train

HANDSHAKE_TIMEOUT_S = 130.0
_PROGRESS_S = 0.5
_TICK_S = 1.0

Note = Callable[..., None]


class Frames(Protocol):
    """One bidirectional stream of opaque frames, relayed by the host."""

    def send(self, frame: bytes) -> None:
        """Pass a frame on."""

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next frame; None when the stream ended."""

    def close(self) -> None:
        """End the stream."""


@dataclass(slots=True)
class Site:
    """Everything about this site that outlives a session. ``aggregator``: what its results call the aggregator."""

    participant: Participant
    identity: Identity
    membership: Membership
    contributor: Contributor
    initial: Vector | None = field(repr=False)
    aggregator: str
    reattest_s: int
    note: Note
    clock: Clock = utc_now


@dataclass(frozen=True, slots=True)
class _Done:
    """Work that ended: the document to send, or why there is none."""

    message: dict[str, Any]


class _StreamEnded:
    """The frames stopped."""


class SessionLoop:
    """Runs one session from hello to its end."""

    def __init__(self, site: Site, channel: WorkerChannel, frames: Frames) -> None:
        self._site = site
        self._channel = channel
        self._frames = frames
        self._inbox: queue.SimpleQueue[bytes | _Done | _StreamEnded | dict[str, Any]] = queue.SimpleQueue()
        self._work_at: SendInitial | Train | None = None
        self._work_next: SendInitial | Train | None = None
        self._noted: Proof | None = None
        self._challenge_at = time.monotonic() + site.reattest_s

    def run(self) -> Closed | None:
        """How the run ended; None when only this session did, and the worker should come back.

        Raises:
            ProtocolError: the aggregator did not prove what it must, or broke the session.
        """
        threading.Thread(target=self._pump, daemon=True).start()
        started = time.monotonic()
        self._frames.send(self._channel.begin())
        while True:
            try:
                item = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                self._on_tick(started)
                continue
            if isinstance(item, _StreamEnded):
                return None
            if isinstance(item, _Done):
                self._say(item.message)
                self._end_work()
            elif isinstance(item, dict):
                self._say(item)
            else:
                closed = self._on_frame(item)
                if closed is not None:
                    return closed

    def _pump(self) -> None:
        while (frame := self._frames.receive()) is not None:
            self._inbox.put(frame)
        self._inbox.put(_StreamEnded())

    def _on_frame(self, frame: bytes) -> Closed | None:
        before, now = self._channel.state, self._site.clock()
        try:
            if before is State.OPEN:  # a machine that slept acts on nothing that came while it did
                self._channel.session.require_lease(now)
            received = self._channel.receive(frame, now)
            for reply in received.replies:
                self._frames.send(reply)
            if before is not State.OPEN and self._channel.state is State.OPEN:
                self._on_open()
            self._note_proof()
            for message in received.messages:
                closed = self._on_message(message)
                if closed is not None:
                    return closed
        except ProtocolError as error:
            if error.reason is not Reason.PEER_REFUSED:
                self._frames.send(refusal(error.reason))
            raise
        return None

    def _on_open(self) -> None:
        result = self._channel.aggregator
        if result is None:
            raise RuntimeError("an open channel has appraised its aggregator")
        self._site.note("admitted", measurement=result.measurement.hex(), assurance=result.assurance.value)
        self._say(self._site.participant.ready(has_initial=self._site.initial is not None))

    def _note_proof(self) -> None:
        """This site's own signed word about each proof of the aggregator, for its log."""
        if self._channel.state is not State.OPEN or self._noted is self._channel.session.proof:
            return
        session, identity = self._channel.session, self._site.identity
        self._noted = session.proof
        token = issue_result(session, self._site.aggregator, identity)
        keys = {"key": identity.verify_key.hex(), "aggregator_key": session.peer.verify_key.hex()}
        self._site.note("attested", ear=token, **keys)

    def _on_message(self, message: dict[str, Any]) -> Closed | None:
        action = self._site.participant.take(message, self._site.clock())
        if isinstance(action, Closed):
            self._say({"type": "heard"})
            return action
        if isinstance(action, Answer):
            self._say(action.message)
        elif isinstance(action, Receipt):
            counted = action.reason is None
            self._site.note("receipt", round=action.round, outcome="counted" if counted else "refused")
        elif self._work_at is None:
            self._begin_work(action)
        elif action != self._work_at:  # told again, as after an epoch that began: it is at work already
            self._work_next = action
        return None

    def _begin_work(self, action: SendInitial | Train) -> None:
        self._work_at = action
        threading.Thread(target=self._work, args=(action,), daemon=True).start()

    def _end_work(self) -> None:
        waiting, self._work_at, self._work_next = self._work_next, None, None
        if waiting is not None:
            self._begin_work(waiting)

    def _work(self, action: SendInitial | Train) -> None:
        contributor = self._site.contributor
        try:
            if isinstance(action, SendInitial):
                if self._site.initial is None:
                    raise ChannelError(Reason.INITIAL_MODEL, "send-initial: this site has no initial model")
                done = contributor.send_initial(action, self._site.initial)
            else:
                done = contributor.contribute(action, self._progress(action.round)).message()
        except ProtocolError as error:
            self._site.note("work-failed", reason=error.reason.code, detail=error.detail)
            number = action.round if isinstance(action, Train) else 0
            done = {"type": "failed", "round": number, "reason": int(error.reason)}
        self._inbox.put(_Done(done))

    def _progress(self, number: int) -> Callable[[str, int], None]:
        """Tells of every new stage and quarter, but not of rounds that are over before anybody could read it."""
        last, said_at = ("", -1), time.monotonic()

        def report(stage: str, percent: int) -> None:
            nonlocal last, said_at
            now = time.monotonic()
            if (stage, percent // 25) != last and now - said_at >= _PROGRESS_S:
                last, said_at = (stage, percent // 25), now
                self._inbox.put({"type": "progress", "round": number, "stage": stage, "percent": percent})

        return report

    def _on_tick(self, started: float) -> None:
        if self._channel.state is not State.OPEN:
            if time.monotonic() - started > HANDSHAKE_TIMEOUT_S:
                raise ChannelError(Reason.HANDSHAKE_TIMEOUT, "handshake: not finished in time")
            return
        session = self._channel.session
        session.require_lease(self._site.clock())
        if time.monotonic() >= self._challenge_at:
            self._challenge_at = time.monotonic() + self._site.reattest_s
            challenge = session.challenge()
            if challenge is not None:
                self._frames.send(challenge)

    def _say(self, message: dict[str, Any]) -> None:
        if self._channel.state is State.OPEN:
            self._frames.send(self._channel.session.send(message))
