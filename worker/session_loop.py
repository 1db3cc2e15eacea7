"""One session with the aggregator, driven to its end: frames in and out, work beside. Trust zone: worker TEE's shell.

Rules: frames are answered at once, also while this site trains, so that a challenge never waits for an epoch. Work runs
on one thread; its results come back through the same queue as the frames. This thread says all that is said. A task
that comes while an earlier one is at work waits for its end, and a later one takes its place: the run may go on without
a site that is slow, and still want it for the next round. What the operator of this site wants is looked at every
second; it can only make this worker do less.
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
from trusted.clock import JumpDetector
from trusted.errors import ChannelError, ProtocolError, Reason
from trusted.evidence.clocks import counted_s, utc_now
from worker.contribution import Contributor, Vector
from worker.memory import Included
from worker.operator import Departed, Operator, Wish
from worker.participant import Answer, Closed, Evaluate, Participant, Receipt, Respond, SendInitial, Train
from worker.pulse import Pulse

HANDSHAKE_TIMEOUT_S = 130.0
_TICK_S = 1.0
_GOODBYE_S = 1.5  # until the aggregator has heard that this site goes

Note = Callable[..., None]
Work = SendInitial | Train | Evaluate | Respond


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
    """Everything about this site that outlives a session.

    Attributes:
        aggregator: what this site's results call the aggregator.
        trainer_beat: any number that grows while the trainer works.
        beat_s: how often the aggregator hears that work goes on; several times in a lease.
        jumps: watches the clock, if anybody does.
        pulse: of the work that was begun last; the work of a session that broke may still be at it.
    """

    participant: Participant
    identity: Identity
    membership: Membership
    contributor: Contributor
    initial: Vector | None = field(repr=False)
    aggregator: str
    reattest_s: int
    note: Note
    operator: Operator = field(default_factory=Operator)
    trainer_beat: Callable[[], int] = lambda: 0
    beat_s: float = 5.0
    jumps: JumpDetector | None = None
    pulse: Pulse | None = None


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
        self._unsaid: list[dict[str, Any]] = []
        self._inbox: queue.SimpleQueue[bytes | _Done | _StreamEnded] = queue.SimpleQueue()
        self._working: Work | None = None
        self._next: Work | None = None
        self._told_at = 0.0  # of the monotonic clock, as all times here
        self._tick_at = time.monotonic() + _TICK_S
        self._resting = False
        self._noted: Proof | None = None
        self._challenge_at = time.monotonic() + site.reattest_s

    def run(self) -> Closed | Departed | None:
        """How the run ended, or that this site's part has; None when only this session did, and the worker comes back.

        Raises:
            ProtocolError: the aggregator did not prove what it must, or broke the session.
        """
        threading.Thread(target=self._pump, daemon=True).start()
        started = time.monotonic()
        self._frames.send(self._channel.begin())
        while True:
            if time.monotonic() >= self._tick_at:  # also while frames keep coming
                self._tick_at = time.monotonic() + _TICK_S
                if self._clock_jumped():
                    return None
                departed = self._on_tick(started)
                if departed is not None:
                    return departed
            try:
                item = self._inbox.get(timeout=max(0.0, self._tick_at - time.monotonic()))
            except queue.Empty:
                continue
            if isinstance(item, _StreamEnded) or self._clock_jumped():
                return None
            if isinstance(item, _Done):
                self._on_done(item)
            else:
                closed = self._on_frame(item)
                if closed is not None:
                    return closed

    def _pump(self) -> None:
        while (frame := self._frames.receive()) is not None:
            self._inbox.put(frame)
        self._inbox.put(_StreamEnded())

    def _on_frame(self, frame: bytes) -> Closed | None:
        before, now = self._channel.state, utc_now()
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
        self._heed(self._site.operator.wish())

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
        action = self._site.participant.take(message, utc_now())
        if isinstance(action, Closed):
            self._say({"type": "heard"})
            return action
        if isinstance(action, Answer):
            self._unsaid.append(action.message)
            if action.urgent:
                self._say()
        elif isinstance(action, Included):
            self._site.contributor.require_own(action.round, action.prefix_sha256)
            self._site.note("included", round=action.round, index=action.index, log=str(action.head))
        elif isinstance(action, Receipt):
            counted = action.reason is None
            self._site.note("receipt", round=action.round, outcome="counted" if counted else "refused")
        else:
            self._on_task(action)
        return None

    def _on_task(self, action: Work) -> None:
        """Begin, or refuse by the operator's word; what comes for a later round waits for the work of this one."""
        self._heed(self._site.operator.wish())
        working = self._working
        if not isinstance(action, SendInitial) and self._resting:
            self._say({"type": "failed", "round": action.round, "reason": int(Reason.SITE_PAUSED)})
        elif working is None:
            self._begin(action)
        elif action != working:  # else it is told again, as after an epoch that began
            self._next = action

    def _begin(self, action: Work) -> None:
        self._working = action
        if not isinstance(action, SendInitial):
            earlier = self._site.pulse
            is_same = earlier is not None and earlier.round == action.round
            self._site.pulse = earlier if is_same else Pulse(action.round, self._site.trainer_beat)
        threading.Thread(target=self._work, args=(action, self._site.pulse), daemon=True).start()

    def _on_done(self, done: _Done) -> None:
        self._working = None
        self._say(done.message)
        if self._next is not None:
            action, self._next = self._next, None
            self._on_task(action)

    def _work(self, action: Work, pulse: Pulse | None) -> None:
        contributor = self._site.contributor
        try:
            if isinstance(action, SendInitial):
                if self._site.initial is None:
                    raise ChannelError(Reason.INITIAL_MODEL, "send-initial: this site has no initial model")
                done = contributor.send_initial(action, self._site.initial)
            else:
                report = (pulse or Pulse(action.round, self._site.trainer_beat)).report
                if isinstance(action, Evaluate):
                    done = contributor.evaluate(action, report)
                elif isinstance(action, Respond):
                    done = contributor.respond(action, report).message()
                else:
                    done = contributor.contribute(action, report).message()
        except ProtocolError as error:
            self._site.note("work-failed", reason=error.reason.code, detail=error.detail)
            number = 0 if isinstance(action, SendInitial) else action.round
            done = {"type": "failed", "round": number, "reason": int(error.reason)}
        self._inbox.put(_Done(done))

    def _on_tick(self, started: float) -> Departed | None:
        wish = self._site.operator.wish()
        if wish in (Wish.LEAVE, Wish.WITHDRAW):
            self._say_goodbye(wish)
            return Departed(wish)
        if self._channel.state is not State.OPEN:
            if time.monotonic() - started > HANDSHAKE_TIMEOUT_S:
                raise ChannelError(Reason.HANDSHAKE_TIMEOUT, "handshake: not finished in time")
            return None
        self._say()
        self._heed(wish)
        self._tell_progress()
        session = self._channel.session
        session.require_lease(utc_now())
        if time.monotonic() >= self._challenge_at:
            self._challenge_at = time.monotonic() + self._site.reattest_s
            challenge = session.challenge()
            if challenge is not None:
                self._frames.send(challenge)
        return None

    def _tell_progress(self) -> None:
        """Tell of every new stage and quarter, and now and then that anything moves at all."""
        pulse = self._site.pulse
        if pulse is None or not isinstance(self._working, Train | Evaluate | Respond):
            return
        news = pulse.news(coarse=time.monotonic() - self._told_at < self._site.beat_s)
        if news is not None:
            self._told_at = time.monotonic()
            self._say(news)

    def _heed(self, wish: Wish) -> None:
        """Tell the aggregator when this site takes no further task, and when it does again."""
        resting = wish is not Wish.TAKE_PART
        if resting is not self._resting:
            self._resting = resting
            if wish in (Wish.TAKE_PART, Wish.PAUSE):  # of what ends this worker it hears in a moment
                self._site.note("site-paused" if resting else "site-resumed")
                self._say_away(wish)

    def _say_away(self, wish: Wish) -> None:
        reason = wish.reason
        self._say({"type": "away", "reason": None if reason is None else int(reason)})

    def _say_goodbye(self, wish: Wish) -> None:
        """Tell the aggregator, and give it a moment to hear it: it ends the stream then."""
        if self._channel.state is not State.OPEN:
            return
        self._say_away(wish)
        until = time.monotonic() + _GOODBYE_S
        while (left := until - time.monotonic()) > 0:
            try:
                if isinstance(self._inbox.get(timeout=left), _StreamEnded):
                    return
            except queue.Empty:
                return

    def _clock_jumped(self) -> bool:
        """Whether somebody set the clock: no lease is believed across that, and the session begins anew."""
        jumps = self._site.jumps
        by = None if jumps is None else jumps.jump(utc_now(), counted_s())
        if by is not None:
            self._site.note("clock-jumped", seconds=by.total_seconds())
        return by is not None

    def _say(self, *messages: dict[str, Any]) -> None:
        """Say ``messages``, behind what was not urgent until now."""
        self._unsaid += messages
        if self._channel.state is State.OPEN and self._unsaid:
            self._frames.send(self._channel.session.send(*self._unsaid))
            self._unsaid.clear()
