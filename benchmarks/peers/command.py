"""``python -m benchmarks peers``: Cloister and the installed peers, in one go. Trust zone: the developer's machine.

Repeats are interleaved, so that what else the machine does falls on all alike. A peer that does not install or does
not do its rounds is reported with its reason; nothing is left out in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.command import Benchmark, BenchmarkError, Outcome
from benchmarks.peers import cloister, flower, nvflare, openfl
from benchmarks.peers.comparison import Failure, Run, in_words, standings
from benchmarks.peers.environments import Environment, prepare
from benchmarks.peers.load import Load, PeerFailed
from benchmarks.peers.peer import Peer, Site
from benchmarks.peers.plot import plot
from simulations.costs.machine import machine

PEERS: Mapping[str, Peer] = MappingProxyType(
    {peer.name: peer for peer in (flower.PEER, nvflare.PEER, nvflare.FAST_POLL, openfl.PEER, cloister.PEER)}
)
_DEFAULT = "flower,nvflare,openfl,cloister"
_HERE = Environment(Path(sys.executable), "")
_TRIES = 2
_BUILD = Path(__file__).parents[2] / "build"


@dataclass(slots=True)
class Comparison:
    """What was found so far.

    Attributes:
        work: for the folders of runs; those of failed ones stay.
        runs: what was measured.
        failures: what was not, and why.
    """

    work: Path
    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _given_up: set[tuple[Peer, Load]] = field(default_factory=set)

    def install(self, peers: Iterable[Peer], cache: Path) -> dict[Peer, Environment]:
        """The environment of each peer that installs."""
        ready: dict[Peer, Environment] = {}
        for peer in peers:
            try:
                name = _cache_name(peer)
                ready[peer] = _HERE if peer.requirement is None else prepare(cache, name, peer.requirement, _say)
            except PeerFailed as failure:
                self._fail(Failure(peer.name, None, failure.message, failure.log))
        return ready

    def measure(self, ready: Mapping[Peer, Environment], load: Load, repeat: int) -> None:
        """One run of each peer, tried twice: a start may fail because the machine is busy."""
        for peer, environment in ready.items():
            if (peer, load) in self._given_up:
                continue
            _say(f"{load}, repeat {repeat}: {peer.name}")
            if not any(self._ran(peer, environment, load, repeat) for _ in range(_TRIES)):
                self._given_up.add((peer, load))

    def missing(self, ready: Mapping[Peer, Environment], loads: Iterable[Load]) -> tuple[str, ...]:
        """What was asked for and never worked, in words."""
        measured = {(run.peer, run.load) for run in self.runs}
        lost = [failure for failure in self.failures if failure.load is None]
        for load in loads:
            for peer in ready:
                if (peer.name, load) not in measured:
                    lost += [failure for failure in self.failures if (failure.peer, failure.load) == (peer.name, load)]
        return tuple(dict.fromkeys(map(str, lost)))

    def _ran(self, peer: Peer, environment: Environment, load: Load, repeat: int) -> bool:
        folder, shared = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=self.work)), self.work / peer.name
        shared.mkdir(exist_ok=True)
        os.sync()  # or this peer waits for the disk while it takes what the last one wrote
        load_1m = round(os.getloadavg()[0], 2)
        try:
            rounds = peer.drive(Site(environment, folder, shared), load)
        except PeerFailed as failure:
            self._fail(Failure(peer.name, load, failure.message, failure.log))
            return False
        self.runs.append(Run(peer.name, load, repeat, load_1m, rounds))
        _say(f"  {rounds.median_s:.3f} s a round, servers {rounds.server_mb:.0f} MB")
        shutil.rmtree(folder, ignore_errors=True)
        return True

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        _say(f"  FAILED {failure}")


def _cache_name(peer: Peer) -> str:
    """Peers that differ in their settings share an environment."""
    return peer.name.partition("-")[0]


def _say(words: str) -> None:
    """Progress, on stderr: a comparison takes many minutes."""
    print(words, file=sys.stderr, flush=True)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", default=_DEFAULT, help=f"comma-separated, of {', '.join(PEERS)}; default {_DEFAULT}")
    parser.add_argument("--mb", default="100,1", help="sizes of the model, decimal MB, comma-separated; default 100,1")
    parser.add_argument("--workers", type=int, default=8, help="default 8")
    parser.add_argument("--rounds", type=int, default=3, help="warm rounds of a run, after one that is not counted")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each peer, interleaved")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds, after which a run has failed")
    parser.add_argument("--cache", type=Path, default=_BUILD / "peers", help="for the peers' virtual environments")
    parser.add_argument("--out", type=Path, help="for peers.json and peers.svg; default below build/benchmarks")


def _run(options: argparse.Namespace) -> Outcome:
    peers, loads = list(_asked_peers(options.peers)), list(_asked_loads(options))
    found_on = machine()
    out = options.out or _BUILD / "benchmarks" / f"peers-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(work.resolve())
    ready = comparison.install(peers, options.cache.resolve())
    try:
        for repeat in range(1, options.repeats + 1):
            for load in loads:
                comparison.measure(ready, load, repeat)
    finally:  # what an hour has measured outlives Ctrl-C
        data = _data(comparison, peers, ready) | {"machine": found_on}
        text = _write(out, data, comparison)
    if not comparison.failures:
        shutil.rmtree(work)
    return Outcome(data | {"out": str(out)}, text, comparison.missing(ready, loads))


def _asked_peers(names: str) -> Iterator[Peer]:
    for name in dict.fromkeys(names.split(",")):
        if name not in PEERS:
            raise BenchmarkError(f"--peers: no peer is called {name!r}", f"There are: {', '.join(PEERS)}.")
        yield PEERS[name]


def _asked_loads(options: argparse.Namespace) -> Iterator[Load]:
    if min(options.workers, options.rounds, options.repeats) < 1:
        raise BenchmarkError("--workers, --rounds and --repeats: at least 1 each", "Leave them out for the defaults.")
    for size in options.mb.split(","):
        try:
            megabytes = float(size)
        except ValueError:
            megabytes = 0.0
        if not 0.001 <= megabytes <= 100_000:
            raise BenchmarkError(f"--mb: {size!r} is no size", "Write decimal megabytes, for instance 100,1.")
        yield Load(options.workers, megabytes, options.rounds, options.timeout)


def _data(comparison: Comparison, peers: Sequence[Peer], ready: Mapping[Peer, Environment]) -> dict[str, Any]:
    settings = {peer.name: peer.setting for peer in peers}
    refused = [reason for environment in ready.values() for reason in environment.refused]
    return {
        "benchmark": BENCHMARK.name,
        "settings": settings,
        "refused_versions": list(dict.fromkeys(refused)),
        "standings": [standing.to_json() for standing in standings(comparison.runs)],
        "runs": [run.to_json() for run in comparison.runs],
        "failures": [failure.to_json() for failure in comparison.failures],
    }


def _write(out: Path, data: dict[str, Any], comparison: Comparison) -> str:
    """Raw results and plot into ``out``; what there is to say."""
    found = standings(comparison.runs)
    (out / "peers.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    if found:
        (out / "peers.svg").write_text(plot(found), encoding="utf-8")
    refused = [f"not installed: {reason}" for reason in data["refused_versions"]]
    return "\n".join([in_words(found, comparison.failures), *refused, f"raw results and plot: {out}"])


BENCHMARK = Benchmark("peers", "rounds of Cloister and of Flower, NVFlare and OpenFL, side by side", _add_options, _run)
