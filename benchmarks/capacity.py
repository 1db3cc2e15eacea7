"""Predicted rounds against deployed ones: by what factor predictions are off. Zone: developer's machine.

Costs are measured before the first and after the last deployment, and the better of both is taken for each: on a shared
machine the one that others disturbed less. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.command import Benchmark, BenchmarkError, Outcome, table
from benchmarks.deployment import Deployment
from benchmarks.rounds import deploy
from simulations.capacity.costs import Costs
from simulations.capacity.prediction import Federation, Prediction, predict
from simulations.costs.machine import machine

_BYTES_PER_ELEMENT = 4
_CROWD = 17  # from so many workers on they share processes


@dataclass(frozen=True, slots=True)
class Compared:
    """One deployment, and what was predicted of it."""

    workers: int
    megabytes: float
    measured_s: float
    peak_mb: dict[str, float]
    predicted: Prediction

    @property
    def factor(self) -> float:
        """Of the round's time, either way: 1 is exact."""
        return _either_way(self.predicted.round_s / self.measured_s)

    @property
    def memory_factor(self) -> float:
        """The worst of aggregator and host."""
        return max(_either_way(self.predicted.memory_mb[name] / peak) for name, peak in self.peak_mb.items())

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "workers": self.workers,
            "model_mb": self.megabytes,
            "measured_s": self.measured_s,
            "measured_peak_mb": self.peak_mb,
            "predicted": self.predicted.to_json(),
            "factor": self.factor,
            "memory_factor": self.memory_factor,
        }

    def row(self) -> tuple[str, ...]:
        """For the table."""
        peaks = [f"{self.predicted.memory_mb[name]:.0f} / {self.peak_mb[name]:.0f}" for name in ("aggregator", "host")]
        times = (f"{self.predicted.round_s:.2f}", f"{self.measured_s:.2f}", f"{self.factor:.2f}")
        return (str(self.workers), f"{self.megabytes:g}", *times, *peaks)


def compare(sizes: list[tuple[int, float]], rounds: int) -> tuple[list[Compared], Costs]:
    """Deploy each size, measure the costs, predict.

    Raises:
        BenchmarkError: a federation did not come to its end.
    """
    before = Costs.measure()
    deployed = [(workers, megabytes, deploy(_spec(workers, megabytes, rounds))) for workers, megabytes in sizes]
    costs = _better(before, Costs.measure())
    compared = []
    for workers, megabytes, found in deployed:
        predicted = predict(Federation(workers, megabytes * 1e6), costs)
        seconds = statistics.median(found["warm_rounds_s"])
        compared.append(Compared(workers, megabytes, seconds, found["peak_mb"], predicted))
    return compared, costs


def _spec(workers: int, megabytes: float, rounds: int) -> Deployment:
    elements, crowd = max(1, int(megabytes * 1e6) // _BYTES_PER_ELEMENT), workers >= _CROWD
    return Deployment(workers, 2 if crowd else workers, elements, rounds=rounds, crowd=crowd, tls=False)


def _better(one: Costs, other: Costs) -> Costs:
    values: dict[str, Any] = {}
    for field in fields(Costs):
        left, right = getattr(one, field.name), getattr(other, field.name)
        values[field.name] = min(left, right) if field.name == "call_s" else max(left, right)
    return Costs(**values)


def _either_way(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="2x1,2x10,2x100,8x1,8x10,8x100", help="workers x MB, with commas between")
    parser.add_argument("--rounds", type=int, default=4, help="of each deployment; the first one is not warm")


def _run(options: argparse.Namespace) -> Outcome:
    try:
        sizes = [(int(each.split("x")[0]), float(each.split("x")[1])) for each in options.sizes.split(",")]
    except (ValueError, IndexError):
        raise BenchmarkError(f"--sizes {options.sizes}: no sizes", "Give, say, 2x10,8x100.") from None
    if options.rounds < 2 or min(workers for workers, _ in sizes) < 2:
        raise BenchmarkError("nothing to measure", "Give at least 2 workers and 2 rounds: the first is not warm.")
    found_on = machine()
    compared, costs = compare(sizes, options.rounds)
    factors = [one.factor for one in compared]
    summary = {
        "median_factor": statistics.median(factors),
        "worst_factor": max(factors),
        "memory_worst_factor": max(one.memory_factor for one in compared),
    }
    data = {"benchmark": BENCHMARK.name, "machine": found_on, "costs": costs.to_json(), **summary}
    data["runs"] = [one.to_json() for one in compared]
    heading = (
        "workers",
        "MB",
        "predicted s",
        "measured s",
        "factor",
        "aggregator MB",
        "host MB (predicted / measured)",
    )
    text = table([heading, *(one.row() for one in compared)])
    said = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in summary.items())
    return Outcome(data, f"{text}\n{said}")


BENCHMARK = Benchmark("capacity", "predicted rounds against deployed ones", _add_options, _run)
