"""What it costs that a process dies: an aggregator in the middle of a round, a host again and again.

Trust zone: the developer's machine. Everything is deployed as in benchmarks/deployment.py; what dies is started again
at once, as a service manager would. The host is a new interpreter each time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import Benchmark, BenchmarkError, Outcome, table
from benchmarks.consortium import Consortium
from benchmarks.deployment import (
    HOST_LIMITS,
    Deployment,
    fork,
    host_command,
    serve_aggregator,
    show_logs,
    start_order,
    terms_of,
)
from benchmarks.supervised import Supervised, supervise
from benchmarks.worker_processes import Address, serve_members
from simulations.costs.machine import machine
from softtee.chip import SoftwareRoot

_BYTES_PER_ELEMENT = 4
_FIRST_KILL_ROUND = 2
_RUN_S = 600.0
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class _Deployed:
    consortium: Consortium
    address: Address
    host: Supervised
    aggregator: Supervised


@contextmanager
def _deployed(spec: Deployment) -> Iterator[_Deployed]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="cloister-benchmark-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        initial = np.zeros(spec.elements, dtype="<f4")
        now = datetime.now(UTC).replace(microsecond=0)
        consortium = Consortium.of(SoftwareRoot.create(now=now), terms_of(spec, initial), now)
        address = _configure(folder, consortium)
        host = supervise(stack, folder, "host", spec, lambda: os.execv(*host_command(folder)))  # noqa: S606
        serve = serve_aggregator(consortium, address.door)
        aggregator = supervise(stack, folder, "aggregator", spec, serve)
        update = np.full(spec.elements, 1e-3, dtype="<f4")
        for place in range(spec.processes):
            members = list(consortium.keys)[place :: spec.processes]

            def work(members: list[str] = members) -> None:
                serve_members(consortium, members, address, initial=initial, update=update, training_s=spec.training_s)

            fork(stack, folder / f"workers-{place}.log", spec, work)
        try:
            yield _Deployed(consortium, address, host, aggregator)
        except BaseException:
            show_logs(folder)
            raise


def _configure(folder: Path, consortium: Consortium) -> Address:
    """A host without TLS, on a port of its own: it must be found again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listen = f"http://127.0.0.1:{probe.getsockname()[1]}"
    door = f"unix:{folder}/host/door/door.sock"
    (folder / "charter.json").write_bytes(consortium.charter.envelope)
    config = {"state": "host", "listen": listen, "door": door, "charter": "charter.json", "limits": HOST_LIMITS}
    (folder / "host.json").write_text(json.dumps(config))
    return Address(listen, b"", door)


def _follow(deployed: _Deployed) -> Iterator[tuple[float, dict[str, Any]]]:
    """Start the run; every event, and when it was heard. The host may be gone at any time."""
    from console.client import HostClient
    from trusted.errors import ProtocolError, Reason

    plan, order, number = deployed.consortium.plan.digest, start_order(deployed.consortium), 0
    deadline, ordered = time.monotonic() + _RUN_S, False
    while time.monotonic() < deadline:
        try:
            with HostClient(deployed.address.target, None) as client:
                if not ordered:
                    client.submit(order)
                    ordered = True
                for event in client.watch(plan, number):
                    number = event.number
                    yield time.monotonic(), dict(event.fields)
                    if event.fields["event"] == "run-ended":
                        return
        except ProtocolError as error:
            ordered = ordered or error.reason is Reason.ORDER_REPLAYED
            time.sleep(0.05)
    raise BenchmarkError("the run did not end", "Its logs stand above.")


def measure_aggregator(spec: Deployment, kills: int) -> dict[str, Any]:
    """Kill the aggregator when a round has opened, ``kills`` times: seconds until it goes on, and has folded."""
    recovered, folded, rounds = [], [], []
    with _deployed(replace(spec, rounds=_FIRST_KILL_ROUND + 2 * kills)) as deployed:
        began, opened, killed = 0.0, 0.0, 0
        for at, event in _follow(deployed):
            name = event["event"]
            if name == "round-opened":
                opened = at
                if killed < kills and event["round"] == _FIRST_KILL_ROUND + 2 * killed:
                    began, killed = deployed.aggregator.kill().began, killed + 1
            elif name == "recovered" and began:
                recovered.append(at - began)
            elif name == "round-committed" and began:
                folded.append(at - began)
                began = 0.0
            elif name == "round-committed":
                rounds.append(at - opened)
    return {
        "model_mb": spec.elements * _BYTES_PER_ELEMENT / 1e6,
        "workers": spec.workers,
        "recovered_s": statistics.median(recovered),
        "folded_s": statistics.median(folded),
        "undisturbed_round_s": statistics.median(rounds),
        "kills": len(folded),
    }


