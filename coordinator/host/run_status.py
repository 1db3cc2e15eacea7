"""How a run stands, folded from its public events alone. Trust zone: host; the console reads it with the same code.

The events are the aggregator's word, relayed by a host that nobody trusts: good for watching, no evidence.
``run-started`` and ``round-opened`` mean running, but between ``run-paused`` and ``run-resumed``: there a start changes
nothing, and the one round that may open was on its way. ``run-ended`` says how it ended, and nothing moves a run from
there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from trusted.errors import Reason, RunError
from trusted.wire import Fields


class RunState(Enum):
    """Where a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"

    @property
    def is_over(self) -> bool:
        """Nothing moves the run from here."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.ABANDONED)


_RUNNING = frozenset({"run-started", "round-opened"})
_ENDED = {state.value: state for state in RunState if state.is_over}  # by the outcome of ``run-ended``
_QUIET = frozenset({"attested"})  # beside `admitted`, and every few minutes: it says nothing of what a site does
_GONE = frozenset({"left", "refused", "evicted"})
_COUNTS = ("round", "rounds", "committed", "sessions", "bytes_in", "bytes_out")


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member, as the last event that named it left it. ``attested``: admitted, and not gone since.

    ``work`` is what it said of its work last, ``train 50 %``, and ``moved`` when that changed. ``away_since``: nobody
    waits for it, for ``away_reason``.
    """

    member: str
    attested: bool = False
    assurance: str | None = None
    measurement: str | None = None
    last_event: str = ""
    last_reason: str | int | None = None
    last_seen: str = ""
    bytes: int = 0
    work: str = ""
    moved: str | None = None
    away_since: str | None = None
    away_reason: str | None = None

    def awaited(self) -> MemberStatus:
        """The same, drawn for a new round: nothing is known of its work there, and it is waited for unless it rests."""
        fresh = replace(self, work="", moved=None)
        return fresh if self._rests else replace(fresh, away_since=None, away_reason=None)

    @property
    def _rests(self) -> bool:
        """Its operator paused it. What it had begun still counts, and does not bring it back."""
        return self.away_reason == Reason.SITE_PAUSED.code

    def after(self, name: str, event: Mapping[str, Any]) -> MemberStatus:
        """The member behind one more public event that names it."""
        ts, outcome, reason = str(event["ts"]), str(event.get("outcome", "")), event.get("reason")
        gone = name == "contribution" and outcome in ("gone", "silent")
        gone = gone or name == "away" or (name == "left" and reason is not None)  # a lost connection is waited for
        counted = name == "contribution" and outcome == "counted" and not self._rests
        back = counted or name in ("awaited", "back", "admitted")
        told = replace(
            self,
            attested=name == "admitted" or (self.attested and name not in _GONE),
            assurance=event.get("assurance", self.assurance),
            measurement=event.get("measurement", self.measurement),
            last_event=self.last_event if name in _QUIET else name,
            last_reason=reason,
            last_seen=ts,
            bytes=self.bytes + event.get("bytes", 0),
        )
        if name in ("progress", "awaited", "silent"):
            moved = _before(ts, event.get("seconds", 0)) if name == "silent" else ts
            told = replace(told, work=outcome or self.work, moved=moved)
        if gone:
            return replace(told, away_since=ts, away_reason=None if reason is None else str(reason))
        return replace(told, away_since=None, away_reason=None) if back else told


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run: ``rounds`` were planned, ``round`` is the newest that opened, ``committed`` counts what succeeded.

    ``waits_on`` says for what ``waiting_for`` is waited: their contributions to the ``round``, that enough ``members``
    come, or that enough ``witnesses`` sign. ``refused`` is why the run cannot go on from what the host offers, with
    the log that a witness ``held`` and the one that is ``offered`` where there are two.
    """

    plan: str
    state: RunState = RunState.WAITING
    round: int = 0
    rounds: int = 0
    committed: int = 0
    members: Mapping[str, MemberStatus] = field(default_factory=dict)
    waiting_for: tuple[str, ...] = ()
    waits_on: str = ""
    refused: str | None = None
    held: str | None = None
    offered: str | None = None
    aggregator: str = "absent"
    sessions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    started: str | None = None
    updated: str | None = None

    def after(self, event: Mapping[str, Any]) -> RunStatus:
        """The status behind one more public event, whose fields already have their form."""
        name, ts = str(event["event"]), str(event["ts"])
        state = self._state_after(name, event)
        started = self.started or (ts if name in _RUNNING else None)
        waiting = () if state.is_over else self._waiting_after(name, event)
        return replace(
            self,
            **self._refusal_after(name, event),
            state=state,
            round=max(self.round, event.get("round", 0)),
            rounds=event.get("rounds", self.rounds),
            committed=self._committed_after(event) if name == "round-committed" else self.committed,
            members=self._members_after(name, event),
            waiting_for=waiting,
            waits_on=self._waits_on_after(name, event) if waiting else "",
            started=started,
            updated=ts,
        )

    def _state_after(self, name: str, event: Mapping[str, Any]) -> RunState:
        if self.state.is_over:
            return self.state
        if name == "run-ended":
            return _ENDED.get(str(event.get("outcome")), self.state)
        if name == "run-paused":
            return RunState.PAUSED
        if name == "run-resumed":
            return RunState.WAITING if self.started is None else RunState.RUNNING
        return RunState.RUNNING if name in _RUNNING and self.state is not RunState.PAUSED else self.state

    def _committed_after(self, event: Mapping[str, Any]) -> int:
        """How many rounds are committed with this one, as it says: a restarted aggregator may say it twice."""
        outcome = str(event.get("outcome", ""))
        told = int(outcome) if outcome.isascii() and outcome.isdigit() and len(outcome) < 10 else self.committed + 1
        return max(self.committed, told)

    def _waiting_after(self, name: str, event: Mapping[str, Any]) -> tuple[str, ...]:
        if "waiting_for" in event:
            said = event["waiting_for"]
            return (said,) if isinstance(said, str) else tuple(said)
        if name in ("round-committed", "round-abandoned"):
            return ()
        member = event.get("member")
        if name == "awaited" and member is not None:
            return tuple(sorted({*self.waiting_for, member}))
        answered = member if name == "contribution" else None
        return tuple(waited for waited in self.waiting_for if waited != answered)

    def _waits_on_after(self, name: str, event: Mapping[str, Any]) -> str:
        if name == "run-waits":
            said = event.get("outcome")
            return said if said in ("members", "witnesses", "evaluation") else ""
        return "round" if name in ("round-opened", "awaited") else self.waits_on

    def _refusal_after(self, name: str, event: Mapping[str, Any]) -> dict[str, Any]:
        if name == "state-refused":
            return {"refused": str(event.get("reason", "")), "held": event.get("held"), "offered": event.get("offered")}
        if name in ("recovered", "round-opened", "run-ended"):
            return {"refused": None, "held": None, "offered": None}
        return {}

    def _members_after(self, name: str, event: Mapping[str, Any]) -> Mapping[str, MemberStatus]:
        member = event.get("member")
        if member is None and name == "round-opened":
            drawn = self._waiting_after(name, event)
            return {key: item.awaited() if key in drawn else item for key, item in self.members.items()}
        if member is None:
            return self.members
        return {**self.members, member: self.members.get(member, MemberStatus(member)).after(name, event)}

    def encode(self) -> str:
        """JSON: the fields by name, members as a list."""
        value = asdict(self) | {"state": self.state.value, "members": [asdict(item) for item in self.members.values()]}
        return json.dumps(value, sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> RunStatus:
        """The status in ``text``. The host may be lying about all of it, but not about its form.

        Raises:
            ProtocolError: not a status.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise RunError(Reason.MALFORMED, "run status: not JSON; is this a Cloister host?") from None
        with Fields(value, "run status") as fields:
            return cls(
                plan=fields.text("plan"),
                state=RunState(fields.choice("state", [state.value for state in RunState])),
                **{key: fields.integer(key, low=0, high=1 << 63) for key in _COUNTS},
                members={item.member: item for item in map(_member, fields.items("members"))},
                waiting_for=tuple(str(item) for item in fields.items("waiting_for")),
                waits_on=fields.take("waits_on", str),
                aggregator=fields.choice("aggregator", ("absent", "present")),
                refused=fields.take("refused", str, type(None)),
                held=fields.take("held", str, type(None)),
                offered=fields.take("offered", str, type(None)),
                started=fields.take("started", str, type(None)),
                updated=fields.take("updated", str, type(None)),
            )


def _member(value: Any) -> MemberStatus:
    with Fields(value, "run status.members") as fields:
        return MemberStatus(
            member=fields.text("member"),
            attested=fields.boolean("attested"),
            assurance=fields.take("assurance", str, type(None)),
            measurement=fields.take("measurement", str, type(None)),
            last_event=fields.take("last_event", str),
            last_reason=fields.take("last_reason", str, int, type(None)),
            last_seen=fields.take("last_seen", str),
            bytes=fields.integer("bytes", low=0, high=1 << 63),
            work=fields.take("work", str),
            moved=fields.take("moved", str, type(None)),
            away_since=fields.take("away_since", str, type(None)),
            away_reason=fields.take("away_reason", str, type(None)),
        )


def _before(ts: str, seconds: object) -> str:
    """The time ``seconds`` before ``ts``; ``ts`` itself where a host says nonsense."""
    if not isinstance(seconds, int | float):
        return ts
    try:
        return (datetime.fromisoformat(ts) - timedelta(seconds=float(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return ts
