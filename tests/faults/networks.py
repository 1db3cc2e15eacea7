"""``python -m tests.faults.networks [CASE…]``: sites in networks of their own, on lines as hospitals have them.

A process shell that forks, started in a network namespace of its own (:func:`tests.faults.wires.namespace_command`).
TCP, TLS and gRPC are real. So that a test lasts seconds where a hospital's VPN drops for minutes, keepalive is scaled
down; ``--unscaled`` leaves it as it is shipped. One JSON line for each case.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import coordinator.enclave.__main__
import coordinator.host.server
import worker.__main__
import worker.collateral
import worker.coordinators
import worker.grpc_channel
from coordinator.host.run_status import RunStatus
from tests.faults.federation import DEADLINES, Federation
from tests.faults.outcomes import FAILED
from tests.faults.processes import AGGREGATOR, HOST, Site, Start, fork, run_host, run_worker
from tests.faults.running import Judged, Running
from tests.faults.schedules import UNDISTURBED, Schedule
from tests.faults.wires import Weather, Wire, enter, ip
from tests.faults.work import Work, work_of
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.errors import Reason

LOADED = (coordinator.enclave.__main__, coordinator.host.server, worker.__main__, worker.collateral)
TIMEOUT_S = 90.0
BIG = Layout((TensorSpec("weight", Dtype.FLOAT32, (1500, 1500)),))  # 9 MB: three messages of an upload
MEDIUM = Layout((TensorSpec("weight", Dtype.FLOAT32, (600, 1000)),))  # 2.4 MB: too much to be sent again unasked
WINDOW_BYTES = 4 << 20  # of an upload: what one message carries, and what a host holds that is not on disk
_SLOW = Weather(bytes_per_s=4e6)
_SCALED = {
    "grpc.keepalive_time_ms": 1500,
    "grpc.keepalive_timeout_ms": 3000,
    "grpc.http2.min_ping_interval_without_data_ms": 500,
    "grpc.max_reconnect_backoff_ms": 1000,
}


@dataclass(frozen=True, slots=True)
class NetworkSite(Site):
    """Workers dial the host by TLS, each from its own network; the aggregator lives beside the host."""

    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def relay_door(self) -> Any:
        return self.host_door

    @property
    def ca(self) -> Any:
        return self.folder / "host" / "tls" / "ca.pem"

    def dialled(self, member: str) -> dict[str, Any]:
        return {"coordinators": (f"{self.addresses[member]}:{self.host_port}",), "ca_pem": self.ca.read_text()}


@dataclass(slots=True)
class Networked(Running):
    """A run whose sites stand behind wires."""

    scaled: bool = True
    wires: dict[str, Wire] = field(default_factory=dict)

    def __enter__(self) -> Networked:
        Running.__enter__(self)
        for place, member in enumerate(self.federation.members, 1):
            self.wires[member] = Wire(place, self.site.folder / f"wire-{place}.log")
        addresses = {member: wire.host_address for member, wire in self.wires.items()}
        site = self.site
        self.site = NetworkSite(site.folder, site.host_port, site.relay_port, self.training_s, addresses)
        path = site.folder / "host.json"
        config = json.loads(path.read_text())
        config |= {"listen": f"0.0.0.0:{site.host_port}", "names": ["127.0.0.1", *addresses.values()]}
        path.write_text(json.dumps(config))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for wire in self.wires.values():
            wire.end()
        Running.__exit__(self, kind, *rest)

    def start_all(self, without: tuple[str, ...] = ()) -> None:
        """The host first: workers pin its CA. Those in ``without`` come later, or never."""
        self.start(HOST)
        self.wait_until(self._ca_is_there, TIMEOUT_S, "the host's CA")
        for name in self.names[1:]:
            if name not in without:
                self.start(name)
        self.living["order"] = fork("order", 1, self.log("order"), self._order)

    def start(self, name: str) -> None:
        """Start ``name`` where it lives."""
        if name in self.wires or name == HOST:
            self.lives[name] += 1
            self.living[name] = fork(name, self.lives[name], self.log(name), lambda: self._live(name))
        else:
            Running.start(self, name)

    def _live(self, name: str) -> int:
        if self.scaled:
            for module in (worker.grpc_channel, coordinator.host.server):
                module._OPTIONS = tuple((key, _SCALED.get(key, value)) for key, value in module._OPTIONS)
        if name == HOST:
            return run_host(self.site, Start())
        enter(self.wires[name].life.pid)
        return run_worker(self.federation, name, self.site, Start())

    def _ca_is_there(self) -> bool:
        return self.site.ca.exists() and self.site.ca.stat().st_size > 0

    def _client(self) -> Any:
        from console.client import HostClient

        return HostClient(f"127.0.0.1:{self.site.host_port}", self.site.ca.read_bytes())

    def seen(self, name: str, count: int = 1, **fields: Any) -> bool:
        """Whether the host was told so often of event ``name`` with these fields."""
        found = [event for event in self.events() if event["event"] == name]
        return sum(fields.items() <= event.items() for event in found) >= count

    def shown(self, member: str) -> str | None:
        """Why nobody waits for ``member``, as the host shows it to people; None: it is waited for."""
        return self.status().members[member].away_reason

    def status(self) -> RunStatus:
        """What the host shows to people."""
        status = RunStatus(self.federation.plan.digest.hex(), rounds=self.federation.plan.document.rounds)
        for event in self.events():
            status = status.after(event)
        return status

    def until(self, name: str, count: int = 1, **fields: Any) -> None:
        """Wait for an event."""
        self.wait_until(lambda: self.seen(name, count, **fields), TIMEOUT_S, f"{name} {fields}")

    @property
    def books(self) -> Any:
        """The host's database."""
        return self.site.folder / "host" / "host.sqlite"

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        until = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= until, seconds + TIMEOUT_S, "time passes")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run on bad lines ended."""

    model_sha256: str
    rounds: tuple[tuple[int, tuple[str, ...]], ...]
    work: Work
    bytes_in: int


def finish(run: Networked, without: tuple[str, ...] = ()) -> Outcome:
    """Let the run end, ``without`` those who stay away; its model, its rounds, and what the other sites worked.

    An aggregator from which somebody stays away waits half a minute for it to hear of the end: it is not waited for.
    """
    sites = [name for name in run.federation.members if name not in without]
    enclaves = sites if without else [AGGREGATOR, *sites]
    run.wait_until(lambda: all(name in run.ended for name in enclaves), TIMEOUT_S, "the end of the run")
    bad = {name: code for name, code in run.ended.items() if code}
    if bad:
        raise Judged(f"exit codes: {bad}")
    run.living["recipient"] = fork("recipient", 1, run.log("recipient"), lambda: _receive(run))
    run.wait_until(lambda: "recipient" in run.ended, TIMEOUT_S, "the release is opened")
    if run.ended["recipient"]:
        raise Judged("the release does not open")
    found = json.loads((run.site.folder / "received.json").read_text())
    os.kill(run.living[HOST].pid, signal.SIGTERM)
    run.wait_until(lambda: HOST in run.ended, TIMEOUT_S, "the host stops")
    rounds = tuple((number, tuple(members)) for number, members in found["rounds"])
    work = work_of({name: run.log(name) for name in sites}, rounds)
    return Outcome(found["model"], rounds, work, found["bytes_in"])


def _receive(run: Networked) -> int:
    code = run._receive()
    path = run.site.folder / "received.json"
    with run._client() as client:
        status = client.status(run.federation.plan.digest)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bytes_in": status.bytes_in}))
    return code


@dataclass(slots=True)
class Cases:
    """Every case, and what it is compared with."""

    scaled: bool
    _calm: dict[str, Outcome] = field(default_factory=dict)
    _federations: dict[str, Federation] = field(default_factory=dict)

    def _federation(self, kind: str) -> Federation:
        made: dict[str, Callable[[], Federation]] = {
            "small": Federation.found,
            "big": lambda: Federation.found(layout=BIG),
            "medium": lambda: Federation.found(layout=MEDIUM),
            "short": lambda: Federation.found(deadlines=replace(DEADLINES, lease_s=3, reattest_s=1)),
            "impatient": lambda: Federation.found(rounds=10, deadlines=replace(DEADLINES, lease_s=5)),
        }
        if kind not in self._federations:
            self._federations[kind] = made[kind]()
        return self._federations[kind]

    @contextmanager
    def _run(
        self,
        kind: str,
        training_s: float = 0.0,
        weather: Weather | None = None,
        *,
        without: tuple[str, ...] = (),
        schedule: Schedule = UNDISTURBED,
    ) -> Iterator[Networked]:
        with Networked(self._federation(kind), schedule, training_s=training_s, scaled=self.scaled) as run:
            for wire in run.wires.values():
                if weather is not None:
                    wire.spoil(weather)
            run.start_all(without)
            yield run

    def _same_as_calm(self, kind: str, ended: Outcome) -> dict[str, Any]:
        """Raise for whatever differs from a run on good lines."""
        if kind not in self._calm:
            with self._run(kind) as run:
                self._calm[kind] = finish(run)
        calm = self._calm[kind]
        if (ended.model_sha256, ended.rounds) != (calm.model_sha256, calm.rounds):
            raise Judged(f"another model, or other contributions: {ended.rounds}")
        return {"bytes_in": ended.bytes_in, "calm_bytes_in": calm.bytes_in, **ended.work.told()}

    def loss_and_delay(self) -> dict[str, Any]:
        """Every line loses 3 % of its packets and takes 30 ms each way."""
        with self._run("small", weather=Weather(loss=0.03, delay_s=0.03)) as run:
            ended = finish(run)
            lost = sum(wire.carried()["lost"] for wire in run.wires.values())
        return {"packets_lost": lost, **self._same_as_calm("small", ended)}

    def partition_that_heals(self) -> dict[str, Any]:
        """The link of one site goes down while it trains, and comes up again before anybody gives up."""
        with self._run("small", training_s=2.0) as run:
            wire = run.wires["site-3"]
            run.until("round-opened")
            run.pause(0.5)
            wire.set_link(up=False)
            run.pause(4.0)
            wire.set_link(up=True)
            ended = finish(run)
            came_back = run.seen("admitted", 2, member="site-3")
        return {"came_back": came_back, **self._same_as_calm("small", ended)}

    def partition_that_lasts(self) -> dict[str, Any]:
        """The link of one site stays down for longer than a lease: the round closes on the others."""
        with self._run("impatient", training_s=1.0) as run:
            wire = run.wires["site-3"]
            run.until("round-opened")
            wire.set_link(up=False)
            run.until("round-committed", round=1)
            away = run.seen("contribution", round=1, member="site-3", outcome="gone", reason=Reason.LEASE_EXPIRED.code)
            shown = run.shown("site-3")
            wire.set_link(up=True)
            up_at = time.monotonic()
            run.until("admitted", 2, member="site-3")
            back_s = time.monotonic() - up_at
            ended = finish(run)
        return {"away": away, "shown": shown, "back_s": back_s, "rounds": ended.rounds, **ended.work.told()}

    def vpn_drop(self) -> dict[str, Any]:
        """The VPN of one site drops in the middle of an upload, then of a download, and forgets its connections."""
        with self._run("big", weather=_SLOW) as run:
            wire = run.wires["site-3"]
            run.until("round-opened")
            begun = wire.carried()
            run.wait_until(lambda: wire.carried()["up"] > begun["up"] + 5e6, TIMEOUT_S, "half an upload")
            _drop(run, wire)
            run.until("round-opened", 2)
            second = wire.carried()
            run.wait_until(lambda: wire.carried()["down"] > second["down"] + 5e6, TIMEOUT_S, "half a download")
            _drop(run, wire)
            ended = finish(run)
            over, cuts = wire.carried(), run.log("site-3").read_text().count('"session-lost"')
        used = {way: over[way] - begun[way] for way in ("up", "down")}
        return {"carried": used, "cuts": cuts, "blob": 4 * BIG.elements, **self._same_as_calm("big", ended)}

    def forgotten_connection(self, training_s: float = 5.0) -> dict[str, Any]:
        """A middlebox forgets an idle connection and says nothing: what belongs to it goes nowhere from then on."""
        with self._run("small", training_s=training_s) as run:
            wire = run.wires["site-2"]
            run.until("round-opened")
            wire.forget()
            forgotten_at = time.monotonic()
            run.until("admitted", 2, member="site-2")
            back_s = time.monotonic() - forgotten_at
            ended = finish(run)
        return {"back_s": back_s, **self._same_as_calm("small", ended)}

    def forgotten_for_long(self) -> dict[str, Any]:
        """The same, for as long as keepalive takes as it is shipped."""
        return self.forgotten_connection(training_s=40.0)


def _drop(run: Networked, wire: Wire) -> None:
    wire.spoil(Weather(swallows=True))
    wire.forget()
    run.pause(3.0)
    wire.spoil(_SLOW)


CASES = ("loss_and_delay", "partition_that_heals", "partition_that_lasts", "vpn_drop", "forgotten_connection")


def report(cases: Cases, names: Sequence[str]) -> int:
    """Run cases of these names, a JSON line for each; 0 when all passed."""
    ip("link", "set", "lo", "up")
    failed = 0
    for name in names:
        began = time.monotonic()
        try:
            said = {"case": name, "passed": True, **getattr(cases, name)()}
        except Judged as fault:
            said = {"case": name, "passed": False, "why": str(fault)}
            failed += 1
        print(json.dumps(said | {"seconds": round(time.monotonic() - began, 2)}), flush=True)
    return FAILED if failed else 0


def main(arguments: list[str]) -> int:
    """0 when all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.networks")
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--unscaled", action="store_true")
    options = parser.parse_args(arguments)
    return report(Cases(scaled=not options.unscaled), options.cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
