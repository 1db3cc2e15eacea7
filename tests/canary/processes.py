"""Processes as their machine's administrator sees them: arguments, environment, memory, descendants."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 0b11 << 62  # pagemap(5): in memory, or swapped out
_KERNEL_OWN = frozenset({"[vvar]", "[vvar_vclock]", "[vsyscall]"})  # the kernel's pages, the same in every process


@dataclass(frozen=True, slots=True)
class Running:
    """One process: its id alone may be given to another one later, so its start time stands beside it."""

    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in ("Z", "X")


def descendants(root: int) -> set[Running]:
    """Every living process below ``root``; it alone is left out."""
    children: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        stat = _stat(int(entry))
        if stat is not None and stat[0] not in ("Z", "X"):
            children.setdefault(int(stat[1]), []).append(int(entry))
            started[int(entry)] = int(stat[19])
    found: set[Running] = set()
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(Running(pid, started[pid]) for pid in below)
        todo += below
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` behind the name (proc(5)): state, parent, …, start time as the 20th."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def command_and_environment(pid: int) -> dict[str, bytes]:
    """What the process was started with, as far as this user may read it."""
    read = {}
    for name in ("cmdline", "environ"):
        with suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            read[f"{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return read


@dataclass(frozen=True, slots=True)
class Memory:
    """All pages of a process that it has touched and may read."""

    regions: dict[str, bytes]
    unreadable: tuple[str, ...]


def memory_of(pid: int) -> Memory:
    """The memory of a process that stands still meanwhile, private and shared mappings alike.

    Raises:
        PermissionError: this user may not.
    """
    regions: dict[str, bytes] = {}
    unreadable: list[str] = []
    with (
        stopped(pid),
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
    ):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights, _, _, _, *rest = line.split(maxsplit=5)
            name = rest[0] if rest else "anonymous"
            if not rights.startswith("r") or name in _KERNEL_OWN:
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            for first, last in _touched(pagemap.fileno(), start, end):
                try:
                    regions[f"{name} at {first:x}"] = os.pread(memory.fileno(), last - first, first)
                except OSError:
                    unreadable.append(f"{name} at {first:x}")
    return Memory(regions, tuple(unreadable))


def _touched(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The runs of pages between two addresses that hold anything; the rest of a mapping is zeros, or its file."""
    entries = os.pread(pagemap, (end - start) // _PAGE * 8, start // _PAGE * 8)
    present = (np.frombuffer(entries, dtype="<u8") & np.uint64(_PRESENT)) != 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], present, [False]))))
    for first, last in edges.reshape(-1, 2).tolist():
        yield start + first * _PAGE, start + last * _PAGE


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still; it goes on whatever happens."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 5
        while (stat := _stat(pid)) is not None and stat[0] != "T" and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
