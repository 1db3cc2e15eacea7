"""Rounds through the whole protocol, in this process. Trust zone: the developer's machine.

Every site is attested and admitted, opens the sealed model in its own session, and seals and uploads its update; the
aggregator's state machines draw, count, read, fold, have the log witnessed, and release; the recipient opens the model.
What trains is the engine's, for all sites of a round at once, from the same bits that each of them opened.

Rules: 1. The host's clock is the virtual clock: an answer comes when its site has it ready, a site at work shows
progress, and leases, proofs and deadlines run out as in a deployed run. 2. Who is not there for a round has paused: it
takes no task, and goes on as a witness. 3. The host pauses the run between rounds, so that members can say so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from coordinator.enclave.jobs import Jobs
from coordinator.enclave.rounds import ENDED, Round, RoundState
from coordinator.enclave.run import RunState
from simulations.aggregator import Answer, Closed, Opened, Stages, Work
from simulations.aggregators.agreed import LASTS, TICKS_A_LEASE, agreed
from simulations.aggregators.enclave import OpenNet
from simulations.hosts.released import opened as opened_release
from simulations.hosts.working import WorkingSite
from simulations.result import Ending
from simulations.setting import Setting
from simulations.wire import Wire
from trusted.blob import ContentKey, seal_vector
from trusted.encoding import Vector
from trusted.errors import Reason
from trusted.wire import sha256
from worker.participant import Train
from worker.trainer import TrainResult

_MAX_WEIGHT = (1 << 53) - 1  # that a message can tell: more than every plan allows
_BY_CODE = {reason.code: reason for reason in Reason}


@dataclass(slots=True)
class _Trained:
    """A worker's trainer, which hands out what the engine trained: from that ``seen`` model, and from no other."""

    seen: Vector | None = field(default=None, repr=False)
    result: TrainResult | None = field(default=None, repr=False)

    def train(self, model: Vector, round_number: int, *, timeout_s: float) -> TrainResult:
        """What the engine trained.

        Raises:
            RuntimeError: the worker opened another model than the one that the engine trained from.
        """
        if self.seen is None or self.result is None or not np.array_equal(model, self.seen, equal_nan=True):
            raise RuntimeError("admission: a site opened another model than the engine trained from")
        return self.result

    def respond(self, content: bytes, node: int, number: int, timeout_s: float) -> bytes:
        """Nobody asks: a simulation has no app's own server."""
        raise RuntimeError("admission: no app's own server is simulated")


