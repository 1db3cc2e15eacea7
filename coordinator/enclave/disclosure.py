"""Which metrics leave the aggregator, and how coarse. Trust zone: aggregator TEE.

Only names on the plan's list leave, only as a weighted mean over enough sites, only rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coordinator.enclave.rounds import Round
from trusted.documents.plan import Plan
from trusted.errors import Reason, RoundError


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


def disclosed(plan: Plan, closed: Round) -> dict[str, float]:
    """What may be told of a folded round: for each listed metric its mean, if enough sites reported it."""
    told: dict[str, float] = {}
    for rule in plan.metrics:
        reports = [
            (closed.counted[member].weight, metrics[rule.name])
            for member, metrics in sorted(closed.metrics.items())
            if rule.name in metrics
        ]
        if len(reports) >= rule.min_sites:
            total = sum(weight for weight, _ in reports)
            mean = sum(weight / total * value for weight, value in reports)  # nothing leaves float64
            told[rule.name] = round(mean, rule.digits)
    return told
