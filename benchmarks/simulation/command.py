"""``python -m benchmarks simulation``: clients per second of every simulator, in one go. Trust zone: developer.

Repeats are interleaved. What was measured is kept in ``--out`` as it comes; the same command with the same ``--out``
goes on from there. A tool that does not install or does not end is reported with its reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.command import Benchmark, BenchmarkError, Outcome
from benchmarks.peers.environments import Environment, prepare
from benchmarks.peers.load import PeerFailed
from benchmarks.peers.processes import Family
from benchmarks.simulation.asked import Asked, Found
from benchmarks.simulation.standing import POPULATION, Journal, Measured, Missed, in_words, to_json
from benchmarks.simulation.tool import POOL, TOOLS, Tool, cores, has_bfloat16
from benchmarks.simulation.work import Work, write_rows
from simulations.costs.machine import machine
from simulations.dice import secret
from trusted.ledger.sampling import drawn

_ROOT = Path(__file__).parents[2]
_BUILD = _ROOT / "build"
_HERE = Environment(Path(sys.executable), "")
_SEED = 0  # of Cloister's cohorts, which all tools get
_CNN = Work("cnn", sites=1000, cohort=50, rounds=10, rows=50, batch=10)
_MLP = Work("mlp", sites=1000, cohort=50, rounds=10, rows=20_000, batch=256)
_POPULATIONS = (1000, 10_000)
_POPULATION_ROWS = 2_000_000
_BLAS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Comparison:
    """What is measured, and what was found so far."""

    def __init__(self, journal: Journal, cache: Path, timeout_s: float) -> None:
        self.journal = journal
        self._cache, self._timeout_s = cache, timeout_s
        self._environments: dict[str, Environment] = {}
        self._given_up: set[tuple[str, str]] = set()

    def install(self, tools: Sequence[Tool]) -> list[Tool]:
        """Those that are there, or could be installed."""
        ready = []
        for tool in tools:
            try:
                self._environments[tool.name] = self._environment(tool)
                ready.append(tool)
            except PeerFailed as failure:
                self._fail(Missed(tool.name, "installation", failure.message, failure.log))
        return ready

    def measure(self, tool: Tool, work: Work, repeat: int) -> None:
        """One run, unless it was done before or failed before."""
        work = tool.shrink(work)
        if self.journal.has(tool.name, work, repeat) or (tool.name, str(work)) in self._given_up:
            return
        _say(f"{work}, repeat {repeat}: {tool.name}")
        write_rows(self._cache / "rows", work)
        folder = Path(tempfile.mkdtemp(prefix=f"{tool.name}-", dir=self.journal.work))
        try:
            measured = self._run(tool, work, repeat, folder)
        except PeerFailed as failure:
            self._given_up.add((tool.name, str(work)))
            self._fail(Missed(tool.name, str(work), failure.message, failure.log))
            return
        self.journal.add(measured)
        _say(f"  {measured.clients_per_s:.2f} clients/s, {measured.total_s:.1f} s, {measured.peak_mb:.0f} MB")
        shutil.rmtree(folder, ignore_errors=True)

    def _run(self, tool: Tool, work: Work, repeat: int, folder: Path) -> Measured:
        environment, processes = self._environments.get(tool.name, _HERE), tool.processes or cores()
        asked = Asked(work, tuple(cohorts(work)), self._cache / "rows", processes, tool.settings).write(folder)
        load_1m = round(os.getloadavg()[0], 2)
        surroundings = _BLAS | {
            "PYTHONPATH": str(_ROOT),
            "PATH": f"{environment.path}:{os.environ['PATH']}",
            "HOME": str(folder),
            "USERNAME": "benchmark",  # OpenFL asks for it
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [
            str(environment.python),
            *tool.launcher,
            "-m",
            f"benchmarks.simulation.tools.{tool.module}",
            str(asked),
        ]
        with Family(folder, surroundings) as family:
            start = time.perf_counter()
            family.run("run", command, cwd=folder, timeout_s=self._timeout_s)
            total_s = time.perf_counter() - start
        found = Found.read(folder)
        if found is None or len(found.round_s) != work.rounds:
            raise PeerFailed("it ended without telling of every round", family.last_lines())
        return Measured(tool.name, environment.version, work, repeat, load_1m, found, total_s, family.together_mb)

    def _environment(self, tool: Tool) -> Environment:
        if tool.requirement is None:
            return _HERE
        return prepare(self._cache, f"simulation-{tool.name}", tool.requirement, _say)

    def _fail(self, failure: Missed) -> None:
        self.journal.failures.append(failure)
        _say(f"  FAILED {failure}")


def cohorts(work: Work) -> Iterator[tuple[int, ...]]:
    """The sites of each round, as a simulation with this seed draws them."""
    names = {f"site-{site:04d}": site for site in range(work.sites)}
    for number in range(1, 1 + work.rounds):
        yield tuple(names[name] for name in drawn(secret(_SEED, "cohorts"), number, names, work.cohort))


def _say(words: str) -> None:
    """Progress, on stderr: a comparison takes many minutes."""
    print(words, file=sys.stderr, flush=True)


def _add_options(parser: argparse.ArgumentParser) -> None:
    names = ",".join(TOOLS)
    parser.add_argument("--only", choices=("cnn", "mlp"), help="one of the two works; default both")
    parser.add_argument("--peers", default=names, help=f"tools, comma-separated, of {names}; default all")
    parser.add_argument("--rounds", type=int, help=f"default {_CNN.rounds}")
    parser.add_argument("--repeats", type=int, help="runs of each tool, interleaved; default 3")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds, after which a run has failed")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sites and few rounds, once: to see it run")
    parser.add_argument("--no-population", action="store_true", help="leave out the memory of 10,000 sites")
    parser.add_argument("--cache", type=Path, default=_BUILD / "peers", help="for environments and rows, kept")
    parser.add_argument(
        "--out", type=Path, help="for results; one that has some goes on; default below build/benchmarks"
    )


def _run(options: argparse.Namespace) -> Outcome:
    found_on = machine()
    works = [_scaled(work, options) for work in (_CNN, _MLP) if options.only in (None, work.model)]
    repeats = options.repeats or (1 if options.quick else 3)
    if min(repeats, *(work.rounds for work in works)) < 1:
        raise BenchmarkError("--rounds and --repeats: at least 1 each", "Leave them out for the defaults.")
    out = options.out or _BUILD / "benchmarks" / f"simulation-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    comparison = Comparison(Journal.open(out.resolve()), options.cache.resolve(), options.timeout)
    asked = list(_asked(options.peers))
    skipped = [tool.name for tool in asked if tool.settings.get("bfloat16") and not has_bfloat16()]
    ready = comparison.install([tool for tool in asked if tool.name not in skipped])
    journal = comparison.journal
    try:
        for repeat in range(1, repeats + 1):
            for work in works:
                for tool in ready:
                    if work.model in tool.models:
                        comparison.measure(tool, work, repeat)
        if not options.no_population and TOOLS[POOL] in ready:
            for sites in (size // 10 if options.quick else size for size in _POPULATIONS):
                tool = replace(TOOLS[POOL], name=f"{POPULATION}{sites}")
                comparison.measure(tool, _population(sites, options.quick), 1)
    finally:  # what an hour has measured outlives Ctrl-C
        data = to_json(journal, asked, skipped) | {"benchmark": BENCHMARK.name, "machine": found_on, "out": str(out)}
        journal.write(data)
    if not journal.failures:
        shutil.rmtree(journal.work)
    missing = tuple(dict.fromkeys(str(failure) for failure in journal.failures))
    return Outcome(data, in_words(data, journal), missing)


def _asked(names: str) -> Iterator[Tool]:
    for name in dict.fromkeys(names.split(",")):
        if name not in TOOLS:
            raise BenchmarkError(f"--peers: no tool is called {name!r}", f"There are: {', '.join(TOOLS)}.")
        yield TOOLS[name]


def _scaled(work: Work, options: argparse.Namespace) -> Work:
    rounds = work.rounds if options.rounds is None else options.rounds
    if not options.quick:
        return replace(work, rounds=rounds)
    quick_rows = work.rows if work.model == "cnn" else work.rows // 10
    return replace(work, sites=work.sites // 10, cohort=10, rounds=options.rounds or 3, rows=quick_rows)


def _population(sites: int, quick: bool) -> Work:
    """The same rows in more hands: what a site costs beside them."""
    rows = (_POPULATION_ROWS // (100 if quick else 1)) // sites
    return Work("mlp", sites=sites, cohort=50, rounds=3, rows=rows, batch=256)


BENCHMARK = Benchmark(
    "simulation", "clients per second of Cloister's simulations and of others', side by side", _add_options, _run
)
