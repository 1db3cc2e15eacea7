"""Real processes of one federation, cheap to start and to kill: forked from a process that has imported everything.

Whoever forks here has one thread and has used no gRPC. What is left out is the launcher's confinement and the training.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.clocks import Clocks
from tests.faults.crash_points import INSIDE, Moment, Points, in_worker
from tests.faults.federation import Federation, Formula

_PR_SET_PDEATHSIG = 1
HOST, AGGREGATOR = "host", "aggregator"


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything of one run lies and listens. Workers and aggregators reach the host through relays."""

    folder: Path
    host_port: int
    relay_port: int
    training_s: float = 0.0

    @property
    def host_door(self) -> Path:
        return self.folder / "host" / "door" / "d"

    @property
    def relay_door(self) -> Path:
        return self.folder / "r"

    def dialled(self, member: str) -> dict[str, Any]:
        """Where the worker of ``member`` finds its host, as its options say it."""
        return {"coordinators": (f"http://127.0.0.1:{self.relay_port}",)}


@dataclass(slots=True)
class Life:
    """One start of one process."""

    name: str
    number: int
    pid: int
    status: int | None = None  # as waitpid gives it

    @property
    def was_killed(self) -> bool:
        return self.status is not None and os.WIFSIGNALED(self.status)

    @property
    def exit_code(self) -> int | None:
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None


@dataclass(slots=True)
class Start:
    """How a process is started: where it dies by itself, and which time its machine shows."""

    moment: Moment | None = None
    clocks: Clocks = field(default_factory=Clocks)
    counts: Path | None = None


def fork(name: str, number: int, log: Path, work: Callable[[], int]) -> Life:
    """Do ``work`` in a child that ends with this process; its output goes to ``log``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Life(name, number, pid)
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for handled in (signal.SIGTERM, signal.SIGINT):
            signal.signal(handled, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)
        os.write(2, f"--- {time.time():.3f} {name} life {number}\n".encode())
        code = work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _counted(work: Callable[[], int], points: Points, start: Start) -> int:
    try:
        return work()
    finally:
        if start.counts is not None:
            points.save(start.counts)


def run_host(site: Site, start: Start) -> int:
    """A coordinator host, as its operator starts it."""
    from coordinator.host.__main__ import main

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    points = Points(start.moment)
    INSIDE[HOST](points)
    return _counted(lambda: main([str(site.folder / "host.json")]), points, start)


def run_aggregator(federation: Federation, site: Site, start: Start) -> int:
    """An aggregator: its shell's ``main``, with a clock of this machine."""
    from coordinator.enclave import __main__ as shell
    from trusted.evidence.boot import Boot, Role

    points = Points(start.moment)
    INSIDE[AGGREGATOR](points)
    start.clocks.set()
    envelopes = federation.charter.envelope, federation.plan.envelope
    options: dict[str, Any] = {"doors": [f"unix:{site.relay_door}"]}
    boot = Boot(Role.AGGREGATOR, *envelopes, options, federation.machine(AGGREGATOR))
    return _counted(lambda: shell.main(boot), points, start)


def run_worker(federation: Federation, member: str, site: Site, start: Start) -> int:
    """A worker: its shell's ``take_part``, with a vault, and a formula in the trainer's place."""
    from trusted.evidence.boot import Boot, Role
    from trusted.vault import Vault
    from worker.__main__ import take_part
    from worker.start import Options, Prepared

    points = Points(start.moment)
    in_worker(points)
    start.clocks.set()
    machine = federation.machine(member)
    folder = site.folder / f"state-{member}"
    folder.mkdir(exist_ok=True)
    blank: dict[str, Any] = dict.fromkeys(Options.__slots__, "")
    options = Options(**blank | site.dialled(member))
    boot = Boot(Role.WORKER, federation.charter.envelope, federation.plan.envelope, {}, machine)
    place = federation.members.index(member)
    prepared = Prepared(
        federation=federation.federation,
        rule=federation.rules[member],
        membership=federation.papers[member],
        trainer=Formula(place, site.training_s),  # type: ignore[arg-type]
        initial=federation.initial.copy(),
        vault=Vault.open(folder, machine, Role.WORKER, federation.plan.digest),
    )
    return _counted(lambda: take_part(boot, options, prepared), points, start)


def write_host_config(federation: Federation, site: Site, limits: dict[str, Any]) -> None:
    """The host's one file."""
    (site.folder / "charter.json").write_bytes(federation.charter.envelope)
    config = {
        "state": "host",
        "listen": f"http://127.0.0.1:{site.host_port}",
        "door": f"unix:{site.host_door}",
        "charter": "charter.json",
        # A frame of a handshake that vanishes is missed when the handshake has taken too long: here 20 s for 150.
        "limits": {"free_disk_bytes": 1 << 20, "streams_per_peer": 64, "handshake_s": 20.0} | limits,
    }
    (site.folder / "host.json").write_text(json.dumps(config))


def open_descriptors(pid: int) -> int:
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))
