"""The stages of a round as ``round-stages`` tells them (docs/protocol.md §11). Trust zone: host, console.

The aggregator's word by its own clock, and each worker's about itself: good for finding what is slow, no evidence. Only
names on this list are taken, so that nobody fills the metrics of a host with labels of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AGGREGATOR_STAGES = ("broadcast", "collect", "fold")  # one after the other; together they are the round
WORKER_STAGES = ("download", "train", "seal", "upload")  # at each worker within "collect", waits included
STAGES = (*AGGREGATOR_STAGES, *(f"{stage}.{of}" for stage in WORKER_STAGES for of in ("mean", "max")))
_LONGEST_S = 1e7


def told_stages(event: Mapping[str, Any]) -> Mapping[str, float]:
    """Seconds by stage, of those on the list, in its order; empty where the event tells none."""
    metrics = event.get("metrics", {})
    return {name: float(metrics[name]) for name in STAGES if name in metrics and 0 <= metrics[name] <= _LONGEST_S}


def round_seconds(stages: Mapping[str, float]) -> float | None:
    """From the beginning of the round's sealing to its fold; None where a part of it is not told."""
    if not all(stage in stages for stage in AGGREGATOR_STAGES):
        return None
    return round(sum(stages[stage] for stage in AGGREGATOR_STAGES), 6)  # microseconds, as they are told
