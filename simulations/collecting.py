"""Who counts in a round, on a virtual clock: the aggregator's own state machine, told what arrives and when.

Trust zone: the developer's machine. Rules, all of :class:`coordinator.enclave.rounds.Round`: who answers within the
deadline counts; who is silent for a lease is waited for no longer; with too few the round is abandoned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from coordinator.enclave.fold import Contribution
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from simulations.terms import Terms
from trusted.blob import BlobHeader, ContentKey
from trusted.errors import Reason

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
_NO_KEY = ContentKey(bytes(32))


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a site of the cohort does, ``seconds`` after the round opened: it answers, or fails for a ``reason``.

    ``header`` is that of its update.
    """

    member: str
    seconds: float
    header: BlobHeader
    weight: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: Reason | None = None

    def contribution(self) -> Contribution:
        """As the aggregator counts it; it lies nowhere, and nothing opens it."""
        return Contribution(self.member, self.weight, b"", self.header, _NO_KEY, b"")


@dataclass(slots=True)
class Clock:
    """Virtual time: it passes while rounds collect."""

    now: datetime = _BEGINNING

    def collect(self, terms: Terms, number: int, cohort: tuple[str, ...], arrivals: Iterable[Arrival]) -> Round:
        """Round ``number``, closed or abandoned. Who of ``cohort`` is not among the ``arrivals`` is silent."""
        opened, deadlines = self.now, terms.deadlines
        round_ = Round(number, cohort, terms.cohort.minimum, opened + timedelta(seconds=deadlines.round_s))
        round_.advance(RoundEvent.ANNOUNCED)
        coming = sorted(arrivals, key=lambda arrival: (arrival.seconds, arrival.member))
        silent = set(cohort) - {arrival.member for arrival in coming}
        lease = opened + timedelta(seconds=deadlines.lease_s)
        for arrival in coming:
            at = _comes_at(opened, terms, arrival)
            if silent and at >= lease:
                self._silence(round_, silent, lease)
            if round_.state is not RoundState.COLLECTING or at >= round_.deadline:
                break
            self._take(round_, arrival, terms.aggregation.max_weight)
            self._settle(round_, at)
        self._silence(round_, silent, lease)
        self._settle(round_, round_.deadline)
        return round_

    def counts(self, terms: Terms, arrival: Arrival) -> bool:
        """Whether ``arrival`` counts in a round that opens now, if that closes: the others do not matter for it."""
        in_time = _comes_at(self.now, terms, arrival) < self.now + timedelta(seconds=terms.deadlines.round_s)
        return in_time and _fault(arrival, terms.aggregation.max_weight) is None

    def wait(self, terms: Terms) -> None:
        """Too few are there to open a round: a lease passes before anybody looks again."""
        self.now += timedelta(seconds=terms.deadlines.lease_s)

    def _silence(self, round_: Round, silent: set[str], lease: datetime) -> None:
        """Those who say nothing have done so for a lease, if the round lasts so long."""
        if lease < round_.deadline and silent and round_.state is RoundState.COLLECTING:
            round_.away |= dict.fromkeys(silent, Reason.MEMBER_SILENT)
            silent.clear()
            self._settle(round_, lease)

    def _take(self, round_: Round, arrival: Arrival, max_weight: float) -> None:
        """What :class:`coordinator.enclave.answers.Answers` does with an answer."""
        if (reason := _fault(arrival, max_weight)) is not None:
            round_.lose(arrival.member, reason)
        else:
            round_.count(arrival.contribution(), arrival.metrics)

    def _settle(self, round_: Round, at: datetime) -> None:
        if round_.state is RoundState.COLLECTING:
            self.now = max(self.now, at)
            round_.settle(at)


def _comes_at(opened: datetime, terms: Terms, arrival: Arrival) -> datetime:
    return opened + timedelta(seconds=min(arrival.seconds, terms.deadlines.round_s + 1))


def _fault(arrival: Arrival, max_weight: float) -> Reason | None:
    """Why an answer does not count; None: it does."""
    if arrival.reason is None and not 1 <= arrival.weight <= max_weight:
        return Reason.WEIGHT
    return arrival.reason
