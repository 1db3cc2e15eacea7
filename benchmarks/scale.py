"""What grows with the number of workers, and what must not. Trust zone: the developer's machine.

``crowd``: an admission storm and rounds of very many small updates. ``memory``: the peak of aggregator and host for
more and more workers, and for a model larger than comfort. The workers are those of benchmarks/crowd.py.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.command import Benchmark, BenchmarkError, Outcome, table
from benchmarks.deployment import Deployment
from benchmarks.rounds import deploy
from simulations.costs.machine import machine

_BYTES_PER_ELEMENT = 4


def measure_crowd(workers: int, megabytes: float, processes: int, rounds: int) -> dict[str, Any]:
    """Admissions a second from the first to the last, warm rounds, and peaks of memory and descriptors."""
    found = deploy(_spec(workers, megabytes, processes, rounds))
    admitted = sorted(found["admitted_s"])
    span_s = admitted[-1] - admitted[0]
    return {
        "workers": workers,
        "model_mb": megabytes,
        "admissions_per_s": (len(admitted) - 1) / span_s if span_s else 0.0,
        "round_s": statistics.median(found["warm_rounds_s"]),
        "rounds_s": found["warm_rounds_s"],
        "aggregator_peak_mb": found["peak_mb"]["aggregator"],
        "host_peak_mb": found["peak_mb"]["host"],
        "host_descriptors": found["descriptors"]["host"],
    }


def _spec(workers: int, megabytes: float, processes: int, rounds: int) -> Deployment:
    elements = int(megabytes * 1e6) // _BYTES_PER_ELEMENT
    return Deployment(workers, processes, elements, rounds=rounds, crowd=True, tls=False)


def _rows(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    heading = ("workers", "model MB", "admitted/s", "round s", "aggregator MB", "host MB", "host fds")
    keys = ("admissions_per_s", "round_s", "aggregator_peak_mb", "host_peak_mb")
    return [
        heading,
        *(
            (
                str(one["workers"]),
                f"{one['model_mb']:g}",
                *(f"{one[key]:.2f}" for key in keys),
                str(one["host_descriptors"]),
            )
            for one in found
        ),
    ]


def _outcome(name: str, found: list[dict[str, Any]]) -> Outcome:
    return Outcome({"benchmark": name, "machine": machine(), "runs": found}, table(_rows(found)))


def _add_crowd_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--mb", type=float, default=1.0, help="of the model in float32")
    parser.add_argument("--processes", type=int, default=4, help="in which the workers live")
    parser.add_argument("--rounds", type=int, default=3)


def _run_crowd(options: argparse.Namespace) -> Outcome:
    if options.rounds < 2 or options.workers < 2:
        raise BenchmarkError("nothing to measure", "Give at least 2 workers and 2 rounds: the first is not warm.")
    found = measure_crowd(options.workers, options.mb, min(options.processes, options.workers), options.rounds)
    return _outcome(CROWD.name, [found])


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", default="2,8,32,64", help="numbers of workers, with commas between")
    parser.add_argument("--mb", type=float, default=100.0, help="of the model in float32")
    parser.add_argument("--rounds", type=int, default=3)


def _run_memory(options: argparse.Namespace) -> Outcome:
    try:
        numbers = [int(number) for number in options.workers.split(",")]
    except ValueError:
        raise BenchmarkError(f"--workers {options.workers}: not numbers", "Give, say, 2,8,32,64.") from None
    return _outcome(MEMORY.name, [measure_crowd(number, options.mb, 2, options.rounds) for number in numbers])


CROWD = Benchmark("crowd", "very many workers on one coordinator", _add_crowd_options, _run_crowd)
MEMORY = Benchmark("memory", "peak memory against the number of workers", _add_memory_options, _run_memory)
