"""How long the model may answer here. Trust zone: recipient TEE; no I/O, both clocks are arguments.

Rules:
 1. Not beyond the grant's own end, by the date. A host may set this clock back; so the date alone decides nothing:
 2. Not beyond ``renew_s`` and ``grace_s`` after the broker last confirmed the grant, in seconds that only count. The
    broker judges by its own clock, and a grant that was taken back is confirmed no more.
 3. What ended stays ended: the model is gone, and only another start, under another release of the key, brings it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trusted.errors import KeyReleaseError, Reason


@dataclass(slots=True)
class Tenure:
    """The time of one released key.

    Attributes:
        not_after: when the grant ends.
        renew_s: after so many seconds the broker is asked again.
        grace_s: how much later its answer may come.
        confirmed_s: when the broker last handed out or confirmed the key.
        ended: why it is over; None while it is not.
    """

    not_after: datetime
    renew_s: float
    grace_s: float
    confirmed_s: float
    ended: Reason | None = None

    def is_due(self, counted_s: float) -> bool:
        """Whether it is time to ask the broker again."""
        return counted_s - self.confirmed_s >= self.renew_s

    def confirm(self, counted_s: float) -> None:
        """The broker has just confirmed the grant."""
        self.confirmed_s = counted_s

    def end(self, reason: Reason) -> None:
        """It is over; the first reason stands."""
        self.ended = self.ended or reason

    def require(self, now: datetime, counted_s: float) -> None:
        """Refuse what may not be answered any more.

        Raises:
            KeyReleaseError: GRANT_EXPIRED, LEASE_EXPIRED, or why it was ended.
        """
        if now >= self.not_after:
            self.end(Reason.GRANT_EXPIRED)
        elif counted_s - self.confirmed_s > self.renew_s + self.grace_s:
            self.end(Reason.LEASE_EXPIRED)
        if self.ended is not None:
            raise KeyReleaseError(self.ended, "the key of this model may be used no longer; it and the model are gone")
