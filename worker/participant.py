"""What a worker does with the aggregator's messages, as a state machine without I/O (docs/protocol.md §5).

Trust zone: worker TEE. The aggregator is attested and still bounded: this worker never trains for another plan, never
more rounds than the plan and its site allow, and never uploads anything but one update of the plan's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trusted.blob import BlobHeader, BlobKind, ContentKey
from trusted.channel.federation import Federation
from trusted.documents.site_policy import EffectiveRule
from trusted.errors import ChannelError, DocumentError, Reason, RoundError
from trusted.exchange import AGGREGATOR, Announcement, Exchanged
from trusted.wire import Fields, sha256
from worker.memory import Included, Memory

_ATTEMPTS_PER_ROUND = 3  # an abandoned round is tried again under a new number, at most so often


@dataclass(frozen=True, slots=True)
class SendInitial:
    """Seal the initial model that this site holds, and upload it under ``blob``."""

    blob: bytes
    header: BlobHeader


@dataclass(frozen=True, slots=True)
class AnnouncedBlob:
    """A blob that an aggregator sealed: where it lies, what opens it, what it must be, and who signed it."""

    blob: bytes
    key: ContentKey = field(repr=False)
    header: BlobHeader
    signer: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Fetch the model, train on this site's data, seal the update, upload it under ``upload``.

    ``base`` is the whole initial model, where the plan exchanges only a part of it.
    """

    round: int
    model: AnnouncedBlob
    base: AnnouncedBlob | None
    upload: bytes
    upload_header: BlobHeader

    @property
    def model_blob(self) -> bytes:
        """Where the model lies."""
        return self.model.blob

    @property
    def model_key(self) -> ContentKey:
        """What opens it."""
        return self.model.key

    @property
    def model_header(self) -> BlobHeader:
        """What it must be."""
        return self.model.header


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Fetch the final model and judge it on this site's data; ``base`` as of :class:`Train`."""

    round: int
    model: AnnouncedBlob
    base: AnnouncedBlob | None


