"""Which metrics leave the aggregator, and how coarse. Trust zone: aggregator TEE.

Rules: only names on the plan's list leave, only as a weighted mean over enough sites that each stand on enough rows,
only rounded. A listed metric that does not leave is told as withheld, with the rule that keeps it, and never a value.

What this is no protection against: means of two rounds whose cohorts differ by one site differ by that site's report,
blurred by the rounding, by weights that nobody is told, and by another round's model (docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.enclave.rounds import Round
from trusted.documents.plan import Plan
from trusted.documents.terms import MetricRule
from trusted.errors import Reason, RoundError


@dataclass(frozen=True, slots=True)
class Report:
    """What one site reports: numbers by name, and on how many rows they stand by its own word."""

    rows: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Disclosed:
    """What may be told: means by name; and of each other listed metric by which rule it is withheld."""

    told: dict[str, float] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> list[str]:
        """For an event: ``auc:min_sites``."""
        return [f"{name}:{why}" for name, why in sorted(self.withheld.items())]


def parse_metrics(value: Any, plan: Plan) -> Mapping[str, float]:
    """The metrics of one update. The worker may be lying.

    Raises:
        RoundError: a name that the plan does not list, or a value that is no finite number.
    """
    allowed = {rule.name for rule in plan.metrics}
    if not isinstance(value, dict) or not set(value) <= allowed:
        raise RoundError(Reason.METRIC, "update.metrics: only names on the plan's list may leave a site")
    for number in value.values():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise RoundError(Reason.METRIC, "update.metrics: finite numbers expected")
    return {name: float(number) for name, number in value.items()}


def disclosed_round(plan: Plan, closed: Round) -> Disclosed:
    """What may be told of a folded round."""
    reports = [Report(closed.counted[member].weight, found) for member, found in sorted(closed.metrics.items())]
    return disclosed(plan.metrics, reports)


def disclosed(rules: Iterable[MetricRule], reports: Iterable[Report]) -> Disclosed:
    """For each listed metric its mean, weighted by rows, if enough sites reported it on enough rows; else why not."""
    found, said = Disclosed(), tuple(reports)
    for rule in rules:
        naming = [report for report in said if rule.name in report.metrics]
        counting = [report for report in naming if report.rows >= rule.min_rows]
        if len(counting) < rule.min_sites:
            found.withheld[rule.name] = "min_sites" if len(naming) < rule.min_sites else "min_rows"
            continue
        total = sum(report.rows for report in counting)
        mean = sum(report.rows / total * report.metrics[rule.name] for report in counting)  # nothing leaves float64
        found.told[rule.name] = round(mean, rule.digits)
    return found
