"""The frames of a key release and what may follow what, as data (docs/protocol.md §15.2). Trust zone: every TEE.

A pair that is not in a table ends the exchange. An exchange ends with its answer: a second key is a second exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, unique

from trusted.channel.states import FrameKind


@unique
class Kind(FrameKind):
    """The frames there are, by their label."""

    HELLO = "cloister/key-hello/v1"
    CHALLENGE = "cloister/key-challenge/v1"
    REQUEST = "cloister/key-request/v1"
    ANSWER = "cloister/key-answer/v1"
    RENEW = "cloister/key-renew/v1"
    RENEWED = "cloister/key-renewed/v1"
    REFUSE = "cloister/refuse/v1"


@unique
class State(Enum):
    """Where an exchange stands, on either side."""

    START = "start"
    AWAIT_HELLO = "await hello"
    AWAIT_CHALLENGE = "await challenge"
    AWAIT_REQUEST = "await request"
    AWAIT_ANSWER = "await answer"
    DONE = "done"
    CLOSED = "closed"


Table = Mapping[tuple[State, Kind], State]

REQUESTER_TABLE: Table = {
    (State.AWAIT_CHALLENGE, Kind.CHALLENGE): State.AWAIT_ANSWER,
    (State.AWAIT_ANSWER, Kind.ANSWER): State.DONE,
    (State.AWAIT_ANSWER, Kind.RENEWED): State.DONE,
}

BROKER_TABLE: Table = {
    (State.AWAIT_HELLO, Kind.HELLO): State.AWAIT_REQUEST,
    (State.AWAIT_HELLO, Kind.RENEW): State.AWAIT_REQUEST,
    (State.AWAIT_REQUEST, Kind.REQUEST): State.DONE,
}
