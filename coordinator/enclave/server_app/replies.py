"""What members answer an app's server: counted, read, kept sealed at the host until it is asked for.

Trust zone: aggregator TEE. No clock. Rules: a fault in an answer costs its sender that answer, and nobody else
anything. An answer is read whole once while the exchange collects, and thrown away; what the app is given later is read
again, and is the same bytes under the same prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from coordinator.enclave.answers import Answers
from coordinator.enclave.disclosure import parse_metrics
from coordinator.enclave.fold import Contribution, ContributionLost, Opened, in_reads
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.rounds import Round, RoundState
from trusted.apps.messages import AppMessage, RecordKind
from trusted.blob import BlobKind, ContentKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.documents.plan import Plan
from trusted.errors import AppError, Reason, RoundError
from trusted.wire import Fields

_DIGEST_BYTES = 32
_EXAMPLES = "num-examples"


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says for the plan's own list of metrics: how many rows it stands on, and numbers by name."""

    rows: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Replies:
    """The counter at which they arrive. ``proceed`` is called when one was read in the background."""

    answers: Answers
    store: HostStore
    plan: Plan
    proceed: Callable[[datetime], None] = field(repr=False)

    def take(self, peer: AdmittedPeer, fields: Fields, current: Round | None, now: datetime) -> None:
        """Count an answer in ``current`` and read it, or refuse it and say why; the exchange goes on either way."""
        number = fields.integer("round", low=1, high=1 << 31)
        blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
        prefix_sha256 = fields.octets("prefix_sha256", _DIGEST_BYTES)
        try:
            exchange = _require_exchange(current, peer.member, number, blob)
        except RoundError as error:
            if current is not None and current.number == number and error.reason is not Reason.DUPLICATE:
                current.lose(peer.member, error.reason)
            self.answers.tell(peer.member, number, error.reason)
            return
        header = self.answers.exchanged.header(BlobKind.REPLY, number, peer.member)
        contribution = Contribution(peer.member, 1, blob, header, key, peer.verify_key, prefix_sha256)
        exchange.count(contribution, {})
        self._read_later(exchange, contribution, now)

    def settle(self, current: Round, found: Mapping[str, Told | Reason]) -> dict[str, Reason]:
        """Note what reading gave; the members whose answers do not count after all, and why."""
        lost = {}
        for member, told in found.items():
            if isinstance(told, Reason):
                lost[member] = told
            else:
                current.counted[member] = replace(current.counted[member], weight=told.rows)
                current.metrics[member] = told.metrics
                current.found_good(member)
                self.answers.tell(member, current.number, None)
        return lost

    def look(self, contribution: Contribution) -> Told | Reason:
        """Read an answer whole: complete, authentic, and a message; else what is wrong with it."""
        try:
            return _told(AppMessage.parse(self.read(contribution)), self.plan)
        except ContributionLost as lost:
            return lost.error.reason
        except AppError as error:
            return error.reason

    def read(self, contribution: Contribution) -> memoryview:
        """The bytes of an answer, all of them.

        Raises:
            ContributionLost: the host does not hold it as it was sealed.
        """
        header = contribution.header
        content = np.empty(header.elements, dtype="<u4")
        scratch = np.empty(min(header.elements, header.encoding.piece_elements), dtype="<f4")
        opened = Opened(contribution, self.store)
        for pieces in in_reads(header):
            for piece, words in opened.open_each(pieces, scratch, bounded=False):
                content[piece.start : piece.start + piece.elements] = words.view("<u4")
        return content.data.cast("B")

    def _read_later(self, current: Round, contribution: Contribution, now: datetime) -> None:
        member = contribution.member

        def look() -> Told | Reason | None:
            return self.look(contribution) if current.state is RoundState.COLLECTING else None

        def looked(told: Told | Reason | None, later: datetime) -> None:
            if told is not None and current.state is RoundState.COLLECTING and member in current.unread:
                for lost, reason in self.settle(current, {member: told}).items():
                    current.found_bad(lost, reason)
                    self.answers.tell(lost, current.number, reason)
            self.proceed(later)

        self.answers.jobs.submit_later(look, looked, now)


def _require_exchange(current: Round | None, member: str, number: int, blob: bytes) -> Round:
    if current is None:
        raise RoundError(Reason.ROUND_CLOSED, "reply: no exchange is open")
    current.require_accepts(member, number)
    if current.uploads.get(member) != blob:
        raise RoundError(Reason.ROUND_STATE, "reply.blob: not the one that this member was given")
    return current


def _told(message: AppMessage, plan: Plan) -> Told:
    """The numbers of the plan's list in any record of metrics; what is no finite number is not among them."""
    said: dict[str, Any] = {}
    for record in message.records:
        if record.kind is RecordKind.METRICS:
            said |= record.values
    rows = said.get(_EXAMPLES)
    counts = isinstance(rows, int) and 1 <= rows <= plan.aggregation.max_weight
    found: dict[str, float] = {}
    for name in sorted({rule.name for rule in plan.metrics} & set(said)) if counts else ():
        try:
            found |= parse_metrics({name: said[name]}, plan)
        except RoundError:
            continue  # its own server may want it all the same
    return Told(int(rows) if isinstance(rows, int) and counts else 1, found)
