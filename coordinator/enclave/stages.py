"""How long each stage of a round took: for people who ask why a round is slow. Trust zone: aggregator TEE. No clock.

The host sees all of it anyway, by watching; what a worker says of itself is bounded and believed by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import Any

from trusted.wire import Fields

# At a worker, in order: waiting included where the other side may be slow.
WORKER_STAGES = ("download", "train", "seal", "upload")
_LONGEST_S = 1e7


def read_stages(value: Any) -> Mapping[str, float]:
    """The seconds of each stage in an update message.

    Raises:
        WireError: a stage is missing or unknown, or its seconds are not a number of 0 to 10^7.
    """
    with Fields(value, "update.seconds") as fields:
        return {name: fields.number(name, low=0, high=_LONGEST_S) for name in WORKER_STAGES}


@dataclass(slots=True)
class Stages:
    """The times of one round: of the aggregator by its own clock readings, of the workers as they say."""

    begun: datetime
    _marks: dict[str, float] = field(default_factory=dict)
    _workers: list[Mapping[str, float]] = field(default_factory=list)

    def mark(self, stage: str, now: datetime) -> None:
        """``stage`` ends now; the next one begins. A stage that a round goes through again adds up."""
        self._marks[stage] = self._marks.get(stage, 0.0) + (now - self.begun).total_seconds()
        self.begun = now

    def add_worker(self, seconds: Mapping[str, float]) -> None:
        """What one worker says."""
        self._workers.append(seconds)

    def to_json(self) -> dict[str, float]:
        """Seconds by stage; ``train.mean`` and ``train.max`` over the workers that said so."""
        told = dict(self._marks)
        for stage in WORKER_STAGES if self._workers else ():
            spent = [seconds[stage] for seconds in self._workers]
            told |= {f"{stage}.mean": fmean(spent), f"{stage}.max": max(spent)}
        return {stage: round(seconds, 6) for stage, seconds in told.items()}
