"""The frames of a scoring session and the tables of what may follow what, as data (docs/protocol.md §16.2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, unique

from trusted.channel import records
from trusted.channel.states import FrameKind


@unique
class Kind(FrameKind):
    """The frames there are, by their label."""

    QUESTION = "cloister/scoring-question/v1"
    PROOF = "cloister/scoring-proof/v1"
    OPEN = "cloister/scoring-open/v1"
    WELCOME = "cloister/scoring-welcome/v1"
    RECORD = records.LABEL
    REFUSE = "cloister/refuse/v1"


@unique
class State(Enum):
    """Where a session stands, on either side."""

    START = "start"
    AWAIT_QUESTION = "await question"
    AWAIT_PROOF = "await proof"
    AWAIT_OPEN = "await open"
    AWAIT_WELCOME = "await welcome"
    OPEN = "open"
    AWAIT_ANSWER = "await answer"
    CLOSED = "closed"


Table = Mapping[tuple[State, Kind], State]

SERVICE_TABLE: Table = {
    (State.AWAIT_QUESTION, Kind.QUESTION): State.AWAIT_OPEN,
    (State.AWAIT_OPEN, Kind.OPEN): State.OPEN,
    (State.OPEN, Kind.RECORD): State.OPEN,
}

CLIENT_TABLE: Table = {
    (State.AWAIT_PROOF, Kind.PROOF): State.AWAIT_WELCOME,
    (State.AWAIT_WELCOME, Kind.WELCOME): State.OPEN,
    (State.AWAIT_ANSWER, Kind.RECORD): State.OPEN,
}
