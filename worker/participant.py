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
from trusted.wire import Fields, sha256

_AGGREGATOR = "aggregator"
_ATTEMPTS_PER_ROUND = 3  # an abandoned round is tried again under a new number, at most so often


@dataclass(frozen=True, slots=True)
class SendInitial:
    """Seal the initial model that this site holds, and upload it under ``blob``."""

    blob: bytes
    header: BlobHeader


@dataclass(frozen=True, slots=True)
class Train:
    """Fetch the model, train on this site's data, seal the update, upload it under ``upload``."""

    round: int
    model_blob: bytes
    model_key: ContentKey = field(repr=False)
    model_header: BlobHeader
    upload: bytes
    upload_header: BlobHeader


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


Action = SendInitial | Train | Receipt | Closed


class Participant:
    """One site's part in one run; it outlives sessions."""

    def __init__(self, federation: Federation, rule: EffectiveRule) -> None:
        self._federation = federation
        self._rule = rule
        self._last_round = 0

    def take(self, message: dict[str, Any], now: datetime) -> Action:
        """What ``message`` asks for, ``now``.

        Raises:
            WireError, ChannelError, RoundError: not a message of §5, or more than this site agreed to.
        """
        with Fields(message, "message") as fields:
            kind = fields.choice("type", ("send-initial", "task", "receipt", "closed"))
            if kind in ("send-initial", "task"):
                self._require_allowed(now)
                return self._send_initial(fields) if kind == "send-initial" else self._train(fields)
            if kind == "receipt":
                return Receipt(fields.integer("round", low=1, high=1 << 31), _reason(fields))
            outcome = fields.choice("outcome", ("finished", "stopped", "abandoned"))
            return Closed(outcome, fields.integer("rounds", low=0, high=1 << 31))

    def _require_allowed(self, now: datetime) -> None:
        if now > self._rule.not_after:
            raise DocumentError(Reason.SITE_REFUSES, "site_policy.not_after: this site's consent has ended")

    def _send_initial(self, fields: Fields) -> SendInitial:
        header = self._header(BlobKind.INITIAL, 0, self._rule.member)
        self._require_size(fields, header)
        return SendInitial(fields.octets("blob", 16), header)

    def _train(self, fields: Fields) -> Train:
        number = fields.integer("round", low=1, high=1 << 31)
        if not self._last_round <= number <= _ATTEMPTS_PER_ROUND * self._rule.rounds:
            raise RoundError(Reason.SITE_REFUSES, "task.round: goes back, or beyond what plan and site allow")
        model_header = self._header(BlobKind.MODEL, number, _AGGREGATOR)
        upload_header = self._header(BlobKind.UPDATE, number, self._rule.member)
        with Fields(fields.mapping("model"), "task.model") as model:
            model_blob, key = model.octets("blob", 16), ContentKey(model.octets("key", 32))
            if model.octets("header_sha256", 32) != sha256(model_header.encode()):
                raise ChannelError(Reason.BLOB_HEADER, "task.model.header_sha256: not the header that the plan implies")
        with Fields(fields.mapping("upload"), "task.upload") as upload:
            self._require_size(upload, upload_header)
            upload_blob = upload.octets("blob", 16)
        self._last_round = number
        return Train(number, model_blob, key, model_header, upload_blob, upload_header)

    def _require_size(self, fields: Fields, header: BlobHeader) -> None:
        if fields.integer("bytes", low=1, high=1 << 40) != header.sealed_bytes:
            raise RoundError(Reason.BLOB_LAYOUT, "bytes: not the size that the plan's layout implies")

    def _header(self, kind: BlobKind, number: int, sender: str) -> BlobHeader:
        layout = self._federation.plan.document.layout
        return BlobHeader(kind, self._federation.plan.digest, number, sender, layout.digest, layout.elements)


def _reason(fields: Fields) -> Reason | None:
    value = fields.take("reason", int, type(None))
    if value is None:
        return None
    try:
        return Reason(value)
    except ValueError:
        raise ChannelError(Reason.MALFORMED, "receipt.reason: no such reason") from None
