"""The terms of a plan by which simulated rounds go. Trust zone: the developer's machine.

They are the plan's own types, read by the plan's own rules; only the number of members has no bound here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trusted.documents.layout import Layout
from trusted.documents.plan import Plan
from trusted.documents.terms import (
    MAX_WEIGHT,
    Aggregation,
    Cohort,
    Deadlines,
    Exchange,
    Mechanism,
    MetricRule,
    Privacy,
    Rule,
)
from trusted.exchange import Exchanged
from trusted.wire import pack, sha256

NO_PRIVACY = Privacy(Mechanism.NONE, "a simulation")
DEADLINES = Deadlines(round_s=3600, lease_s=120, reattest_s=60)
IN_FULL = Exchange()
_FEWEST = 2  # of any plan


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a plan a round obeys. ``plan`` is its digest; of no plan, one that follows from the terms.

    ``metrics``: what may be told of a round, and how coarse; none: everything, unrounded, as only a simulation can.
    """

    rounds: int
    cohort: Cohort
    aggregation: Aggregation
    privacy: Privacy = NO_PRIVACY
    exchange: Exchange = IN_FULL
    deadlines: Deadlines = DEADLINES
    metrics: tuple[MetricRule, ...] = ()
    plan: bytes = b""

    def __post_init__(self) -> None:
        """Hold the bounds that a plan has.

        Raises:
            ValueError: a number that makes no sense. DocumentError: a rule of plans does not hold.
        """
        sites, size, minimum = len(self.cohort.members), self.cohort.size, self.cohort.minimum
        if self.rounds < 1:
            raise ValueError(f"rounds: at least 1 expected, not {self.rounds}")
        if size > sites:
            raise ValueError(f"cohort: {size} sites are to be drawn each round, but there are only {sites}")
        if not 1 <= minimum <= size:
            raise ValueError(f"minimum: 1 to {size} expected, the size of the cohort, not {minimum}")
        self.aggregation.check(self.cohort)
        if self.privacy.terms is not None and self.aggregation.max_weight != 1:
            raise ValueError("aggregation: max_weight 1 expected under a privacy mechanism: all count alike")
        if self.aggregation.rule is Rule.SERVER_APP:
            raise ValueError("aggregation: an app's own server is not simulated; run it with `flwr run`")
        if self.privacy.member_clipping is not None and self.aggregation.rule is not Rule.WEIGHTED_MEAN:
            raise ValueError(f"aggregation: {self.aggregation.rule.value} is no mean, and noise is for a sum")

    @classmethod
    def of_plan(cls, plan: Plan) -> Terms:
        """As ``plan`` says."""
        return cls(
            rounds=plan.rounds,
            cohort=plan.cohort,
            aggregation=plan.aggregation,
            privacy=plan.privacy,
            exchange=plan.exchange,
            deadlines=plan.deadlines,
            metrics=plan.metrics,
            plan=sha256(plan.encode()),
        )

    def exchanged(self, layout: Layout) -> Exchanged:
        """Which part of ``layout`` travels.

        Raises:
            ValueError: a tensor is to be exchanged that the model does not have.
        """
        known = {tensor.name for tensor in layout.tensors}
        unknown = [name for name in self.exchange.tensors if name not in known]
        if unknown:
            raise ValueError(f"exchange: no tensor {unknown[0]!r}; there are {', '.join(sorted(known))}")
        named = frozenset(self.exchange.tensors)
        part = Layout(tuple(tensor for tensor in layout.tensors if tensor.name in named)) if named else layout
        plan = self.plan or sha256(pack("cloister/simulated-plan/v1", str(self.to_json()).encode()))
        return Exchanged(plan, layout, part, self.exchange)

    def to_json(self) -> dict[str, Any]:
        """As a plan spells them, but for the members, of whom there may be thousands."""
        return {
            "rounds": self.rounds,
            "cohort": {
                "sites": len(self.cohort.members),
                "minimum": self.cohort.minimum,
                "size": self.cohort.size,
            },
            "aggregation": self.aggregation.to_json(),
            "privacy": self.privacy.to_json(),
            "exchange": self.exchange.to_json(),
            "deadlines": self.deadlines.to_json(),
            "metrics": [rule.to_json() for rule in self.metrics],
        }


def read_aggregation(given: Aggregation | Mapping[str, Any] | str, privacy: Privacy) -> Aggregation:
    """``plan.aggregation`` from what a person writes: ``"median"``, or its fields; no site is too heavy if not told.

    Raises:
        WireError, DocumentError: a field is missing, unknown or out of bounds.
    """
    if isinstance(given, Aggregation):
        return given
    fields = {"rule": given} if isinstance(given, str) else dict(given)
    return Aggregation.read({"max_weight": MAX_WEIGHT if privacy.terms is None else 1} | fields)


def read_privacy(given: Privacy | Mapping[str, Any] | None) -> Privacy:
    """``plan.privacy`` from what a person writes.

    Raises:
        WireError, DocumentError: a field is missing, unknown or out of bounds.
    """
    if given is None:
        return NO_PRIVACY
    return given if isinstance(given, Privacy) else Privacy.read(dict(given))


def read_exchange(given: Exchange | Mapping[str, Any] | None) -> Exchange:
    """``plan.exchange`` from what a person writes; what is left out is in full.

    Raises:
        WireError, DocumentError: a field is unknown or out of bounds.
    """
    if given is None:
        return IN_FULL
    return given if isinstance(given, Exchange) else Exchange.read(IN_FULL.to_json() | dict(given))


def read_deadlines(given: Deadlines | Mapping[str, Any] | None) -> Deadlines:
    """``plan.deadlines`` from what a person writes; what is left out is as by ``cloister plan new``.

    Raises:
        WireError, DocumentError: a field is unknown or out of bounds.
    """
    if given is None:
        return DEADLINES
    return given if isinstance(given, Deadlines) else Deadlines.read(DEADLINES.to_json() | dict(given))


def cohort_of(names: tuple[str, ...], size: int | None, minimum: int | None, least: int) -> Cohort:
    """``plan.cohort`` of these sites: all, and the fewest that the rule needs, where nothing else is said."""
    size = len(names) if size is None else size
    return Cohort(names, min(size, max(_FEWEST, least)) if minimum is None else minimum, size)
