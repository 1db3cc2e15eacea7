"""``python -m benchmarks NAME [--json]``: measure one thing. Trust zone: the developer's machine; process shell.

With ``--json`` stdout carries exactly one object, ``{"schema_version", "status", "data", "error"}``, as the console
prints it, and tables go to stderr. Exit code: 0, 1 when something asked for was not measured, 2 for a wrong command
line.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from benchmarks import attestation, capacity, limits, privacy, recovery, rounds, scale
from benchmarks.command import Benchmark, BenchmarkError, Outcome
from benchmarks.peers import command as peers
from benchmarks.robustness import command as robustness
from benchmarks.simulation import command as simulation

_SCHEMA_VERSION = "1"
BENCHMARKS: tuple[Benchmark, ...] = (
    attestation.BENCHMARK,
    limits.BENCHMARK,
    capacity.BENCHMARK,
    rounds.BENCHMARK,
    privacy.BENCHMARK,
    recovery.BENCHMARK,
    scale.CROWD,
    scale.MEMORY,
    peers.BENCHMARK,
    robustness.BENCHMARK,
    simulation.BENCHMARK,
)


def main(arguments: Sequence[str], benchmarks: Sequence[Benchmark] = BENCHMARKS) -> int:
    """Measure and print; the exit code. Argparse leaves the process with 2 on a wrong command line."""
    options = _parser(benchmarks).parse_args(arguments)
    chosen = next(item for item in benchmarks if item.name == options.name)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        outcome = chosen.run(options)
    except BenchmarkError as error:
        return _fail(options, {}, error)
    except Exception as error:  # the process shell: whatever happens, the caller gets one object and one exit code
        traceback.print_exc()
        return _fail(options, {}, BenchmarkError(f"unforeseen {type(error).__name__}", "This is a bug: see above."))
    finally:
        signal.signal(signal.SIGTERM, before)
    print(outcome.text, file=sys.stderr if options.json else sys.stdout)
    return _finish(options, outcome)


def _finish(options: argparse.Namespace, outcome: Outcome) -> int:
    if outcome.failures:
        return _fail(options, outcome.data, BenchmarkError("; ".join(outcome.failures), "The reasons stand above."))
    if options.json:
        _print_envelope("ok", outcome.data, None)
    return 0


def _parser(benchmarks: Sequence[Benchmark]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure one part of Cloister.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for item in benchmarks:
        sub = names.add_parser(item.name, help=item.summary, description=item.summary)
        sub.add_argument("--json", action="store_true", help="print one object on stdout, tables on stderr")
        item.add_options(sub)
    return parser


def _leave(number: int, _: FrameType | None) -> None:
    """An end from outside unwinds like Ctrl-C, so that the processes that were started are ended too."""
    raise SystemExit(128 + number)


def _fail(options: argparse.Namespace, data: Mapping[str, Any], error: BenchmarkError) -> int:
    print(f"error: {error.message}\n  {error.hint}", file=sys.stderr)
    if options.json:
        _print_envelope("error", data, {"code": "BENCH-001", "message": error.message, "hint": error.hint})
    return 1


def _print_envelope(status: str, data: Mapping[str, Any], error: Mapping[str, str] | None) -> None:
    envelope = {"schema_version": _SCHEMA_VERSION, "status": status, "data": dict(data), "error": error}
    print(json.dumps(envelope, allow_nan=False), flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