@dataclass(frozen=True, slots=True)
class Respond:
    """Fetch a message of the app's own server, let the app answer it as ``node``, seal and upload that."""

    round: int
    node: int
    model: AnnouncedBlob
    upload: bytes
    upload_header: BlobHeader
    base: AnnouncedBlob | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The aggregator counted this site's update, or refused it and says why."""

    round: int
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Closed:
    """The run is over."""

    outcome: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Say this: a promise, or a cosignature, which is remembered already; with whatever is said next, if not urgent."""

    message: dict[str, Any] = field(repr=False)
    urgent: bool = True


Action = SendInitial | Train | Evaluate | Respond | Receipt | Answer | Included | Closed
_KINDS = ("epoch", "witness", "included", "send-initial", "task", "message", "evaluate", "receipt", "closed")
_TASKS = ("send-initial", "task", "message", "evaluate")


class Participant:
    """One site's part in one run; it outlives sessions, and its ``memory`` may outlive this process."""

    def __init__(self, federation: Federation, rule: EffectiveRule, memory: Memory) -> None:
        self._exchanged = Exchanged.of(federation.plan)
        self._evaluates = federation.plan.document.evaluation is not None
        self._rule = rule
        self._memory = memory
        self._last_round = 0

    def ready(self, *, has_initial: bool) -> dict[str, Any]:
        """The first message of a session."""
        return {"type": "ready", "has_initial": has_initial, "promised": self._memory.greeting()}

    def take(self, message: dict[str, Any], now: datetime) -> Action:
        """What ``message`` asks for, ``now``.

        Raises:
            WireError, ChannelError, RoundError: not a message of §5, or more than this site agreed to.
        """
        with Fields(message, "message") as fields:
            kind = fields.choice("type", _KINDS)
            if kind == "epoch":
                return Answer(self._memory.promise(fields))
            if kind == "witness":
                urgent = fields.boolean("urgent")
                return Answer(self._memory.witness(fields, now), urgent)
            if kind == "included":
                return self._memory.require_included(fields)
            if kind in _TASKS:
                self._require_allowed(now)
                if kind == "evaluate":
                    return self._evaluate(fields)
                if kind == "message":
                    return self._respond(fields)
                return self._send_initial(fields) if kind == "send-initial" else self._train(fields)
            if kind == "receipt":
                return Receipt(fields.integer("round", low=1, high=1 << 31), _reason(fields))
            outcome = fields.choice("outcome", ("finished", "stopped", "abandoned"))
            return Closed(outcome, fields.integer("rounds", low=0, high=1 << 31))

    def _require_allowed(self, now: datetime) -> None:
        if now > self._rule.not_after:
            raise DocumentError(Reason.SITE_REFUSES, "site_policy.not_after: this site's consent has ended")

    def _send_initial(self, fields: Fields) -> SendInitial:
        header = self._exchanged.header(BlobKind.INITIAL, 0, self._rule.member)
        self._require_size(fields, header)
        return SendInitial(fields.octets("blob", 16), header)

    def _train(self, fields: Fields) -> Train:
        number = fields.integer("round", low=1, high=1 << 31)
        if self._rule.exchanges or not self._last_round <= number <= self._most_rounds:
            raise RoundError(Reason.SITE_REFUSES, "task.round: goes back, or beyond what plan and site allow")
        upload_header = self._exchanged.header(BlobKind.UPDATE, number, self._rule.member)
        model = self._announced(fields, "model", self._exchanged.header(BlobKind.MODEL, number, AGGREGATOR))
        base = None
        if self._exchanged.is_partial:
            base = self._announced(fields, "base", self._exchanged.header(BlobKind.BASE, 0, AGGREGATOR))
        with Fields(fields.mapping("upload"), "task.upload") as upload:
            self._require_size(upload, upload_header)
            upload_blob = upload.octets("blob", 16)
        self._last_round = number
        return Train(number, model, base, upload_blob, upload_header)

    @property
    def _most_rounds(self) -> int:
        return self._rule.exchanges or _ATTEMPTS_PER_ROUND * self._rule.rounds

    def _respond(self, fields: Fields) -> Respond:
        number = fields.integer("round", low=1, high=1 << 31)
        if not self._last_round <= number <= self._rule.exchanges:  # 0 where plan or site allow none
            raise RoundError(Reason.SITE_REFUSES, "message.round: goes back, or beyond what plan and site allow")
        node = fields.integer("node", low=2, high=(1 << 53) - 1)
        header = self._exchanged.header(BlobKind.REPLY, number, self._rule.member)
        announced = self._announced(fields, "message", self._exchanged.header(BlobKind.MESSAGE, number, AGGREGATOR))
        with Fields(fields.mapping("upload"), "message.upload") as upload:
            self._require_size(upload, header)
            blob = upload.octets("blob", 16)
        self._last_round = number
        return Respond(number, node, announced, blob, header)

    def _evaluate(self, fields: Fields) -> Evaluate:
        number = fields.integer("round", low=1, high=1 << 31)
        if not self._evaluates or not self._last_round <= number <= self._most_rounds:
            raise RoundError(Reason.SITE_REFUSES, "evaluate: the plan has no evaluation, or not of this round")
        model = self._announced(fields, "model", self._exchanged.header(BlobKind.FINAL, number, AGGREGATOR))
        base = None
        if self._exchanged.is_partial:
            base = self._announced(fields, "base", self._exchanged.header(BlobKind.BASE, 0, AGGREGATOR))
        self._last_round = number
        return Evaluate(number, model, base)

    def _announced(self, fields: Fields, key: str, header: BlobHeader) -> AnnouncedBlob:
        named = Announcement.read(fields.mapping(key), f"task.{key}")
        if named.header_sha256 != sha256(header.encode()):
            raise ChannelError(Reason.BLOB_HEADER, f"task.{key}.header_sha256: not the header that the plan implies")
        return AnnouncedBlob(named.blob, ContentKey(named.key), header, named.signer)

    def _require_size(self, fields: Fields, header: BlobHeader) -> None:
        if fields.integer("bytes", low=1, high=1 << 40) != header.sealed_bytes:
            raise RoundError(Reason.BLOB_LAYOUT, "bytes: not the size that the plan's layout implies")


def _reason(fields: Fields) -> Reason | None:
    value = fields.take("reason", int, type(None))
    if value is None:
        return None
    try:
        return Reason(value)
    except ValueError:
        raise ChannelError(Reason.MALFORMED, "receipt.reason: no such reason") from None
