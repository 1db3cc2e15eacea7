"""Sites in processes of one thread each, as many as there are cores. Trust zone: the developer's machine.

Rules: 1. Processes are forked from one that holds the task: rows and models are there already, and cost no memory until
they are written to. 2. Models and updates pass through shared anonymous memory, words about them through pipes.
3. Where a task keeps state, a site stays in the process that first trained it. Otherwise processes take the next jobs
when they are done with theirs, so that none waits for another. 4. A process that dies is an error at once; all end with
the context, whatever ends it, and with this process, for their pipes close.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.engine import Answers, Crew
from simulations.engines.in_process import torch_threads
from simulations.engines.sharing import share_size
from simulations.task import Job, Task, Trained
from trusted.allocator import keep_chunk_memory
from trusted.encoding import Vector
from trusted.errors import ProtocolError

_FORK = multiprocessing.get_context("fork")
_END_S = 2.0

Share = Sequence[tuple[int, Job]]
"""Jobs, each with its row."""


@dataclass(frozen=True, slots=True)
class Pool:
    """``processes``: 0 stands for as many as this process may use cores."""

    processes: int = 0

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it."""
        return "pool"

    @contextmanager
    def open(self, task: Task, *, most_jobs: int) -> Iterator[Crew]:
        """A crew of processes, which end with the context."""
        crew = _Processes(task, most_jobs)
        try:
            crew.start(min(most_jobs, self.processes or _cores()))
            yield crew
        finally:
            crew.end()


def _cores() -> int:
    """How many this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Child:
    process: Any
    pipe: Connection


@dataclass(slots=True)
class _Room:
    """What parent and children share: a model, float32[elements], and updates, float32[jobs, elements]."""

    model: Vector = field(repr=False)
    updates: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, elements: int, most_jobs: int) -> _Room:
        shared = [np.frombuffer(mmap.mmap(-1, 4 * elements * rows), np.float32) for rows in (1, most_jobs)]
        return cls(shared[0], shared[1].reshape(most_jobs, elements))


class _Processes:
    """The crew. Its homes say which process a site's state is in."""

    def __init__(self, task: Task, most_jobs: int) -> None:
        self._task = task
        self._room = _Room.of(task.layout.elements, most_jobs)
        self._children: list[_Child] = []
        self._homes: dict[int, int] = {}

    def start(self, processes: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(processes):
            ours, theirs = _FORK.Pipe()
            inherited = [child.pipe for child in self._children] + [ours]
            process = _FORK.Process(target=_serve, args=(self._task, self._room, theirs, inherited), daemon=True)
            process.start()
            theirs.close()
            self._children.append(_Child(process, ours))

    def train(self, model: Vector, jobs: Sequence[Job]) -> Answers:
        self._room.model[:] = model
        shares = self._shares(jobs)
        trained: list[Trained | None] = [None] * len(jobs)
        busy: dict[Connection, tuple[int, Share]] = {}
        for place in range(len(self._children)):
            self._give_next(place, shares, busy)
        while busy:
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                place, share = busy.pop(pipe)
                for (row, _), said in zip(share, self._hear(place, share), strict=True):
                    trained[row] = said
                self._give_next(place, shares, busy)
        return Answers(self._room.updates[: len(jobs)], [said for said in trained if said is not None])

    def end(self) -> None:
        for child in self._children:
            child.pipe.close()
            child.process.terminate()
        for child in self._children:
            child.process.join(_END_S)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
        self._children.clear()

    def _shares(self, jobs: Sequence[Job]) -> list[list[Share]]:
        """For each process what only it may do; or one list of shares for all, each as many jobs as belong together."""
        numbered = list(enumerate(jobs))
        if not self._task.keeps_state:
            size = share_size(len(jobs), len(self._children), self._task.together)
            return [[numbered[start : start + size] for start in range(0, len(jobs), size)]]
        shares: list[list[tuple[int, Job]]] = [[] for _ in self._children]
        for row, job in numbered:
            if job.site in self._homes:
                shares[self._homes[job.site]].append((row, job))
        for row, job in numbered:
            if job.site not in self._homes:
                place = self._homes[job.site] = min(range(len(shares)), key=lambda at: len(shares[at]))
                shares[place].append((row, job))
        return [[share] if share else [] for share in shares]

    def _give_next(self, place: int, shares: list[list[Share]], busy: dict[Connection, tuple[int, Share]]) -> None:
        own = shares[place] if self._task.keeps_state else shares[0]
        if own:
            share, pipe = own.pop(0), self._children[place].pipe
            try:
                pipe.send(share)
            except OSError:
                raise self._died(place, share) from None
            busy[pipe] = place, share

    def _hear(self, place: int, share: Share) -> list[Trained]:
        try:
            answer = self._children[place].pipe.recv()
        except (EOFError, OSError):
            raise self._died(place, share) from None
        if isinstance(answer, _Raised):
            raise answer.error()
        trained: list[Trained] = answer
        return trained

    def _died(self, place: int, share: Share) -> RuntimeError:
        process = self._children[place].process
        process.join(_END_S)
        sites = ", ".join(str(job.site) for _, job in share[:5])
        how = f"signal {-process.exitcode}" if (process.exitcode or 0) < 0 else f"exit code {process.exitcode}"
        return RuntimeError(f"pool: the process that trained site {sites} died ({how}); is there enough memory?")


def _serve(task: Task, room: _Room, pipe: Connection, inherited: Sequence[Connection]) -> None:
    """Train what is asked for until the parent closes the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    keep_chunk_memory()  # or the pages of a step are given back, and faulted in anew for the next
    with torch_threads(1):
        while True:
            try:
                share: Share = pipe.recv()
            except (EOFError, OSError):
                return
            rows = [row for row, _ in share]
            try:
                pipe.send(_trained(task, room, rows, [job for _, job in share]))
            except BrokenPipeError:
                return
            except Exception as error:  # the shell around what people wrote: it is raised in the parent
                pipe.send(_Raised.of(error))


def _trained(task: Task, room: _Room, rows: Sequence[int], jobs: Sequence[Job]) -> list[Trained]:
    if rows[-1] - rows[0] == len(rows) - 1:
        return task.train(room.model, jobs, room.updates[rows[0] : rows[-1] + 1])
    if task.together <= 1:
        single = (
            task.train(room.model, [job], room.updates[row : row + 1]) for row, job in zip(rows, jobs, strict=True)
        )
        return [trained for alone in single for trained in alone]
    made = np.empty((len(rows), room.updates.shape[1]), np.float32)
    trained = task.train(room.model, jobs, made)
    room.updates[list(rows)] = made
    return trained


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception as something that can be sent."""

    kind: type[Exception]
    arguments: tuple[Any, ...]
    where: str

    @classmethod
    def of(cls, error: Exception) -> _Raised:
        arguments = (error.reason, error.detail) if isinstance(error, ProtocolError) else error.args
        raised = cls(type(error), arguments, "".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(raised)).error()  # noqa: S301  (made here)
        except Exception:  # of a class that people wrote, whatever that does
            return cls(RuntimeError, (f"{type(error).__name__}: {error}",), raised.where)
        return raised

    def error(self) -> Exception:
        """To be raised on the other side."""
        error = self.kind(*self.arguments)
        error.add_note(f"In a process of the pool:\n{self.where}")
        return error
