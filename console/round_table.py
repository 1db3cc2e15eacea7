"""The split of a run's rounds as a table for people and as data for programs. Trust zone: a member's machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from console.output import Report
from console.round_report import REST, Outcome, RoundSplit
from coordinator.host.round_stages import WORKER_STAGES
from coordinator.host.run_status import RunStatus

_SHOWN = ("broadcast", *WORKER_STAGES, REST, "fold")
_HEADINGS = ("round", "seconds", *_SHOWN, "longest", "MB down", "MB up", "MB/s")
_UNTOLD = "-"
_MEANING = (
    "broadcast: the aggregator seals the model. fold: the updates become the next model.",
    "download, train, seal, upload: at the slowest site, as the sites say. rest: messages and waits between them.",
    "longest: what everybody else waited for, with its share of the round. warm: without the first round.",
    "MB: sealed, the model to all sites and every update that counted. The host's and the sites' word, no evidence.",
)


def show_rounds(report: Report, rounds: Sequence[RoundSplit], status: RunStatus) -> None:
    """Print a row for each round, totals and medians, and what the stages mean."""
    report.data |= rounds_json(rounds, status)
    if not rounds:
        report.say("No round has been opened yet.")
        return
    told = [split for split in rounds if split.seconds is not None]
    rows = [_HEADINGS, *map(_row, rounds)]
    if told:
        rows.append(_median_row("median", told))
        if len(told) > 1:
            rows.append(_median_row("warm", told[1:]))
    _print(report, rows)
    report.say("", *_totals(rounds, told, status), *(_MEANING if told else ()))
    untold = sum(split.outcome is Outcome.COMMITTED and split.seconds is None for split in rounds)
    if untold:
        report.say(
            f"{untold} committed round(s) came without their stages: from an aggregator older than this command."
        )


def rounds_json(rounds: Sequence[RoundSplit], status: RunStatus) -> dict[str, Any]:
    """``rounds``, ``totals`` and ``medians`` (null where nobody told stages)."""
    told = [split for split in rounds if split.seconds is not None]
    totals = {
        "rounds": len(rounds),
        "committed": sum(split.outcome is Outcome.COMMITTED for split in rounds),
        "told": len(told),
        "seconds": sum(split.seconds or 0.0 for split in told),
        "bytes_down": sum(split.bytes_down for split in rounds),
        "bytes_up": sum(split.bytes_up for split in rounds),
        "host_bytes_in": status.bytes_in,
        "host_bytes_out": status.bytes_out,
    }
    medians = {"all": _medians(told), "warm": _medians(told[1:])}
    return {"rounds": [split.to_json() for split in rounds], "totals": totals, "medians": medians}


def _medians(told: Sequence[RoundSplit]) -> dict[str, Any] | None:
    if not told:
        return None
    names = [name for name in told[0].stages if all(name in split.stages for split in told)]
    return {
        "seconds": median(split.seconds or 0.0 for split in told),
        "stages": {name: median(split.stages[name] for split in told) for name in names},
        "bytes_per_s": median(split.bytes_per_s or 0.0 for split in told),
    }


def _row(split: RoundSplit) -> tuple[str, ...]:
    ending = "" if split.outcome is Outcome.COMMITTED else f" {split.outcome.value}"
    stages = [_seconds(split.waits.get(stage)) for stage in _SHOWN]
    carried = [_megabytes(split.bytes_down), _megabytes(split.bytes_up), _megabytes(split.bytes_per_s)]
    return f"{split.number}{ending}", _seconds(split.seconds), *stages, _longest(split), *carried


def _median_row(name: str, told: Sequence[RoundSplit]) -> tuple[str, ...]:
    def of(value: Callable[[RoundSplit], float | None]) -> float | None:
        values = [found for found in map(value, told) if found is not None]
        return median(values) if values else None

    stages = [_seconds(of(lambda split, stage=stage: split.waits.get(stage))) for stage in _SHOWN]  # type: ignore[misc]
    carried = [
        of(lambda split: split.bytes_down),
        of(lambda split: split.bytes_up),
        of(lambda split: split.bytes_per_s),
    ]
    return name, _seconds(of(lambda split: split.seconds)), *stages, "", *map(_megabytes, carried)


def _longest(split: RoundSplit) -> str:
    stage = split.longest
    if stage is None or not split.seconds:
        return _UNTOLD
    return f"{stage} {min(1.0, split.waits[stage] / split.seconds):.0%}"


def _totals(rounds: Sequence[RoundSplit], told: Sequence[RoundSplit], status: RunStatus) -> list[str]:
    committed = sum(split.outcome is Outcome.COMMITTED for split in rounds)
    seconds = sum(split.seconds or 0.0 for split in told)
    down, up = sum(split.bytes_down for split in rounds), sum(split.bytes_up for split in rounds)
    return [
        f"In all: {committed} of {len(rounds)} opened round(s) committed, {_megabytes(down)} MB down, "
        f"{_megabytes(up)} MB up, {seconds:.3f} s in the {len(told)} round(s) that told their stages.",
        f"The host counted {_megabytes(status.bytes_in)} MB in and {_megabytes(status.bytes_out)} MB out, "
        "admissions, messages and the initial model included.",
    ]


def _seconds(value: float | None) -> str:
    return _UNTOLD if value is None else f"{value:.3f}"


def _megabytes(count: float | None) -> str:
    return _UNTOLD if count is None else f"{count / 1e6:.4g}" if count < 1e9 else f"{count / 1e6:.0f}"


def _print(report: Report, rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    report.say(*("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows))
