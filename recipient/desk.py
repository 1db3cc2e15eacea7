"""One request after the other: may it be answered, and what is the answer? Trust zone: recipient TEE; no I/O.

Nothing of rows or scores is logged: a line says who asked, how many rows, and a reason where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from recipient.quota import Quota
from recipient.tenure import Tenure
from trusted.errors import ProtocolError, Reason
from trusted.scoring.messages import Table
from trusted.scoring.service import Asked

Note = Callable[..., None]
_ENDED = frozenset({Reason.APP_TIMEOUT})


class Scores(Protocol):
    """What scores rows: :class:`recipient.scorer.Scorer`."""

    def score(self, values: Table, timeout_s: float) -> Table:
        """The scores of ``values``. Raises AppError."""

    def wipe(self) -> None:
        """Forget the model."""


@dataclass(slots=True)
class Desk:
    """The model, while it may answer. Its caller sees to it that one thread at a time is here."""

    scorer: Scores
    quota: Quota
    tenure: Tenure
    note: Note
    timeout_s: float

    def answer(self, asked: Asked, now: datetime, counted_s: float) -> Table | Reason:
        """The scores that ``asked`` gets, or the reason why it gets none."""
        # 1. The key may still be used. 2. The question counts. 3. It is one. 4. The app answers it.
        try:
            self.require_open(now, counted_s)
            self.quota.take(asked.member, counted_s)
            if asked.request is None:
                raise asked.refused or RuntimeError("a request, or why it is none, expected")
            scores = self.scorer.score(asked.request.values, self.timeout_s)
        except ProtocolError as error:
            if error.reason in _ENDED:
                self.end(Reason.SCORING_ENDED)
            self.note("request-refused", member=asked.member, reason=error.reason.code, requests=self.quota.total)
            return error.reason
        self.note("scored", member=asked.member, rows=len(scores), requests=self.quota.total)
        return scores

    def require_open(self, now: datetime, counted_s: float) -> None:
        """Refuse once the key may be used no longer; the model is then gone.

        Raises:
            KeyReleaseError: why.
        """
        was_open = self.tenure.ended is None
        try:
            self.tenure.require(now, counted_s)
        except ProtocolError:
            if was_open:
                self._wipe()
            raise

    def end(self, reason: Reason) -> None:
        """Forget the model, now and for good."""
        was_open = self.tenure.ended is None
        self.tenure.end(reason)
        if was_open:
            self._wipe()

    def _wipe(self) -> None:
        self.scorer.wipe()
        ended = self.tenure.ended
        self.note("model-wiped", reason=None if ended is None else ended.code, requests=self.quota.total)
