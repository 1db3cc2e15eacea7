"""The limits of this machine, stage by stage, in one run. Trust zone: the developer's machine.

A round cannot be faster than its slowest stage: what a pipeline reaches is to be read against these figures, measured
on the same machine at the same time.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.command import Benchmark, Outcome, table
from simulations.costs.grpc_limit import Traffic, move
from simulations.costs.machine import machine
from simulations.costs.rates import Rate
from simulations.costs.sockets import socket_rates
from simulations.costs.stages import stage_rates
from trusted.allocator import keep_chunk_memory

_MEGABYTE = 1_000_000
_PASSES = 3


def _grpc_rates(megabytes: int, workers: int) -> list[Rate]:
    """Streams of raw bytes in 1 MiB messages: down, up, and a whole round, bare and under TLS."""
    size = megabytes * _MEGABYTE
    rates = []
    for tls in (False, True):
        words = ", TLS" if tls else ""
        for clients in sorted({1, workers}):
            asked = {
                f"gRPC down, {_clients(clients)}{words}": Traffic(clients, size, 0, tls),
                f"gRPC up, {_clients(clients)}{words}": Traffic(clients, 0, size, tls),
            }
            rates += [Rate(what, each.size_bytes, move(each, passes=_PASSES)) for what, each in asked.items()]
        each = Traffic(workers, size, size, tls)
        what = f"gRPC, a round of {_clients(workers)}{words}"
        rates.append(Rate(what, each.size_bytes, move(each, passes=_PASSES)))
    return rates


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", type=int, default=100, help="payload of a worker and direction, decimal MB")
    parser.add_argument("--workers", type=int, default=8, help="clients of the gRPC round, each a process")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long to repeat each stage of one core")


def _run(options: argparse.Namespace) -> Outcome:
    found_on = machine()
    keep_chunk_memory()  # as every process of the pipeline does
    rates = stage_rates(options.seconds)
    rates += socket_rates(megabytes=max(options.mb, 1), passes=_PASSES)
    rates += _grpc_rates(options.mb, options.workers)
    data: dict[str, Any] = {"benchmark": BENCHMARK.name, "machine": found_on, "workers": options.workers}
    data["rates"] = [rate.to_json() for rate in rates]
    return Outcome(data, table([("stage", "GB/s median", "best", "runs"), *(rate.row() for rate in rates)]))


BENCHMARK = Benchmark(
    "limits", "AEAD, fold, copy, sockets and gRPC: what this machine can do at best", _add_options, _run
)
