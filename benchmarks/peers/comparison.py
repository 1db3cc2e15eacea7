"""Runs of several peers, side by side: medians, extremes and ratios. Trust zone: the developer's machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.command import table
from benchmarks.peers.load import Load, Rounds

REFERENCE = "cloister"


@dataclass(frozen=True, slots=True)
class Run:
    """One repeat of one peer under one load.

    Attributes:
        load_1m: of the machine when it started: what others ran beside it.
    """

    peer: str
    load: Load
    repeat: int
    load_1m: float
    rounds: Rounds

    def to_json(self) -> dict[str, Any]:
        """For programs, nothing left out."""
        return {
            "peer": self.peer,
            "version": self.rounds.version,
            "workers": self.load.workers,
            "mb": self.load.megabytes,
            "repeat": self.repeat,
            "load_1m": self.load_1m,
            "round_s": list(self.rounds.round_s),
            "server_peak_mb": dict(self.rounds.server_peak_mb),
            **self.rounds.details,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """What a peer did not do.

    Attributes:
        load: under which it failed; None when it did not install.
        log: its last lines.
    """

    peer: str
    load: Load | None
    reason: str
    log: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"peer": self.peer, "what": self._what(), "reason": self.reason, "log": self.log}

    def __str__(self) -> str:
        return f"{self.peer}, {self._what()}: {self.reason}"

    def _what(self) -> str:
        return "installation" if self.load is None else str(self.load)


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer under one load, all its repeats together.

    Attributes:
        round_s: the median of the repeats' medians.
        fastest_s: of all warm rounds; ``slowest_s`` likewise.
        server_mb: the most that its servers held in any repeat.
        times_reference: how many of Cloister's rounds go into one of its; None when Cloister was not measured.
    """

    peer: str
    version: str
    load: Load
    repeats: int
    round_s: float
    fastest_s: float
    slowest_s: float
    server_mb: float
    times_reference: float | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "peer": self.peer,
            "version": self.version,
            "workers": self.load.workers,
            "mb": self.load.megabytes,
            "repeats": self.repeats,
            "round_s": round(self.round_s, 4),
            "fastest_s": round(self.fastest_s, 4),
            "slowest_s": round(self.slowest_s, 4),
            "server_peak_mb": round(self.server_mb, 1),
            "times_cloister": None if self.times_reference is None else round(self.times_reference, 2),
        }

    def row(self) -> tuple[str, ...]:
        """For the table."""
        return (
            str(self.load),
            f"{self.peer} {self.version}",
            "-" if self.times_reference is None else f"{self.times_reference:.1f}x",
            f"{self.round_s:.3f}",
            f"{self.fastest_s:.3f}",
            f"{self.slowest_s:.3f}",
            f"{self.load.payload_mb / self.round_s:.0f}",
            f"{self.server_mb:.0f}",
            str(self.repeats),
        )


def standings(runs: Sequence[Run]) -> list[Standing]:
    """One for each load and peer that was measured, in the order in which they first ran."""
    groups: dict[tuple[Load, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.load, run.peer), []).append(run)
    return [
        _standing(group, groups.get((load, REFERENCE), []))
        for (load, _), group in sorted(groups.items(), key=lambda item: -item[0][0].megabytes)
    ]


def _standing(group: Sequence[Run], reference: Sequence[Run]) -> Standing:
    every = [seconds for run in group for seconds in run.rounds.round_s]
    median = _median_s(group)
    return Standing(
        peer=group[0].peer,
        version=group[0].rounds.version,
        load=group[0].load,
        repeats=len(group),
        round_s=median,
        fastest_s=min(every),
        slowest_s=max(every),
        server_mb=max(run.rounds.server_mb for run in group),
        times_reference=median / _median_s(reference) if reference else None,
    )


def _median_s(group: Sequence[Run]) -> float:
    return statistics.median(run.rounds.median_s for run in group)


def in_words(found: Sequence[Standing], failures: Sequence[Failure]) -> str:
    """The table, and below it what failed, with the last lines of its logs."""
    heading = (
        "load", "peer", "x Cloister", "round s", "fastest", "slowest", "payload MB/s", "server MB", "repeats",
    )  # fmt: skip
    parts = [table([heading, *(standing.row() for standing in found)])]
    for failure in failures:
        parts.append(f"FAILED {failure}" + (f"\n{failure.log}" if failure.log else ""))
    return "\n\n".join(parts)
