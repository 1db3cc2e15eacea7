"""A member's order to start, pause, resume or stop a run at a host (docs/protocol.md §2). Trust zone: every TEE.

Orders protect the host's resources from strangers; nobody's data depends on them. That an order is honoured once is the
matter of the host's store, which remembers nonces for twice :data:`WINDOW`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import Verified, open_envelope, require_signers, signers_among
from trusted.documents.schema import DIGEST_BYTES, aware, read_member, read_time, write_time
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json, sha256

PAYLOAD_TYPE = "application/vnd.cloister.order.v1+json"
MAX_ENVELOPE_BYTES = 1 << 14
NONCE_BYTES = 16
WINDOW = timedelta(seconds=300)


class Action(Enum):
    """What a member may ask of a host."""

    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Order:
    """What ``member`` wants done with the run of ``plan`` (its digest), once; as parsed."""

    action: Action
    plan: bytes
    member: str
    nonce: bytes
    issued: datetime

    @classmethod
    def parse(cls, payload: bytes) -> Order:
        """The order of a payload, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(payload), "order") as fields:
            return cls(
                action=Action(fields.choice("action", [action.value for action in Action])),
                plan=fields.octets("plan", DIGEST_BYTES),
                member=read_member(fields, "member"),
                nonce=fields.octets("nonce", NONCE_BYTES),
                issued=read_time(fields, "issued"),
            )

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §2 names its fields."""
        return {
            "action": self.action.value,
            "plan": self.plan.hex(),
            "member": self.member,
            "nonce": self.nonce.hex(),
            "issued": write_time(self.issued),
        }


@dataclass(frozen=True, slots=True)
class VerifiedOrder(Verified[Order]):
    """An order that its member signed within :data:`WINDOW` of now. It may have been honoured before."""


def verify_order(envelope: bytes, charter: VerifiedCharter, now: datetime) -> VerifiedOrder:
    """The order in ``envelope``, whose bearer may be lying, at the time ``now``.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    order = Order.parse(opened.payload)
    member = charter.document.member(order.member)
    found = signers_among(opened, charter.owners) & {member.id}
    require_signers(found, [member.id], "order")
    if aware(now) < order.issued - WINDOW:
        raise DocumentError(Reason.DOCUMENT_NOT_YET_VALID, "order.issued: more than 300 seconds ahead")
    if now > order.issued + WINDOW:
        raise DocumentError(Reason.DOCUMENT_EXPIRED, "order.issued: more than 300 seconds ago")
    return VerifiedOrder(order, sha256(opened.payload), envelope, found)