def measure_host(spec: Deployment, every_s: float) -> dict[str, Any]:
    """The same run, undisturbed and with its host killed whenever it has lived for ``every_s`` seconds."""
    undisturbed_s, _ = _timed(spec, None)
    disturbed_s, kills = _timed(spec, every_s)
    return {
        "workers": spec.workers,
        "rounds": spec.rounds,
        "training_s": spec.training_s,
        "every_s": every_s,
        "kills": kills,
        "undisturbed_s": undisturbed_s,
        "disturbed_s": disturbed_s,
        "ratio": disturbed_s / undisturbed_s,
    }


def _timed(spec: Deployment, every_s: float | None) -> tuple[float, int]:
    """From the first round that opens to the last that is committed."""
    over, kills = threading.Event(), 0
    with _deployed(spec) as deployed:

        def kill_again() -> None:
            nonlocal kills
            while every_s is not None and not over.wait(every_s):
                deployed.host.kill()
                kills += 1
                _wait_for_port(deployed.address)

        killer, opened, committed = threading.Thread(target=kill_again), 0.0, {}
        try:
            for at, event in _follow(deployed):
                if event["event"] == "round-opened" and not opened:
                    opened = at
                    killer.start()
                elif event["event"] == "round-committed":
                    committed[event["round"]] = at
                elif event["event"] == "round-abandoned":
                    raise BenchmarkError("a round was abandoned", "The figures would mean nothing.")
        finally:
            over.set()
            if killer.ident is not None:
                killer.join()
    if len(committed) != spec.rounds:
        raise BenchmarkError(f"{len(committed)} of {spec.rounds} rounds were told", "The host lost events.")
    return max(committed.values()) - opened, kills


def _wait_for_port(address: Address) -> None:
    """Until the host listens again: it is killed so long after that, however slow this machine starts it."""
    name, _, port = address.target.removeprefix("http://").rpartition(":")
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((name, int(port)), timeout=1):
            return
        time.sleep(0.02)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", default="1,10,100", help="sizes of the model in float32, with commas between")
    parser.add_argument("--kills", type=int, default=3, help="of the aggregator, for each size")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--processes", type=int, default=4, help="in which the workers live")
    parser.add_argument("--rounds", type=int, default=30, help="of the run whose host is killed")
    parser.add_argument("--every-s", type=float, default=10.0, help="how often")
    parser.add_argument("--training-s", type=float, default=2.0, help="of a worker, in each of its rounds")


def _run(options: argparse.Namespace) -> Outcome:
    processes = min(options.processes, options.workers)
    sizes = [float(size) for size in options.mb.split(",")]
    specs = [Deployment(options.workers, processes, int(size * 1e6) // _BYTES_PER_ELEMENT) for size in sizes]
    aggregators = [measure_aggregator(spec, options.kills) for spec in specs]
    run = replace(specs[0], rounds=options.rounds, training_s=options.training_s)
    host = measure_host(run, options.every_s)
    data = {"benchmark": BENCHMARK.name, "machine": machine(), "aggregator": aggregators, "host": host}
    return Outcome(data, f"{_aggregator_table(aggregators)}\n\n{_host_table(host)}")


def _aggregator_table(found: list[dict[str, Any]]) -> str:
    heading = ("model MB", "workers", "restart to recovered s", "restart to folded s", "undisturbed round s", "kills")
    keys = ("recovered_s", "folded_s", "undisturbed_round_s")
    rows = [
        (f"{one['model_mb']:g}", str(one["workers"]), *(f"{one[key]:.2f}" for key in keys), str(one["kills"]))
        for one in found
    ]
    return table([heading, *rows])


def _host_table(host: dict[str, Any]) -> str:
    heading = ("workers", "rounds", "host killed every s", "kills", "undisturbed s", "disturbed s", "ratio")
    counts = (str(host["workers"]), str(host["rounds"]), f"{host['every_s']:g}", str(host["kills"]))
    times = (f"{host['undisturbed_s']:.1f}", f"{host['disturbed_s']:.1f}", f"{host['ratio']:.2f}")
    return table([heading, (*counts, *times)])


BENCHMARK = Benchmark("recovery", "what a dead aggregator and a dying host cost", _add_options, _run)