class Admitted:
    """One run's :class:`simulations.aggregator.Aggregator`. ``admission_s``: what admitting all sites took here."""

    def __init__(self, setting: Setting, wire: Wire, jobs: Jobs) -> None:
        terms = setting.terms
        self._terms, self._wire, self._committed = terms, wire, 0
        world = agreed(terms, setting.task.layout, np.array(wire.whole, dtype="<f4"))
        self._net = OpenNet(world, jobs, setting.cohorts)
        self._begun = self._net.now
        self._connections: dict[str, int] = {}
        self._trainers = {member: _Trained() for member in terms.cohort.members}
        self._away: set[str] = set()
        begun = time.perf_counter()
        self._admit()
        self.admission_s = time.perf_counter() - begun

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return self._net.now

    @property
    def part(self) -> Vector:
        """What is exchanged of the model, as the aggregator holds it."""
        return self._net.aggregator.vector

    @property
    def model(self) -> Vector:
        """The whole of it: as its first recipient opens it, once it is released."""
        net = self._net
        if net.aggregator.state is not RunState.FINISHED:
            return self._wire.whole_with(self.part)
        return opened_release(net.world, net.store, net.now)

    @property
    def epsilon(self) -> float | None:
        """What is spent."""
        return self._net.aggregator.epsilon

    @property
    def ending(self) -> Ending | None:
        """As the aggregator ended its run."""
        state = self._net.aggregator.state
        if state is RunState.RUNNING:
            return None
        if state is RunState.FINISHED and self._committed >= self._terms.rounds:
            return Ending.COMPLETE
        return Ending.BUDGET if self._net.outcomes("budget-exhausted") else Ending.ABANDONED

    # --- beginning -------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Every site proves itself and becomes a witness; the first brings the initial model.

        Raises:
            RuntimeError: one was refused.
        """
        net = self._net
        net.perform(net.aggregator.pause(net.now))
        net.start()
        for place, member in enumerate(self._terms.cohort.members):
            site = WorkingSite(net, member, self._trainers[member], has_initial=place == 0)
            site.automatic = False
            self._connections[member] = net.join(site)
        self._require_sessions()

    def _require_sessions(self) -> None:
        """Nobody's session ended before the run.

        Raises:
            RuntimeError: one did; the message says why.
        """
        if self._net.aggregator.state is not RunState.RUNNING:
            return
        reasons = {site.member: site.error.reason for site in self._net.sites.values() if site.error is not None}
        reasons |= {self._net.sites[connection].member: reason for connection, reason in self._net.closed.items()}
        if reasons:
            member, reason = next(iter(reasons.items()))
            raise RuntimeError(f"admission: {member} has no session any more: {reason.code} {reason.name}")

    # --- opening ---------------------------------------------------------------------------------------------------

    def open(self, present: Sequence[str], stages: Stages) -> Opened | None:
        """The aggregator opens a round, of those that take tasks; or it waits for more of them, and a lease passes."""
        net = self._net
        if net.now - self._begun > LASTS:
            raise RuntimeError(f"admission: after {LASTS.days} days of virtual time the members' documents end")
        with stages.of("protocol"):
            self._rest(set(self._terms.cohort.members) - set(present))
            net.perform(net.aggregator.tick(net.now))
            net.perform(net.aggregator.unpause(net.now))
            net.perform(net.aggregator.pause(net.now))
            current = net.aggregator.current
            if current is None and self.ending is None:
                self._wait()
        return None if current is None else Opened(current.number, current.cohort)

    def _rest(self, away: set[str]) -> None:
        """Those who are ``away`` now, and were not, say so; those who are back as well."""
        for member in sorted(away ^ self._away):
            reason = int(Reason.SITE_PAUSED) if member in away else None
            self._net.say(self._connections[member], {"type": "away", "reason": reason})
        self._away = away

    def _wait(self) -> None:
        for _ in range(TICKS_A_LEASE):
            self._net.pass_time(self._tick.total_seconds())

    @property
    def _tick(self) -> timedelta:
        return timedelta(seconds=self._terms.deadlines.lease_s) / TICKS_A_LEASE

    # --- collecting ------------------------------------------------------------------------------------------------

    def close(self, opened: Opened, work: Work, stages: Stages) -> Closed:
        """Answers come, time passes, and the aggregator does the rest.

        Raises:
            RuntimeError: a session ended, or the round does not, and nothing in a simulation is a reason for that.
        """
        round_ = self._net.aggregator.current
        if round_ is None or round_.number != opened.number:
            raise RuntimeError("admission: another round is open than the sites trained for")
        answers = list(work.answers)
        with stages.of("protocol"):
            self._collect(round_, answers, work.seen)
        self._require_sessions()
        if round_.state not in ENDED:
            raise RuntimeError(f"admission: round {round_.number} stays {round_.state.value}")
        reason = None if round_.state is RoundState.COMMITTED else self._abandoned(round_.number)
        self._committed += reason is None
        return Closed(round_, reason, self._sent(round_))

    def _collect(self, round_: Round, answers: Sequence[Answer], seen: Vector) -> None:
        """Ticks and answers in the order of their times; of one time the tick comes first."""
        net, opened, beat = self._net, self._net.now, 0
        coming = deque(sorted(answers, key=lambda answer: (answer.arrival.seconds, answer.arrival.member)))
        while round_.state is RoundState.COLLECTING:
            due = min(opened + (beat + 1) * self._tick, round_.deadline)
            longest = (due - opened).total_seconds()
            if coming and coming[0].arrival.seconds < longest:
                net.now = opened + timedelta(seconds=coming[0].arrival.seconds)
                self._bring(coming.popleft(), seen)
                continue
            beat, net.now = beat + 1, due
            for answer in coming:
                self._say(answer, {"type": "progress", "round": round_.number, "stage": "train", "percent": 0}, beat)
            net.perform(net.aggregator.tick(net.now))

    def _say(self, answer: Answer, message: dict[str, Any], beat: int) -> None:
        self._net.say(self._connections[answer.arrival.member], message | {"beat": beat})

    def _bring(self, answer: Answer, seen: Vector) -> None:
        """A site's answer: the worker's own work where it is honest, and sealed by its own hands where it is false."""
        net, member, trained = self._net, answer.arrival.member, answer.trained
        connection = self._connections[member]
        task = net.sites[connection].tasks[-1]
        if answer.arrival.reason is not None:
            net.say(connection, {"type": "failed", "round": task.round, "reason": int(answer.arrival.reason)})
        elif answer.forged:
            net.say(connection, self._forged(answer, task))
        else:
            weight = min(answer.arrival.weight, _MAX_WEIGHT)
            trainer = self._trainers[member]
            trainer.seen = seen
            trainer.result = TrainResult(answer.whole, weight, trained.metrics, trained.private_steps)
            net.work(connection, task)

    def _forged(self, answer: Answer, task: Train) -> dict[str, Any]:
        """A false site seals whatever it likes: neither clipped, nor held against being finite."""
        net, member = self._net, answer.arrival.member
        signing_key, key = net.sites[self._connections[member]].identity.signing_key, ContentKey.generate()
        sealed = b"".join(seal_vector(task.upload_header, answer.update, key=key, signing_key=signing_key))
        net.store.blobs[task.upload] = sealed
        private = self._terms.privacy.dp_sgd is not None
        return {
            "type": "update",
            "round": task.round,
            "blob": task.upload.hex(),
            "key": key.secret.hex(),
            "prefix_sha256": sha256(sealed[: task.upload_header.prefix_bytes]).hex(),
            "weight": min(answer.arrival.weight, _MAX_WEIGHT),
            "metrics": {},
            **({"private_steps": answer.trained.private_steps} if private else {}),
        }

    def _sent(self, round_: Round) -> tuple[str, ...]:
        """Who counts, and who counted until the fold found what it sent; under privacy it is read before."""
        if self._terms.privacy.terms is not None:
            return tuple(round_.counted)
        unfit = [member for member, reason in round_.lost.items() if reason is Reason.NON_FINITE]
        return (*round_.counted, *unfit)

    def _abandoned(self, number: int) -> Reason:
        told = [event for event in self._net.outcomes("round-abandoned") if event["round"] == number]
        return _BY_CODE[told[-1]["reason"]]
