"""Exchange after exchange, as the app's own server asks for them (docs/server-apps.md). Trust zone: aggregator TEE.

Rules:

1. What the app's server asks for in its turns (:mod:`turns`) is done when it can be, in this order.
2. An exchange is a round in all but who chooses: the app's server names the members, this side opens, collects and
   closes it, by the rules of rounds and their waiting. One is open at a time.
3. Nothing of an answer reaches the app's server before a quorum has witnessed whose answers count.
4. Fewer answers than the plan's minimum, or than all where fewer were asked, reach it never; three such exchanges in a
   row end the run.
5. Answers stay sealed at the host until they are asked for, one by one, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

import numpy as np

from coordinator.enclave.answers import Answers
from coordinator.enclave.attendance import Attendance
from coordinator.enclave.course import Course
from coordinator.enclave.disclosure import disclosed_round
from coordinator.enclave.fold import ContributionLost
from coordinator.enclave.record import RunRecord, SealedVector
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from coordinator.enclave.sampling import expect_upload
from coordinator.enclave.server_app.asks import (
    Ask,
    Collect,
    Failed,
    Finished,
    Here,
    NodeId,
    Nodes,
    Offer,
    Offered,
    Pull,
    Reply,
    Send,
    Sent,
)
from coordinator.enclave.server_app.ended import EndedExchanges
from coordinator.enclave.server_app.nodes import members_by_node, node_of
from coordinator.enclave.server_app.offered import OfferedMessages
from coordinator.enclave.server_app.replies import Replies, Told
from coordinator.enclave.server_app.turns import Turns
from trusted.blob import BlobKind
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import Reason
from trusted.ledger import leaves
from trusted.wire import Fields

MAX_ABANDONED_IN_A_ROW = 3


class Exchanges:
    """The exchanges of one run, in which ``turns`` says what the app's server asks."""

    def __init__(self, course: Course, turns: Turns, answers: Answers, attendance: Attendance) -> None:
        self._course = course
        self._turns = turns
        self._answers = answers
        self._attendance = attendance
        self._replies = Replies(answers, course.store, course.plan, answers.proceed)
        self._busy = self._over = False
        self._messages = OfferedMessages()
        self._ended = EndedExchanges()
        self._heard: set[str] = set()
        self.current: Round | None = None

    # --- how it goes on --------------------------------------------------------------------------------------------

    def proceed(self, now: datetime, *, paused: bool = False) -> None:
        """Do whatever can be done now; while ``paused`` no exchange opens, and the app's server is not hurried."""
        self._attendance.note_missing(now)
        if self._over:
            return
        if self._is_busy:
            self._tell_waiting()
            return
        if self.current is not None:
            self._wait_on(self.current, now)
        ask = self._turns.ask
        if ask is not None and not self._is_busy and not self._over:
            if paused:
                self._turns.wait(now)
            self._serve(ask, now, paused=paused)
        elif not self._turns.has_begun and not paused:
            self._begin_when_gathered(now)

    @property
    def _is_busy(self) -> bool:
        return self._busy or self._turns.is_busy

    def _tell_waiting(self) -> None:
        """An exchange that is closed waits for its witnesses."""
        missing = self._course.require_journal().waiting_for_witnesses
        if self.current is not None and self.current.state is RoundState.CLOSED and missing:
            self._course.wait_for(missing, "witnesses")

    def _begin_when_gathered(self, now: datetime) -> None:
        course = self._course
        if course.model is None:
            self._attendance.forget_missing()
            return
        if not course.require_journal().is_held and self._attendance.gathered(now) is not None:
            self._turns.begin(now)

    def _serve(self, ask: Ask, now: datetime, *, paused: bool) -> None:
        """Do what is asked, if it can be done now; else it is looked at again."""
        match ask:
            case Nodes():
                self._tell_nodes(now)
            case Offer(content):
                if self._may_open(now, paused=paused):
                    self._seal(content, now)
            case Send():
                self._send(ask, now)
            case Collect(exchange):
                self._collect(exchange, now)
            case Pull(exchange, node):
                self._pull(exchange, node, now)
            case Finished(model):
                if self.current is None:
                    self._turns.finish(model, now, heard=len(self._heard), left=self._left_behind())
            case Failed(reason):
                self._turns.fail(reason, now)

    # --- who is there ----------------------------------------------------------------------------------------------

    def node(self, member: str) -> NodeId:
        """The number of ``member`` for the app's server."""
        return node_of(self._course.seed, member)

    def _tell_nodes(self, now: datetime) -> None:
        course, present = self._course, self._attendance.present
        if len(present) >= course.plan.cohort.minimum and not course.require_journal().is_held:
            course.moves()
            self._turns.give(Here(tuple(sorted(map(self.node, present)))), now)
            return
        course.wait_for(set(course.plan.cohort.members) - present, "members")
        if self._turns.is_late(now):
            self._turns.fail(Reason.COHORT_MINIMUM, now)

    # --- opening ---------------------------------------------------------------------------------------------------

    def _may_open(self, now: datetime, *, paused: bool) -> bool:
        course = self._course
        if paused or self.current is not None or course.require_journal().is_held:
            return False
        if course.attempts >= course.plan.aggregation.max_exchanges:
            self._turns.fail(Reason.SERVER_APP_LIMIT, now)
            return False
        if len(self._messages.offered) >= len(course.plan.cohort.members):
            self._turns.fail(Reason.SERVER_APP_LIMIT, now)
            return False
        return True

    def _seal(self, content: bytes, now: datetime) -> None:
        course, number = self._course, self._course.attempts + 1
        if len(content) != course.plan.aggregation.message_bytes:
            self._turns.fail(Reason.MESSAGE_SIZE, now)
            return
        self._busy = True

        def sealed(made: tuple[SealedVector, bytes], later: datetime) -> None:
            self._busy = False
            if self._over:
                course.discard([made[0].blob])
                return
            self._messages.offered.append(made)
            self._turns.give(Offered(len(self._messages.offered) - 1), later)

        words = np.frombuffer(content, dtype="<f4")
        course.jobs.submit(lambda: course.sealer.seal(BlobKind.MESSAGE, number, words), sealed, now)

    def _send(self, ask: Send, now: datetime) -> None:
        course, messages = self._course, self._messages
        members = members_by_node(course.seed, course.plan.cohort.members)
        known = all(node in members and 0 <= place < len(messages.offered) for node, place in ask.to)
        if not known or not ask.to or len({node for node, _ in ask.to}) != len(ask.to) or self.current is not None:
            self._turns.fail(Reason.SERVER_APP_FAILED, now)
            return
        messages.to = {members[node]: place for node, place in ask.to}
        course.attempts += 1
        course.moves()
        number, cohort = course.attempts, tuple(sorted(messages.to))
        limit_s = min(ask.timeout_s or course.plan.deadlines.round_s, course.plan.deadlines.round_s)
        minimum = min(course.plan.cohort.minimum, len(cohort))
        opened = Round(number, cohort, minimum, now + timedelta(seconds=max(limit_s, 1.0)))
        opened.advance(RoundEvent.ANNOUNCED)
        present = tuple(sorted(self._attendance.present | set(cohort)))
        journal = course.require_journal()
        journal.append(leaves.Opened(number, present, cohort, messages.prefix_sha256()))
        self._busy = True
        record, spent = self._turns.record(number, cohort), course.take_spent()
        stored = partial(self._announce, opened)
        journal.keep(record, now, stored=stored, spent=spent, urgent=course.is_large(spent))

    def _announce(self, opened: Round, now: datetime) -> None:
        self._busy = False
        if self._over:
            return
        course, self.current = self._course, opened
        size = course.exchanged.header(BlobKind.MESSAGE, opened.number, "").sealed_bytes
        course.emit("round-opened", round=opened.number, waiting_for=list(opened.waiting_for), bytes=size)
        self._attendance.opened(opened)
        for member in opened.cohort:
            self._send_message(opened, member, now)
        self._attendance.part_again(opened)
        self._turns.give(Sent(opened.number), now)

    def _send_message(self, current: Round, member: str, now: datetime) -> None:
        course, upload = self._course, expect_upload(self._course, current, member, BlobKind.REPLY)
        if upload is None:
            return  # it is sent when it comes
        self._attendance.begin(member, now)
        message = {
            "type": "message",
            "round": current.number,
            "node": self.node(member),
            "message": course.sealer.announce(self._messages.of(member)).to_json(),
            "upload": upload,
        }
        course.admissions.send(member, message)

    # --- collecting and closing ------------------------------------------------------------------------------------

    def _wait_on(self, current: Round, now: datetime) -> None:
        self._attendance.lose(current, now)
        current.settle(now)
        if current.state is RoundState.CLOSED and current.unread:
            self._look_at_rest(current, now)
        elif current.state is RoundState.CLOSED:
            self._close(current, now)
        elif current.state is RoundState.ABANDONED:
            self._abandon(current, now)

    def _look_at_rest(self, current: Round, now: datetime) -> None:
        """What was not read while it collected is read now: only then it is known whose answers count."""
        self._busy = True
        unread = {member: current.counted[member] for member in sorted(current.unread)}

        def look() -> dict[str, Told | Reason]:
            return {member: self._replies.look(contribution) for member, contribution in unread.items()}

        def looked(found: dict[str, Told | Reason], later: datetime) -> None:
            self._busy = False
            if self._over:
                return
            lost = self._replies.settle(current, found)
            for member, reason in lost.items():
                self._answers.tell(member, current.number, reason)
            if lost:
                current.exclude(lost)
            self._wait_on(current, later)
            self._answers.proceed(later)

        self._course.jobs.submit(look, looked, now)

    def _close(self, closed: Round, now: datetime) -> None:
        """Have it witnessed whose answers count; only then the app's server is told."""
        journal = self._course.require_journal()
        self._busy = True
        counted = [
            leaves.Counted(closed.number, member, contribution.prefix_sha256 or b"")
            for member, contribution in sorted(closed.counted.items())
        ]
        places = {leaf: journal.append(leaf) for leaf in counted}
        lost = [leaves.Lost(member, reason) for member, reason in sorted(closed.lost.items())]
        journal.append(leaves.Closed(closed.number, tuple(leaf.member for leaf in counted), tuple(lost)))
        record = self._turns.record(closed.number, closed.cohort)
        journal.commit(record, now, then=lambda later: self._give(closed, places, later))

    def _give(self, closed: Round, places: Mapping[leaves.Counted, int], now: datetime) -> None:
        self._busy = False
        if self._over:
            return
        course, journal = self._course, self._course.require_journal()
        closed.advance(RoundEvent.FOLDED)
        closed.advance(RoundEvent.COMMITTED)
        course.abandoned_in_a_row = 0
        journal.append(leaves.Committed(closed.number))
        course.history.committed(closed)
        self._heard |= set(closed.counted)
        found = disclosed_round(course.plan, closed)
        told = {"metrics": found.told} | ({"withheld": found.refused} if found.withheld else {})
        course.emit("round-committed", round=closed.number, outcome=str(course.history.rounds), **told)
        self._end_exchange(closed, closed.lost)
        for leaf, index in places.items():
            journal.prove(leaf.member, leaf, index)
        self._answers.proceed(now)

    def _abandon(self, ended: Round, now: datetime) -> None:
        course = self._course
        course.abandoned_in_a_row += 1
        course.require_journal().append(leaves.Abandoned(ended.number, Reason.COHORT_MINIMUM))
        course.emit("round-abandoned", round=ended.number, reason=Reason.COHORT_MINIMUM.code)
        kept_back = dict.fromkeys(ended.counted, Reason.COHORT_MINIMUM)
        ended.counted.clear()
        self._end_exchange(ended, ended.lost | kept_back)
        if course.abandoned_in_a_row >= MAX_ABANDONED_IN_A_ROW:
            self._turns.fail(Reason.COHORT_MINIMUM, now)

    def _end_exchange(self, ended: Round, lost: Mapping[str, Reason]) -> None:
        course, answers = self._course, {self.node(member): entry for member, entry in ended.counted.items()}
        wanted = {entry.blob for entry in answers.values()}
        course.spent += [*self._messages.blobs, *(blob for blob in ended.uploads.values() if blob not in wanted)]
        course.moves()
        self._messages, self.current = OfferedMessages(), None
        self._ended.keep(ended.number, answers, {self.node(member): reason for member, reason in lost.items()})

    # --- giving ----------------------------------------------------------------------------------------------------

    def _collect(self, exchange: int, now: datetime) -> None:
        collected = self._ended.collect(exchange)
        if collected is not None:
            self._turns.give(collected, now)
        elif self.current is None or self.current.number != exchange:
            self._turns.fail(Reason.SERVER_APP_FAILED, now)

    def _pull(self, exchange: int, node: NodeId, now: datetime) -> None:
        course, contribution = self._course, self._ended.take(exchange, node)
        if contribution is None:
            self._turns.fail(Reason.SERVER_APP_FAILED, now)
            return
        self._busy = True

        def read() -> bytes | None:
            try:
                return bytes(self._replies.read(contribution))
            except ContributionLost:
                return None

        def was_read(content: bytes | None, later: datetime) -> None:
            self._busy = False
            course.spent.append(contribution.blob)
            if not self._over:
                self._turns.give(Reply(content), later)

        course.jobs.submit(read, was_read, now)

    # --- the end ---------------------------------------------------------------------------------------------------

    def resume(self, record: RunRecord, now: datetime) -> None:
        """An earlier aggregator left the run at ``record``."""
        self._turns.resume(record, now)

    def end(self) -> tuple[bytes, ...]:
        """Open nothing any more; the blobs that nobody needs now."""
        self._over = True
        uploads = () if self.current is None else tuple(self.current.uploads.values())
        return (*self._turns.end(), *uploads, *self._left_behind())

    def _left_behind(self) -> tuple[bytes, ...]:
        return (*self._messages.blobs, *self._ended.blobs)

    # --- what members say, and the clock ---------------------------------------------------------------------------

    def reply(self, peer: AdmittedPeer, fields: Fields, now: datetime) -> None:
        """``peer`` says that it has answered."""
        self._replies.take(peer, fields, self.current, now)

    def welcome(self, member: str, now: datetime) -> None:
        """Give ``member``, which has just come, the message that it may still have to answer."""
        if self._attendance.welcome(self.current, member) and self.current is not None:
            self._send_message(self.current, member, now)
