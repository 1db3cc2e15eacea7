"""Who of those that a round waits for still moves. Trust zone: aggregator TEE. No I/O, no clock.

Rules: time alone costs nobody its place, and a session alone keeps none. A member that shows no new sign of work for a
third of a lease is told of; after a whole lease it is waited for no longer, and again as soon as it moves. What a
member says of its work is believed for that and nothing else: a lying one holds a round until its deadline at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

STAGES = ("download", "train", "upload", "evaluate")
MAX_BEAT = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class Sign:
    """Work as a member told of it: ``beat`` is any number that changes while it goes on; ``since`` it stands still."""

    stage: str
    percent: int
    beat: int
    since: datetime

    @property
    def outcome(self) -> str:
        """For the public: ``upload 62 %``."""
        return f"{self.stage} {self.percent} %"

    def is_as(self, other: Sign) -> bool:
        """Whether nothing moved between the two."""
        return (self.stage, self.percent, self.beat) == (other.stage, other.percent, other.beat)


@dataclass(slots=True)
class Vigil:
    """The signs of one round's members. ``lease`` is the plan's."""

    lease: timedelta
    _signs: dict[str, Sign] = field(default_factory=dict)
    _silent: set[str] = field(default_factory=set)

    def begin(self, member: str, now: datetime) -> None:
        """``member`` has just been given its task."""
        self._signs[member] = Sign(STAGES[0], 0, 0, now)
        self._silent.discard(member)

    def last(self, member: str) -> Sign | None:
        """The newest sign of ``member``; None: it was given no task."""
        return self._signs.get(member)

    def hear(self, member: str, sign: Sign) -> bool:
        """Take a sign; whether ``member`` had been told of as silent, and is so no longer."""
        earlier = self._signs.get(member)
        if earlier is not None and sign.is_as(earlier):
            return False
        self._signs[member] = sign
        was_silent = member in self._silent
        self._silent.discard(member)
        return was_silent

    def newly_silent(self, members: Iterable[str], now: datetime) -> dict[str, Sign]:
        """Those that have shown nothing new for a third of a lease; each once."""
        found = {
            member: sign for member, sign in self._among(members, now, self.lease / 3) if member not in self._silent
        }
        self._silent.update(found)
        return found

    def lost(self, members: Iterable[str], now: datetime) -> dict[str, Sign]:
        """Those that have shown nothing new for a whole lease."""
        return dict(self._among(members, now, self.lease))

    def _among(self, members: Iterable[str], now: datetime, patience: timedelta) -> list[tuple[str, Sign]]:
        signs = ((member, self._signs.get(member)) for member in members)
        return [(member, sign) for member, sign in signs if sign is not None and now - sign.since >= patience]
