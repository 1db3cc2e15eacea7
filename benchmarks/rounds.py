"""Cloister's own rounds, deployed: how long a warm one takes, what sealing costs of it, and what memory it needs.

Trust zone: the developer's machine. Every run is a federation of its own (benchmarks/deployment.py). Runs with and
without sealing take turns, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

from benchmarks.command import Benchmark, BenchmarkError, Outcome, table
from benchmarks.deployment import Deployment
from simulations.costs.grpc_limit import grpc_limit
from simulations.costs.machine import machine

_TIMEOUT_S = 900
_BYTES_PER_ELEMENT = 4
_STAGES = ("broadcast", "collect", "fold", "download.mean", "train.mean", "seal.mean", "upload.mean")


def measure_rounds(spec: Deployment, repeats: int) -> dict[str, Any]:
    """Warm rounds of ``spec``, and of the same with plain copies in place of sealing, ``repeats`` times each.

    Raises:
        BenchmarkError: a federation did not come to its end.
    """
    sealed: list[dict[str, Any]] = []
    plain: list[dict[str, Any]] = []
    for _ in range(repeats):
        sealed.append(deploy(spec))
        plain.append(deploy(replace(spec, plain=True)))
    rounds = [seconds for run in sealed for seconds in run["warm_rounds_s"]]
    copied = [seconds for run in plain for seconds in run["warm_rounds_s"]]
    round_s, copied_s = statistics.median(rounds), statistics.median(copied)
    megabytes = spec.elements * _BYTES_PER_ELEMENT / 1e6
    limit_s = grpc_limit(workers=spec.workers, megabytes=megabytes, tls=spec.tls)
    return {
        "round_s": round_s,
        "rounds_s": rounds,
        "plain_round_s": copied_s,
        "sealing_share": (round_s - copied_s) / round_s,
        "grpc_limit_s": limit_s,
        "grpc_limit_share": limit_s / round_s,
        "aggregator_peak_mb": max(run["peak_mb"]["aggregator"] for run in sealed),
        "host_peak_mb": max(run["peak_mb"]["host"] for run in sealed),
        "stages_s": _stages(sealed),
        "costs": _costs(sealed),
    }


def deploy(spec: Deployment) -> dict[str, Any]:
    """One federation in a process of its own, to its end.

    Raises:
        BenchmarkError: it did not come to it.
    """
    command = [sys.executable, "-m", "benchmarks.deployment", json.dumps(asdict(spec))]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"a federation did not end: {error}", "Its own words stand above.") from None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _stages(runs: list[dict[str, Any]]) -> dict[str, float]:
    told = [stages for run in runs for stages in run["stages"]]
    return {name: statistics.median(stages[name] for stages in told) for name in _STAGES}


def _costs(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of a warm round, by kind of process: seconds on a core, page faults, wake-ups; the median of ``runs``."""
    kinds = runs[0]["costs"]
    return {
        kind: {name: statistics.median(run["costs"][kind][name] for run in runs) for name in cost}
        for kind, cost in kinds.items()
    }


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--mb", type=float, default=100.0, help="of the model in float32, decimal megabytes")
    parser.add_argument("--rounds", type=int, default=5, help="of each run; the first one is not warm")
    parser.add_argument("--repeats", type=int, default=1, help="runs with sealing, and as many without")
    parser.add_argument("--tensors", type=int, default=1, help="into how many the model is cut")
    parser.add_argument("--encoding", choices=("float32", "bfloat16", "int8"), default="float32", help="of updates")
    parser.add_argument("--processes", type=int, default=0, help="in which the workers live; 0: one for each")
    parser.add_argument(
        "--tls", action="store_true", help="between workers and host, too; peers are driven without, but NVFlare"
    )


def _run(options: argparse.Namespace) -> Outcome:
    if options.rounds < 2 or options.workers < 2:
        raise BenchmarkError("nothing to measure", "Give at least 2 workers and 2 rounds: the first is not warm.")
    spec = Deployment(
        workers=options.workers,
        processes=options.processes or options.workers,
        elements=max(int(options.mb * 1e6) // _BYTES_PER_ELEMENT, options.tensors),
        tensors=options.tensors,
        rounds=options.rounds,
        encoding=options.encoding,
        tls=options.tls,
    )
    found_on = machine()
    found = measure_rounds(spec, options.repeats)
    data = {"benchmark": BENCHMARK.name, "machine": found_on, "spec": asdict(spec), **found}
    rows: list[tuple[str, ...]] = [("what", "figure"), *((name, f"{found[name]:.3f}") for name in _SHOWN)]
    rows += [(f"stage {name}", f"{seconds:.3f}") for name, seconds in found["stages_s"].items()]
    for kind, cost in found["costs"].items():
        rows.append((f"processor, {kind}", f"{cost['user_s'] + cost['system_s']:.3f}"))
    return Outcome(data, table(rows))


_SHOWN = (
    "round_s",
    "plain_round_s",
    "sealing_share",
    "grpc_limit_s",
    "grpc_limit_share",
    "aggregator_peak_mb",
    "host_peak_mb",
)

BENCHMARK = Benchmark(
    "rounds", "Cloister's deployed rounds: time, what sealing costs of it, memory", _add_options, _run
)
