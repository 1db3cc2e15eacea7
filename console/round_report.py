"""Where the time of each round went, folded from a run's public events. Trust zone: a member's machine.

The events are the aggregator's word, relayed by a host that may lie; what a worker says of itself may be a lie too:
good for finding what is slow, no evidence. An update's size follows from the plan, and is fixed before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from coordinator.host.round_stages import AGGREGATOR_STAGES, WORKER_STAGES, round_seconds, told_stages
from trusted.blob import BlobKind
from trusted.documents.plan import VerifiedPlan
from trusted.exchange import Exchanged

REST = "rest"


class Outcome(Enum):
    """What became of a round."""

    OPEN = "open"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class RoundSplit:
    """One round: seconds by stage as told (empty: nobody told), sealed bytes to the sites and of what was counted."""

    number: int
    bytes_down: int
    bytes_up: int = 0
    outcome: Outcome = Outcome.OPEN
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """From the sealing of the model to the end of the fold."""
        return round_seconds(self.stages)

    @property
    def bytes_per_s(self) -> float | None:
        """Both ways, over the whole round."""
        return (self.bytes_down + self.bytes_up) / self.seconds if self.seconds else None

    @property
    def waits(self) -> Mapping[str, float]:
        """What everybody else waited for: each stage at its slowest site, and the rest of the collecting."""
        seconds = self.stages
        if self.seconds is None or any(f"{stage}.max" not in seconds for stage in WORKER_STAGES):
            return {stage: seconds[stage] for stage in AGGREGATOR_STAGES if stage in seconds}
        sites = {stage: seconds[f"{stage}.max"] for stage in WORKER_STAGES}
        rest = max(0.0, seconds["collect"] - sum(sites.values()))
        return {"broadcast": seconds["broadcast"], **sites, REST: rest, "fold": seconds["fold"]}

    @property
    def longest(self) -> str | None:
        """The stage that the others waited for longest."""
        waits = self.waits
        return max(waits, key=lambda stage: waits[stage]) if waits else None

    def to_json(self) -> dict[str, Any]:
        """One entry of ``rounds`` in ``--json``."""
        return {
            "round": self.number,
            "outcome": self.outcome.value,
            "seconds": self.seconds,
            "stages": dict(self.stages),
            "longest": self.longest,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "bytes_per_s": self.bytes_per_s,
        }


def split_rounds(events: Iterable[Mapping[str, Any]], plan: VerifiedPlan) -> list[RoundSplit]:
    """Each round that opened, in the order of the events; one that opened again after a restart stands there again."""
    rounds: list[RoundSplit] = []
    for event in events:
        if event["event"] == "round-opened" and "round" in event:
            rounds.append(RoundSplit(event["round"], event.get("bytes", 0) * _sampled(event, plan)))
        elif rounds and rounds[-1].number == event.get("round"):
            rounds[-1] = _after(rounds[-1], event, plan)
    return rounds


def _after(split: RoundSplit, event: Mapping[str, Any], plan: VerifiedPlan) -> RoundSplit:
    match event["event"]:
        case "contribution" if event.get("outcome") == "counted":
            return replace(split, bytes_up=split.bytes_up + _update_bytes(split.number, str(event.get("member")), plan))
        case "round-committed":
            return replace(split, outcome=Outcome.COMMITTED)
        case "round-abandoned":
            return replace(split, outcome=Outcome.ABANDONED)
        case "round-stages":
            return replace(split, stages=told_stages(event))
    return split


def _sampled(event: Mapping[str, Any], plan: VerifiedPlan) -> int:
    """How many sites got the model; a host shows no list of more than 256 names, and then the plan's number stands."""
    named = event.get("waiting_for")
    return len(named) if isinstance(named, list) else plan.document.cohort.size


def _update_bytes(number: int, member: str, plan: VerifiedPlan) -> int:
    if member not in plan.document.cohort.members:
        return 0
    return Exchanged.of(plan).header(BlobKind.UPDATE, number, member).sealed_bytes
