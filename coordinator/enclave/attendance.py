"""Who is there, who is waited for, and for how long (docs/protocol.md §7.1). Trust zone: aggregator TEE. No clock.

Rules: a round opens when all are there that are sampled, or the minimum once all others have been gone for a lease, and
always with a quorum of witnesses. Progress keeps a member in its round: one that is gone, or stands still, for a lease
is waited for no longer, and again as soon as it comes or moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from coordinator.enclave.course import Course
from coordinator.enclave.rounds import Round
from coordinator.enclave.vigil import Sign, Vigil
from trusted.errors import Reason


@dataclass(slots=True)
class Attendance:
    """Of the rounds of ``course``, one after the other. ``vigil`` watches those of the newest."""

    course: Course
    _missing_since: dict[str, datetime] = field(default_factory=dict)  # witnesses; forgotten while too few are here
    _absent_since: dict[str, datetime] = field(default_factory=dict)
    _parted: dict[str, Reason] = field(default_factory=dict)
    vigil: Vigil = field(init=False)

    def __post_init__(self) -> None:
        self.vigil = Vigil(self.course.lease)

    # --- before a round opens --------------------------------------------------------------------------------------

    @property
    def present(self) -> frozenset[str]:
        """Members that are here as witnesses, and take tasks."""
        return frozenset(self.course.witnesses.promised) - set(self.course.resting)

    def note_missing(self, now: datetime) -> None:
        """Look who is not here."""
        missing = set(self.course.plan.cohort.members) - set(self.course.witnesses.promised)
        self._missing_since = {member: self._missing_since.get(member, now) for member in missing}

    def forget_missing(self) -> None:
        """Everybody has a whole lease to come, from now on."""
        self._missing_since.clear()

    def missing_since(self, member: str, now: datetime) -> datetime:
        """Since when ``member`` has not been here as a witness; ``now`` if it was at the last look."""
        return self._missing_since.get(member, now)

    def gathered(self, now: datetime) -> tuple[str, ...] | None:
        """Those present, once a round may open with them; else None, and it is told for whom the run waits."""
        course, cohort, present = self.course, self.course.plan.cohort, self.present
        absent = set(cohort.members) - present
        if len(present) < cohort.minimum or course.witnesses.missing:
            self.forget_missing()
            course.wait_for(absent, "members")
            return None
        expected = [member for member in absent - set(course.resting) if self._is_expected(member, now)]
        if len(present) < cohort.size and expected:
            course.wait_for(expected, "members")
            return None
        return tuple(sorted(present))

    def _is_expected(self, member: str, now: datetime) -> bool:
        """Whether an absent ``member`` may still come: who has been gone for one lease holds up no further round."""
        return now - self._missing_since.get(member, now) < self.course.lease

    # --- while it collects -----------------------------------------------------------------------------------------

    def opened(self, current: Round) -> None:
        """``current`` is announced: nobody has shown a sign of work for it yet."""
        self.vigil = Vigil(self.course.lease)

    def begin(self, member: str, now: datetime) -> None:
        """``member`` has just been given its task."""
        self.vigil.begin(member, now)

    def part_again(self, current: Round) -> None:
        """Who went before ``current`` was announced is away from it as well."""
        for member, reason in tuple(self._parted.items()):
            self.part(current, member, reason)

    def welcome(self, current: Round | None, member: str) -> bool:
        """``member`` has just come; whether it still has a task in ``current``."""
        self._parted.pop(member, None)
        if current is None or not current.takes(member):
            return False
        if current.away.pop(member, None) is not None:
            self.course.emit("awaited", round=current.number, member=member)
        return True

    def hear(self, current: Round | None, member: str, number: int, sign: Sign) -> None:
        """``member`` tells of its work; in the open round that may make it one that is waited for again."""
        course = self.course
        earlier = self.vigil.last(member)
        if earlier is None or (earlier.stage, earlier.percent) != (sign.stage, sign.percent):
            course.emit("progress", member=member, round=number, outcome=sign.outcome)
        was_silent = self.vigil.hear(member, sign)
        if was_silent and current is not None and current.takes(member):
            if current.away.get(member) is Reason.MEMBER_SILENT:
                del current.away[member]
            course.emit("awaited", round=current.number, member=member, outcome=sign.outcome)

    def part(self, current: Round | None, member: str, reason: Reason) -> None:
        """``member`` says that it goes: for now, or for good. It may be drawn already for a round that is to open."""
        self._parted[member] = reason
        if current is None or not current.takes(member):
            return
        if reason is Reason.SITE_WITHDRAWS:
            current.lose(member, reason)
        else:
            current.away[member] = reason
        self.course.emit("contribution", round=current.number, member=member, outcome="gone", reason=reason.code)

    def lose(self, current: Round, now: datetime) -> None:
        """Note who is waited for no longer."""
        self._lose_absent(current, now)
        self._lose_silent(current, now)

    def _lose_absent(self, current: Round, now: datetime) -> None:
        """A member that has been gone for one lease is waited for no longer; it may still come while others train."""
        course = self.course
        gone = set(current.waiting_for) - set(course.admissions.members)
        self._absent_since = {member: self._absent_since.get(member, now) for member in gone}
        for member, since in self._absent_since.items():
            if now - since >= course.lease:
                current.away[member] = Reason.LEASE_EXPIRED
                fields = {"member": member, "outcome": "gone", "reason": Reason.LEASE_EXPIRED.code}
                course.emit("contribution", round=current.number, **fields)

    def _lose_silent(self, current: Round, now: datetime) -> None:
        """A member that is here and has stood still for one lease is waited for no longer, until it moves."""
        course = self.course
        here = set(current.waiting_for) & set(course.admissions.members)
        for member, sign in self.vigil.newly_silent(here, now).items():
            told = {"outcome": sign.outcome, "seconds": (now - sign.since).total_seconds()}
            course.emit("silent", round=current.number, member=member, **told)
        for member, sign in self.vigil.lost(here, now).items():
            current.away[member] = Reason.MEMBER_SILENT
            fields = {"member": member, "outcome": "silent", "seconds": (now - sign.since).total_seconds()}
            course.emit("contribution", round=current.number, **fields, reason=Reason.MEMBER_SILENT.code)
