"""One run under one schedule, and what became of it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.clocks import Clocks
from tests.faults.federation import Federation
from tests.faults.processes import (
    AGGREGATOR,
    HOST,
    Life,
    Site,
    Start,
    fork,
    open_descriptors,
    run_aggregator,
    run_host,
    run_worker,
    write_host_config,
)
from tests.faults.relay import Tampering, run_relay
from tests.faults.schedules import ClockJump, Crash, DiskFull, Schedule

_STEP_S = 0.02
_END_S = 20.0
_UNLIMITED = resource.RLIM_INFINITY


class Judged(AssertionError):
    """What a run did that no run may do."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that came to its end."""

    model_sha256: str
    rounds: tuple[tuple[int, tuple[str, ...]], ...]
    seconds: float
    deaths: int
    events: tuple[dict[str, Any], ...]
    left: dict[str, int]
    host_descriptors: int


@dataclass(slots=True)
class Running:
    """The processes of one run. Used in a ``with`` block; whatever happens, none is left behind."""

    federation: Federation
    schedule: Schedule
    count: bool = False
    training_s: float = 0.0
    site: Site = field(init=False)
    living: dict[str, Life] = field(default_factory=dict)
    lives: Counter[str] = field(default_factory=Counter)
    ended: dict[str, int] = field(default_factory=dict)  # exit codes of those that ended by themselves
    deaths: int = 0
    _due: list[tuple[float, str]] = field(default_factory=list)
    _pauses: int = 0
    _began: float = 0.0
    _disk: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _listener: socket.socket | None = None

    def __enter__(self) -> Running:
        folder = Path(tempfile.mkdtemp(prefix="cf-"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            host_port = probe.getsockname()[1]
        self.site = Site(folder, host_port, self._listener.getsockname()[1], self.training_s)
        write_host_config(self.federation, self.site, {})
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for life in self.living.values():
            with suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)
            os.waitpid(life.pid, 0)
        self.living.clear()
        if self._listener is not None:
            self._listener.close()
        if kind is None:
            shutil.rmtree(self.site.folder)

    # --- processes -------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Those that may die, in the order in which they are started."""
        return (HOST, AGGREGATOR, *self.federation.members)

    def start_all(self) -> None:
        """Everybody, and the order to start."""
        self.start_relay()
        for name in self.names:
            self.start(name)
        self.living["order"] = fork("order", 1, self.log("order"), self._order)

    def start_relay(self) -> None:
        """The way between all others."""
        tampering = tuple(fault for fault in self.schedule.faults if isinstance(fault, Tampering))
        site, listener = self.site, self._listener
        if listener is None:
            raise RuntimeError("used outside its with block")
        work = lambda: run_relay(listener, site.relay_door, site.host_port, site.host_door, tampering)  # noqa: E731
        self.living["relay"] = fork("relay", 1, self.log("relay"), work)

    def start(self, name: str) -> None:
        """Start ``name``, once more if it has lived before, with the same arguments."""
        self.lives[name] += 1
        number = self.lives[name]
        start = Start(clocks=Clocks(tuple(f.jump for f in self._faults(ClockJump) if f.process == name)))
        for fault in self._faults(Crash):
            if (fault.process, fault.life) == (name, number):
                start.moment = fault.moment
        if self.count:
            start.counts = self.site.folder / f"counts-{name}.json"
        if name == HOST:
            work = lambda: run_host(self.site, start)  # noqa: E731
        elif name == AGGREGATOR:
            work = lambda: run_aggregator(self.federation, self.site, start)  # noqa: E731
        else:
            work = lambda: run_worker(self.federation, name, self.site, start)  # noqa: E731
        self.living[name] = fork(name, number, self.log(name), work)

    def kill(self, *names: str) -> None:
        """``kill -9``, and start again after a pause."""
        for name in names:
            life = self.living.get(name)
            if life is not None:
                os.kill(life.pid, signal.SIGKILL)
                _, life.status = os.waitpid(life.pid, 0)
                self._died(life)

    def log(self, name: str) -> Path:
        """Where its output goes."""
        return self.site.folder / f"{name}.log"

    def _faults(self, kind: type[Any]) -> list[Any]:
        return [fault for fault in self.schedule.faults if isinstance(fault, kind)]

    def _died(self, life: Life) -> None:
        del self.living[life.name]
        self.deaths += 1
        pauses = self.schedule.pauses_s
        pause = pauses[self._pauses % len(pauses)]
        self._pauses += 1
        self._due.append((time.monotonic() + pause, life.name))

    def reap(self) -> None:
        """See who is gone; those that died come back, those that ended are judged later."""
        for life in list(self.living.values()):
            if self.living.get(life.name) is not life:  # it died together with one that was seen before
                continue
            pid, status = os.waitpid(life.pid, os.WNOHANG)
            if not pid:
                continue
            life.status = status
            if life.was_killed and life.name in self.names:
                self._died(life)
                for fault in self._faults(Crash):
                    if (fault.process, fault.life) == (life.name, life.number):
                        self.kill(*fault.together)
            else:
                del self.living[life.name]
                self.ended[life.name] = life.exit_code if life.exit_code is not None else -1
        due, self._due = self._due, []
        for at, name in due:
            if time.monotonic() >= at:
                self.start(name)
            else:
                self._due.append((at, name))

    # --- the host's disk -------------------------------------------------------------------------------------------

    def fill_disk(self, limit_bytes: int, for_s: float) -> None:
        """No file of the host may grow beyond ``limit_bytes``, for a while."""
        life = self.living.get(HOST)
        if life is None:
            return
        pid = life.pid

        def set_limit(limit: int) -> None:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, _UNLIMITED))

        set_limit(limit_bytes)
        self._disk.append((time.monotonic() + for_s, lambda: set_limit(_UNLIMITED)))

    # --- what is seen ----------------------------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """All that the host has stored of this run so far, read from its disk."""
        path = self.site.folder / "host" / "state.db"
        paths = list((self.site.folder / "host").glob("*.sqlite*")) + list((self.site.folder / "host").glob("*.db"))
        path = next((found for found in paths if found.suffix in (".sqlite", ".sqlite3", ".db")), path)
        if not path.exists():
            return []
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as db:
            rows = db.execute("SELECT json FROM events ORDER BY number").fetchall()
            return [json.loads(row[0]) for row in rows]
        return []

    def wait_until(self, true: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Keep everybody alive until ``true``.

        Raises:
            Judged: it took longer than ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise Judged(f"{what}: not within {timeout_s} s; ended: {self.ended}, lives: {dict(self.lives)}")
            self.reap()
            for entry in list(self._disk):
                if time.monotonic() >= entry[0]:
                    self._disk.remove(entry)
                    entry[1]()
            time.sleep(_STEP_S)

    # --- a whole run -----------------------------------------------------------------------------------------------

    def to_the_end(self, timeout_s: float, *, started: bool = False) -> Ended:
        """Let the run end, open its model, and look for what is left.

        Raises:
            Judged: it does not end, or not as it must.
        """
        if not started:
            self.start_all()
        for fault in self._faults(DiskFull):
            due = lambda fault=fault: len(self.events()) > fault.at_event or AGGREGATOR in self.ended  # noqa: E731
            self.wait_until(due, timeout_s, "the disk fills")
            self.fill_disk(fault.limit_bytes, fault.for_s)
        enclaves = (AGGREGATOR, *self.federation.members)
        self.wait_until(lambda: all(name in self.ended for name in enclaves), timeout_s, "the end of the run")
        seconds = time.monotonic() - self._began
        bad = {name: code for name, code in self.ended.items() if code}
        if bad:
            raise Judged(f"exit codes: {bad}")
        self.wait_until(lambda: not self._disk and HOST in self.living, timeout_s, "the host is back")
        events = self.events()
        self.living["recipient"] = fork("recipient", 1, self.log("recipient"), self._receive)
        self.wait_until(lambda: "recipient" in self.ended, _END_S, "the release is opened")
        if self.ended["recipient"]:
            raise Judged("the release does not open")
        found = json.loads((self.site.folder / "received.json").read_text())
        descriptors = open_descriptors(self.living[HOST].pid)
        os.kill(self.living[HOST].pid, signal.SIGTERM)
        self.wait_until(lambda: HOST in self.ended, _END_S, "the host stops")
        os.kill(self.living["relay"].pid, signal.SIGTERM)
        self.wait_until(lambda: "relay" in self.ended, _END_S, "the relay stops")
        rounds = tuple((number, tuple(members)) for number, members in found["rounds"])
        left = self._left()
        return Ended(found["model"], rounds, seconds, self.deaths, tuple(events), left, descriptors)

    def _left(self) -> dict[str, int]:
        """What lies in the folders at the end: sealed vectors, and files that are half of something."""
        spool = [path for path in (self.site.folder / "host").rglob("*") if path.is_file() and len(path.name) == 32]
        ours = [
            path for path in spool if b"cloister/" not in path.read_bytes()[:64] and path.parent.name != "blob-pool"
        ]
        partial = list(self.site.folder.rglob("*.partial"))
        return {"vectors": len(ours), "partial": len(partial)}

    def _client(self) -> Any:
        from console.client import HostClient

        return HostClient(f"http://127.0.0.1:{self.site.host_port}", None)

    def _order(self) -> int:
        """Hand in the order, until the host has it."""
        from trusted.errors import ProtocolError, Reason

        order = self.federation.start_order()
        while True:
            try:
                with self._client() as client:
                    client.submit(order)
                return 0
            except ProtocolError as error:
                if error.reason is Reason.ORDER_REPLAYED:  # the host took it, and died before it said so
                    return 0
                time.sleep(0.05)

    def _receive(self) -> int:
        """What the recipient of the release does."""
        with self._client() as client:
            plan = self.federation.plan.digest
            model, rounds = self.federation.opened_release(
                lambda blob: b"".join(bytes(piece) for piece in client.get_blob(plan, blob))
            )
        found = {"model": hashlib.sha256(model).hexdigest(), "rounds": rounds}
        (self.site.folder / "received.json").write_text(json.dumps(found))
        return 0
