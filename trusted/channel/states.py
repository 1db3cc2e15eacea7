"""The state tables of docs/protocol.md §4.1, as data. Trust zone: every TEE.

A pair that is not in a table closes the session. Nothing else decides what may follow what.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, unique
from typing import Self, TypeVar

from trusted.channel import records
from trusted.errors import ChannelError, Reason
from trusted.wire import label_of

S = TypeVar("S", bound=Enum)
K = TypeVar("K", bound=Enum)


class FrameKind(Enum):
    """The frames of one protocol, by their label."""

    @classmethod
    def of(cls, frame: bytes) -> Self:
        """The kind that ``frame`` says it is.

        Raises:
            ChannelError: UNEXPECTED_MESSAGE: another label. WireError: MALFORMED: none.
        """
        label = label_of(frame)
        try:
            return cls(label)
        except ValueError:
            raise ChannelError(Reason.UNEXPECTED_MESSAGE, "frame: unknown label") from None


@unique
class Kind(FrameKind):
    """The frames there are, by their label."""

    HELLO = "cloister/hello/v1"
    OFFER = "cloister/offer/v1"
    JOIN = "cloister/join/v1"
    WELCOME = "cloister/welcome/v1"
    RECORD = records.LABEL
    REFUSE = "cloister/refuse/v1"


@unique
class State(Enum):
    """Where a handshake stands, on either side."""

    START = "start"
    AWAIT_HELLO = "await hello"
    AWAIT_OFFER = "await offer"
    AWAIT_JOIN = "await join"
    AWAIT_WELCOME = "await welcome"
    AWAIT_CONFIRM = "await confirm"
    OPEN = "open"
    CLOSED = "closed"


Table = Mapping[tuple[State, Kind], State]

WORKER_TABLE: Table = {
    (State.AWAIT_OFFER, Kind.OFFER): State.AWAIT_WELCOME,
    (State.AWAIT_WELCOME, Kind.WELCOME): State.OPEN,
    (State.OPEN, Kind.RECORD): State.OPEN,
}

AGGREGATOR_TABLE: Table = {
    (State.AWAIT_HELLO, Kind.HELLO): State.AWAIT_JOIN,
    (State.AWAIT_JOIN, Kind.JOIN): State.AWAIT_CONFIRM,
    (State.AWAIT_CONFIRM, Kind.RECORD): State.OPEN,
    (State.OPEN, Kind.RECORD): State.OPEN,
}


def successor(table: Mapping[tuple[S, K], S], state: S, kind: K) -> S:
    """The state that follows, or the refusal that closes the session."""
    try:
        return table[state, kind]
    except KeyError:
        detail = f"frame {kind.name} does not belong in state {state.name}"
        raise ChannelError(Reason.UNEXPECTED_MESSAGE, detail) from None
