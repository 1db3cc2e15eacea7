"""Every process that a peer starts, however it detaches itself: watched, and ended by its id. Trust zone: developer.

Rules: 1. Whoever was started here carries a mark of this family in its environment, and so does whoever it starts. 2.
Nobody without the mark is touched. 3. An id counts together with its start time: ids are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.load import PeerFailed, last_lines

_MARK = "CLOISTER_BENCHMARK_FAMILY"
_LOOK_S = 0.2
_WEIGH_S = 1.0
_GRACE_S = 20.0
_LEAST_FREE_MB = 1300.0
_KIB_PER_MB = 1e6 / 1024


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, and no other that gets its number later."""

    pid: int
    started: str


@dataclass(slots=True)
class _Seen:
    command: str = ""
    peak_mb: float = 0.0


@dataclass(slots=True)
class Family:
    """The processes of one run of a peer. Used in a ``with`` block, which ends all of them whatever happened.

    Attributes:
        folder: for one log of each process.
        environment: of every process, beside what this process has.
        together_mb: the most memory that all had at once, decimal MB; what several share counts once.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _mark: str = field(default_factory=lambda: f"{_MARK}_{uuid.uuid4().hex}")  # a name: families may lie in families
    _seen: dict[ProcessId, _Seen] = field(default_factory=dict)
    _strangers: set[ProcessId] = field(default_factory=set)
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None
    short_of_memory: bool = False
    together_mb: float = 0.0

    def __enter__(self) -> Family:
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        self.end()

    def start(self, name: str, command: Sequence[str], *, cwd: Path) -> subprocess.Popen[bytes]:
        """Start ``command``; what it writes goes to ``name``.log."""
        environment = {**os.environ, **self.environment, self._mark: "1"}
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started[name] = process
        member = _identify(process.pid)
        if member is not None:  # known without its environment, which is empty while the kernel loads the program
            self._seen.setdefault(member, _Seen())
        return process

    def run(self, name: str, command: Sequence[str], *, cwd: Path, timeout_s: float) -> None:
        """Run ``command`` to its end.

        Raises:
            PeerFailed: it failed or was late.
        """
        process = self.start(name, command, cwd=cwd)
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            self.require(deadline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
        if process.returncode:
            raise PeerFailed(f"{name} ended with {process.returncode}", last_lines(self.log(name)))

    def log(self, name: str) -> Path:
        """Where ``name`` writes."""
        return self.folder / f"{name}.log"

    def require(self, deadline: float) -> None:
        """That there is time (``time.monotonic``) and memory left, for this family and for others on the machine.

        Raises:
            PeerFailed: there is not.
        """
        if self.short_of_memory:
            raise PeerFailed(f"less than {_LEAST_FREE_MB:.0f} MB of memory were left", self.last_lines())
        if time.monotonic() > deadline:
            raise PeerFailed("out of time", self.last_lines())

    def last_lines(self) -> str:
        """The ends of the logs that were written last."""
        logs = sorted(self.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        return last_lines(*logs[-3:])

    def peak_mb(self, *words: str) -> float:
        """Peak resident memory, decimal MB, of the processes whose command line holds all ``words``, added up.

        Raises:
            PeerFailed: there was none: the peer is not as this benchmark knows it.
        """
        self._look()
        seen = [each for each in list(self._seen.values()) if all(word in each.command for word in words)]
        if not seen:
            raise PeerFailed(f"no process was called {' '.join(words)}", self.last_lines())
        return round(sum(each.peak_mb for each in seen), 1)

    def has_ended(self, name: str) -> bool:
        """Whether the process that was started under ``name`` is over."""
        return self._started[name].poll() is not None

    def end(self) -> None:
        """End all, politely first, until none is left: one that is ending may still start another."""
        told: set[ProcessId] = set()
        deadline = time.monotonic() + _GRACE_S
        while alive := self._alive():
            late = time.monotonic() > deadline
            for member in alive:
                if late or member not in told:  # a second polite signal would break off what the first began
                    _signal(member, signal.SIGKILL if late else signal.SIGTERM)
            told.update(alive)
            time.sleep(_LOOK_S)
        for process in self._started.values():
            process.wait()

    def _alive(self) -> list[ProcessId]:
        self._look()
        for process in self._started.values():
            process.poll()  # a child that ended is a zombie until then
        return [member for member in self._seen if _identify(member.pid) == member]

    def _watch(self) -> None:
        weighed = 0.0
        while not self._over.wait(_LOOK_S):
            self._look()
            self.short_of_memory |= _free_mb() < _LEAST_FREE_MB
            if time.monotonic() > weighed + _WEIGH_S:  # not oftener: the kernel holds a process up while it adds
                self.together_mb = max(self.together_mb, sum(map(_share_mb, list(self._seen))))
                weighed = time.monotonic()

    def _look(self) -> None:
        for entry in os.listdir("/proc"):
            member = _identify(int(entry)) if entry.isdigit() else None
            if member is None or member in self._strangers:
                continue
            with contextlib.suppress(OSError):
                self._note(member)

    def _note(self, member: ProcessId) -> None:
        folder = Path("/proc", str(member.pid))
        if member not in self._seen:
            if self._mark.encode() not in (folder / "environ").read_bytes():
                if time.time() - folder.stat().st_mtime > 5:  # a younger one may still show its parent's environment
                    self._strangers.add(member)
                return
            self._seen[member] = _Seen()
        seen = self._seen[member]
        seen.command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") or seen.command
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                seen.peak_mb = max(seen.peak_mb, int(line.split()[1]) / _KIB_PER_MB)


def _identify(pid: int) -> ProcessId | None:
    """The process that has this number now; None for nobody and for a zombie."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else ProcessId(pid, fields[19])


def _signal(member: ProcessId, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(member.pid, number)


def _share_mb(member: ProcessId) -> float:
    """Its memory, what it shares with others divided among them; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(member.pid), "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / _KIB_PER_MB
    return 0.0


def _free_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / _KIB_PER_MB
    return float("inf")
