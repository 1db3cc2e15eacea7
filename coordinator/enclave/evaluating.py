"""The final model is judged where the data are, once, before it is released (docs/evaluation.md).

Trust zone: aggregator TEE. No I/O, no clock. Rules:

1. It begins when the last round is committed. Every member of the cohort is asked that is there, or comes while others
   still answer; who is gone or stands still for a lease is waited for no longer, as in a round.
2. Each answers once. What is wrong with an answer costs its sender that answer, and nobody else anything.
3. It ends when everybody who is waited for has answered, or at the deadline of a round. With too few answers there is
   a card all the same: it says so.
4. Nothing of it leaves before the state that holds the card is witnessed (:mod:`ending`): an aggregator that dies
   before is followed by one that asks again, one that dies after by one that tells the same card. So no host gets two
   cards of one run, to subtract one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, unique

from coordinator.enclave.card import Answer, Answered, make_card
from coordinator.enclave.course import Course
from coordinator.enclave.disclosure import Report, parse_metrics
from coordinator.enclave.judging import AUDITS
from coordinator.enclave.record import SealedVector
from coordinator.enclave.vigil import Sign, Vigil
from trusted.blob import BlobKind
from trusted.channel.aggregator import AdmittedPeer
from trusted.documents.plan import initial_digest
from trusted.documents.terms import MAX_WEIGHT, Evaluation
from trusted.errors import Reason, RoundError
from trusted.tables import Tables
from trusted.wire import Fields

_MAX_ROUND = 1 << 31
_NAMED = ("scores", *AUDITS)


@unique
class EvaluationState(Enum):
    """Where the evaluation stands."""

    IDLE = "idle"
    SEALING = "sealing"
    COLLECTING = "collecting"
    FOLDING = "folding"
    DONE = "done"


@unique
class EvaluationEvent(Enum):
    """What may happen to it."""

    BEGUN = "begun"
    ANNOUNCED = "announced"
    ANSWERED = "answered"
    SETTLED = "settled"
    FOLDED = "folded"
    RUN_ENDED = "run ended"


TABLE: Mapping[tuple[EvaluationState, EvaluationEvent], EvaluationState] = {
    (EvaluationState.IDLE, EvaluationEvent.BEGUN): EvaluationState.SEALING,
    (EvaluationState.SEALING, EvaluationEvent.ANNOUNCED): EvaluationState.COLLECTING,
    (EvaluationState.COLLECTING, EvaluationEvent.ANSWERED): EvaluationState.COLLECTING,
    (EvaluationState.COLLECTING, EvaluationEvent.SETTLED): EvaluationState.FOLDING,
    (EvaluationState.FOLDING, EvaluationEvent.FOLDED): EvaluationState.DONE,
    **{(state, EvaluationEvent.RUN_ENDED): EvaluationState.DONE for state in EvaluationState},
}


@dataclass(frozen=True, slots=True)
class _Final:
    """The final model at the host, and its digest as the release will name it."""

    sealed: SealedVector
    model_sha256: bytes


@dataclass(slots=True)
class Evaluating:
    """Judges the model of ``course``, once; ``done`` is told when ``course.card`` is there.

    ``missing_since`` says since when an absent member has been gone.
    """

    course: Course
    missing_since: Callable[[str, datetime], datetime]
    done: Callable[[datetime], None]
    state: EvaluationState = EvaluationState.IDLE
    _final: _Final | None = None
    _deadline: datetime | None = None
    _answers: dict[str, Answer] = field(default_factory=dict)
    _lost: dict[str, Reason] = field(default_factory=dict)
    _away: dict[str, Reason] = field(default_factory=dict)
    _peers: dict[str, AdmittedPeer] = field(default_factory=dict)
    _absent_since: dict[str, datetime] = field(default_factory=dict)
    _vigil: Vigil = field(init=False)

    def __post_init__(self) -> None:
        self._vigil = Vigil(self.course.lease)

    @property
    def is_open(self) -> bool:
        """Whether members are asked."""
        return self.state is EvaluationState.COLLECTING

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Members that have not answered, and are not away."""
        settled = set(self._answers) | set(self._lost) | set(self._away)
        return tuple(sorted(set(self.course.plan.cohort.members) - settled))

    def advance(self, event: EvaluationEvent) -> None:
        """Follow the table.

        Raises:
            RoundError: EVALUATION_STATE: the pair is not in it.
        """
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            detail = f"evaluation: {event.name} does not belong in state {self.state.name}"
            raise RoundError(Reason.EVALUATION_STATE, detail) from None

    # --- how it goes on --------------------------------------------------------------------------------------------

    def begin(self, now: datetime) -> None:
        """Seal the final model for the members, and ask them."""
        course = self.course
        self.advance(EvaluationEvent.BEGUN)
        vector, number = course.require_model().vector, course.attempts

        def seal() -> _Final:
            whole = vector
            if course.base is not None:
                course.exchanged.put_into(course.base, vector)
                whole = course.base
            digest = initial_digest(course.plan.layout, whole.data.cast("B"))
            return _Final(course.sealer.seal(BlobKind.FINAL, number, vector)[0], digest)

        course.jobs.submit(seal, self._announce, now)

    def _announce(self, final: _Final, now: datetime) -> None:
        course = self.course
        if self.state is EvaluationState.DONE:
            course.discard([final.sealed.blob])
            return
        self.advance(EvaluationEvent.ANNOUNCED)
        self._final, self._deadline = final, now + timedelta(seconds=course.plan.deadlines.round_s)
        course.emit("evaluation-opened", round=course.attempts, waiting_for=list(self.waiting_for))
        for member in tuple(course.witnesses.promised):
            self.welcome(member, now)
        self.proceed(now)

    def welcome(self, member: str, now: datetime) -> None:
        """Ask ``member``, which is here, unless it has answered."""
        course, peer = self.course, self.course.admissions.peer(member)
        if not self.is_open or self._final is None or peer is None or member in self._answers or member in self._lost:
            return
        self._away.pop(member, None)
        self._vigil.begin(member, now)
        announced = course.sealer.announce(self._final.sealed).to_json()
        task = {"type": "evaluate", "round": course.attempts, "model": announced}
        if course.base_sealed is not None:
            task["base"] = course.sealer.announce(course.base_sealed).to_json()
        course.admissions.send(member, task)

    def hear(self, member: str, sign: Sign) -> None:
        """``member`` tells of its work: it may be one that is waited for again."""
        earlier = self._vigil.last(member)
        if earlier is None or (earlier.stage, earlier.percent) != (sign.stage, sign.percent):
            self.course.emit("progress", member=member, round=self.course.attempts, outcome=sign.outcome)
        self._vigil.hear(member, sign)
        if self._away.get(member) is Reason.MEMBER_SILENT:
            del self._away[member]

    def part(self, member: str, reason: Reason) -> None:
        """``member`` says that it goes: for now, or for good."""
        if self.is_open and member in self.waiting_for:
            if reason is Reason.SITE_WITHDRAWS:
                self._lose(member, reason)
            else:
                self._away[member] = reason

    def proceed(self, now: datetime) -> None:
        """End it, if nothing more is to be waited for."""
        if not self.is_open or self._deadline is None:
            return
        self._note_away(now)
        needed, answered = self._terms.min_sites, len(self._answers)
        may_suffice = answered < needed <= answered + len(self._away)
        if (self.waiting_for or may_suffice) and now < self._deadline:
            self.course.wait_for(self.waiting_for or self._away, "evaluation")
            return
        self._lost |= self._away | dict.fromkeys(self.waiting_for, Reason.ROUND_DEADLINE)
        self.course.moves()
        self.advance(EvaluationEvent.SETTLED)
        self._fold(now)

    def end(self) -> tuple[bytes, ...]:
        """The run is over: ask nobody any more; the blob that nobody needs now."""
        left = () if self._final is None or self.state is EvaluationState.DONE else (self._final.sealed.blob,)
        self.advance(EvaluationEvent.RUN_ENDED)
        return left

    # --- what members answer ---------------------------------------------------------------------------------------

    def take(self, peer: AdmittedPeer, fields: Fields) -> None:
        """Count an answer, or refuse it and say why. Its sender may be lying about all of it.

        Raises:
            WireError: not a message of docs/protocol.md §5.
        """
        number = fields.integer("round", low=1, high=_MAX_ROUND)
        rows, claimed = fields.integer("rows", low=0, high=1 << 53), dict(fields.mapping("metrics"))
        tables, reasons = fields.take("tables", str, type(None)), _reasons(fields.mapping("reasons"))
        course, limit = self.course, self.course.plan.aggregation.max_weight
        if course.plan.privacy.terms is not None:  # updates count alike then, whatever rows there are
            limit = MAX_WEIGHT
        try:
            if not self.is_open or number != course.attempts or peer.member not in course.plan.cohort.members:
                raise RoundError(Reason.EVALUATION_STATE, "evaluated: no such evaluation is open")
            if peer.member in self._answers or peer.member in self._lost:
                raise RoundError(Reason.DUPLICATE, "evaluated: its sender has answered already")
            if rows > limit:
                raise RoundError(Reason.WEIGHT, "evaluated.rows: at most plan.aggregation.max_weight expected")
            report = Report(rows, parse_metrics(claimed, course.plan))
            counts = None if tables is None else Tables.decode(_octets(tables), self._terms, max_rows=int(limit))
        except RoundError as error:
            self._refuse(peer.member, number, error.reason)
            return
        self.advance(EvaluationEvent.ANSWERED)
        self._answers[peer.member] = Answer(counts, report, reasons)
        self._peers[peer.member] = peer
        self._away.pop(peer.member, None)
        course.emit("judged", round=number, member=peer.member, outcome="counted")

    def failed(self, member: str, fields: Fields) -> None:
        """``member`` says that it cannot answer, and why."""
        fields.integer("round", low=0, high=_MAX_ROUND)
        (reason,) = _reasons({"scores": fields.integer("reason", low=0, high=1 << 16)}).values()
        if member in self.waiting_for or member in self._away:
            self._lose(member, reason)

    def _refuse(self, member: str, number: int, reason: Reason) -> None:
        if self.is_open and reason not in (Reason.DUPLICATE, Reason.EVALUATION_STATE):
            self._lose(member, reason, outcome="refused")
        self.course.admissions.send(member, {"type": "receipt", "round": number, "reason": int(reason)})

    def _lose(self, member: str, reason: Reason, *, outcome: str = "failed") -> None:
        self.advance(EvaluationEvent.ANSWERED)
        self._lost[member] = reason
        self._away.pop(member, None)
        number = self.course.attempts
        self.course.emit("not-judged", round=number, member=member, outcome=outcome, reason=reason.code)

    def _note_away(self, now: datetime) -> None:
        """Who has been gone, or here and without a sign of work, for a lease is waited for no longer."""
        course, waited = self.course, set(self.waiting_for)
        gone = waited - set(course.admissions.members)
        self._absent_since = {
            member: self._absent_since.get(member) or self.missing_since(member, now) for member in gone
        }
        for member, since in self._absent_since.items():
            if now - since >= course.lease:
                self._away[member] = Reason.LEASE_EXPIRED
        for member in self._vigil.lost(waited - gone, now):
            self._away[member] = Reason.MEMBER_SILENT

    # --- folding ---------------------------------------------------------------------------------------------------

    @property
    def _terms(self) -> Evaluation:
        terms = self.course.plan.evaluation
        if terms is None:
            raise RuntimeError("an evaluation that the plan does not ask for")
        return terms

    def _fold(self, now: datetime) -> None:
        course, final = self.course, self._final
        if final is None:
            raise RuntimeError("an evaluation without a model")
        admitted = {member: course.admissions.peer(member) for member in course.plan.cohort.members}
        here = {member: peer for member, peer in admitted.items() if peer is not None}
        found = Answered(dict(self._answers), dict(self._lost), here | self._peers)
        federation, history = course.admissions.federation, course.history

        def folded(card: bytes, later: datetime) -> None:
            if self.state is EvaluationState.DONE:
                return
            self.advance(EvaluationEvent.FOLDED)
            course.card = card
            course.spent.append(final.sealed.blob)
            course.emit("evaluated", round=course.attempts, outcome=str(len(found.answers)))
            self.done(later)

        spent = None if course.privacy is None else course.privacy.leaf()
        course.jobs.submit(lambda: make_card(federation, history, final.model_sha256, found, spent), folded, now)


def _reasons(value: Mapping[str, object]) -> dict[str, Reason]:
    """Why a site could not do something, by name; it may be lying, but only by reasons that exist."""
    found: dict[str, Reason] = {}
    with Fields(dict(value), "evaluated.reasons") as fields:
        for name in fields.names():
            number = fields.integer(name, low=0, high=1 << 16)
            if name not in _NAMED or number not in Reason._value2member_map_:
                raise RoundError(Reason.MALFORMED, "evaluated.reasons: no such reason")
            found[name] = Reason(number)
    return found


def _octets(text: str) -> bytes:
    with Fields({"tables": text}, "evaluated") as fields:
        return fields.octets("tables")
