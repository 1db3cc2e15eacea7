"""One round, as a state machine without I/O (docs/protocol.md §7). Trust zone: aggregator TEE.

Rules: the cohort is fixed when the round opens. A member answers once: it counts, is refused, or fails. Who is away is
waited for no longer, and counts all the same if it answers while the round collects. An update is read while the round
collects, or at the latest by the fold, which takes nothing unread. The round closes when everybody who is waited for
answered, or the deadline passed; with fewer than the minimum it is abandoned, never folded. While too few count and
those away could still make it up, nothing is thrown away: the round stays open until its deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, unique

from coordinator.enclave.fold import Contribution
from coordinator.enclave.record import Counted
from trusted.errors import Reason, RoundError


@unique
class RoundState(Enum):
    """Where a round stands."""

    OPEN = "open"
    COLLECTING = "collecting"
    CLOSED = "closed"
    FOLDED = "folded"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


@unique
class RoundEvent(Enum):
    """What may happen to a round."""

    ANNOUNCED = "announced"
    ANSWERED = "answered"
    ENOUGH = "enough"
    TOO_FEW = "too few"
    FOLDED = "folded"
    LOST = "lost"
    COMMITTED = "committed"


TABLE: Mapping[tuple[RoundState, RoundEvent], RoundState] = {
    (RoundState.OPEN, RoundEvent.ANNOUNCED): RoundState.COLLECTING,
    (RoundState.COLLECTING, RoundEvent.ANSWERED): RoundState.COLLECTING,
    (RoundState.COLLECTING, RoundEvent.ENOUGH): RoundState.CLOSED,
    (RoundState.COLLECTING, RoundEvent.TOO_FEW): RoundState.ABANDONED,
    (RoundState.CLOSED, RoundEvent.LOST): RoundState.CLOSED,
    (RoundState.CLOSED, RoundEvent.FOLDED): RoundState.FOLDED,
    (RoundState.CLOSED, RoundEvent.TOO_FEW): RoundState.ABANDONED,
    (RoundState.FOLDED, RoundEvent.COMMITTED): RoundState.COMMITTED,
}

# Why a round went on without an answer.
_TOO_LATE = frozenset({Reason.ROUND_DEADLINE, Reason.LEASE_EXPIRED, Reason.MEMBER_SILENT, Reason.SITE_LEAVES})
ENDED = frozenset({RoundState.COMMITTED, RoundState.ABANDONED})


@dataclass(slots=True)
class Round:
    """What happened in one round. ``uploads`` names the blob that a member's update goes to, once it was told;
    ``away`` says of whom nothing is expected for now, and why."""

    number: int
    cohort: tuple[str, ...]
    minimum: int
    deadline: datetime
    state: RoundState = RoundState.OPEN
    uploads: dict[str, bytes] = field(default_factory=dict)
    counted: dict[str, Contribution] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    lost: dict[str, Reason] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    away: dict[str, Reason] = field(default_factory=dict)

    def advance(self, event: RoundEvent) -> None:
        """Follow the table.

        Raises:
            RoundError: the pair is not in it.
        """
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            detail = f"round: {event.name} does not belong in state {self.state.name}"
            raise RoundError(Reason.ROUND_STATE, detail) from None

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Members of the cohort that have not answered, and are not away."""
        return tuple(sorted(set(self.cohort) - set(self.counted) - set(self.lost) - set(self.away)))

    def takes(self, member: str) -> bool:
        """Whether an answer of ``member`` can still count."""
        answered = member in self.counted or member in self.lost
        return self.state is RoundState.COLLECTING and member in self.cohort and not answered

    def require_accepts(self, member: str, number: int) -> None:
        """Refuse an answer of another round, from outside the cohort, a second one, or one that comes too late."""
        if number != self.number:
            raise RoundError(Reason.ROUND_CLOSED, "update.round: not the open round")
        if member not in self.cohort:
            raise RoundError(Reason.NOT_IN_COHORT, "update: its sender is not in this round's cohort")
        if member in self.counted or (member in self.lost and self.lost[member] not in _TOO_LATE):
            raise RoundError(Reason.DUPLICATE, "update: its sender has already answered in this round")
        if self.state is not RoundState.COLLECTING:
            raise RoundError(Reason.ROUND_CLOSED, "update: the round collects no more")

    def count(self, contribution: Contribution, metrics: Mapping[str, float]) -> None:
        """Count a contribution; its blob is still to be read."""
        self.require_accepts(contribution.member, contribution.header.round)
        self.advance(RoundEvent.ANSWERED)
        self.counted[contribution.member] = contribution
        self.metrics[contribution.member] = metrics
        self.unread.add(contribution.member)

    def found_good(self, member: str) -> None:
        """The blob of a counted contribution was read whole."""
        self.unread.discard(member)

    def found_bad(self, member: str, reason: Reason) -> None:
        """It was read while the round collects, and does not count after all."""
        self._uncount(member, reason)

    def lose(self, member: str, reason: Reason) -> None:
        """Go on without ``member``: it was refused, or failed."""
        if member in self.cohort and member not in self.counted and member not in self.lost:
            self.advance(RoundEvent.ANSWERED)
            self.lost[member] = reason

    def close_as(self, counted: Iterable[Counted], lost: Mapping[str, Reason]) -> None:
        """Close it as an earlier aggregator of the run closed it; all that counts is still to be read."""
        for entry in counted:
            self.count(entry.contribution, entry.metrics)
        self.lost = dict(lost)
        self.advance(RoundEvent.ENOUGH)

    def settle(self, now: datetime) -> None:
        """Close or abandon the round if nothing more is to be waited for."""
        if self.state is not RoundState.COLLECTING:
            return
        missing = {member: why for member, why in self.away.items() if self.takes(member)}
        may_suffice = len(self.counted) < self.minimum <= len(self.counted) + len(missing)
        if (self.waiting_for or may_suffice) and now < self.deadline:
            return
        for member in self.waiting_for:
            self.lost[member] = Reason.ROUND_DEADLINE
        self.lost |= missing
        self.advance(RoundEvent.ENOUGH if len(self.counted) >= self.minimum else RoundEvent.TOO_FEW)

    def exclude(self, lost: Mapping[str, Reason]) -> None:
        """Contributions do not open for the fold: fold without them, or not at all."""
        for member, reason in lost.items():
            self._uncount(member, reason)
        self.advance(RoundEvent.LOST if len(self.counted) >= self.minimum else RoundEvent.TOO_FEW)

    def _uncount(self, member: str, reason: Reason) -> None:
        del self.counted[member]
        del self.metrics[member]
        self.unread.discard(member)
        self.lost[member] = reason
