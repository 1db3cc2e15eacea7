"""How often each client has asked, and all of them together. Trust zone: recipient TEE; no I/O, no clock.

Rules:
 1. A question counts when it is asked, whatever becomes of it: a refused one may have been a probe too.
 2. Of one member no more than ``requests_per_minute`` count within any 60 seconds. Its keys and connections share this.
 3. ``requests_total`` is of everybody and of this start. A restart costs another release of the key, which the member's
    broker counts: so what a grant can ever answer is its releases times this.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import ChannelError, Reason

_MINUTE_S = 60.0


@dataclass(slots=True)
class Quota:
    """The count of one start."""

    limits: ScoringLimits
    total: int = 0
    _asked: dict[str, deque[float]] = field(default_factory=dict)

    def take(self, member: str, now_s: float) -> None:
        """Count one question of ``member`` at ``now_s``, seconds of a clock that only counts.

        Raises:
            ChannelError: SCORING_SPENT, SCORING_RATE: it was not counted, and is not to be answered.
        """
        if self.total >= self.limits.requests_total:
            raise ChannelError(Reason.SCORING_SPENT, "scoring.requests_total: all of them were asked")
        asked = self._asked.setdefault(member, deque())  # of recipients of the plan alone: there are few
        while asked and asked[0] <= now_s - _MINUTE_S:
            asked.popleft()
        if len(asked) >= self.limits.requests_per_minute:
            most = self.limits.requests_per_minute
            raise ChannelError(Reason.SCORING_RATE, f"scoring.requests_per_minute: {most} a minute of one client")
        asked.append(now_s)
        self.total += 1
