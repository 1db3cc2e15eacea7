"""Sites in processes of one thread each, as many as there are cores. Trust zone: the developer's machine.

Rules: 1. Processes are forked from one that holds the task: rows and models are there already, and cost no memory until
they are written to. 2. Models and updates pass through shared anonymous memory, words about them through pipes.
3. Where a task keeps state, a site stays in the process that first trained it. Otherwise processes take the next jobs
when they are done with theirs, so that none waits for another, as long as there is room for what they make: updates are
taken in the order of jobs. 4. A process that dies is an error at once; all end with the context, whatever ends it, and
with this process, for their pipes close.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.engine import Crew, Done
from simulations.engines.in_process import torch_threads
from simulations.engines.sharing import WINDOW_BYTES, Share, Sharing
from simulations.task import Job, Task, Trained
from trusted.allocator import keep_chunk_memory
from trusted.encoding import Vector
from trusted.errors import ProtocolError

_FORK = multiprocessing.get_context("fork")
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Pool:
    """``processes``: 0 stands for as many as this process may use cores.

    ``window_bytes``: of updates that may wait until those of slower sites before them are there, where not all of a
    round are held.
    """

    processes: int = 0
    window_bytes: int = WINDOW_BYTES

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it."""
        return "pool"

    @contextmanager
    def open(self, task: Task, *, most_jobs: int, holds_all: bool) -> Iterator[Crew]:
        """A crew of processes, which end with the context."""
        sharing = Sharing(task, min(most_jobs, self.processes or _cores()))
        crew = _Processes(sharing, sharing.rows(most_jobs, holds_all=holds_all, window_bytes=self.window_bytes))
        try:
            crew.start()
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
    """What parent and children share: a model, float32[elements], and updates, float32[rows, elements]."""

    model: Vector = field(repr=False)
    updates: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, elements: int, rows: int) -> _Room:
        shared = [np.frombuffer(mmap.mmap(-1, 4 * elements * each), np.float32) for each in (1, rows)]
        return cls(shared[0], shared[1].reshape(rows, elements))


class _Processes:
    """The crew. Busy are those that were given a share."""

    def __init__(self, sharing: Sharing, rows: int) -> None:
        self._sharing = sharing
        self._room = _Room.of(sharing.task.layout.elements, rows)
        self._children: list[_Child] = []
        self._busy: dict[Connection, tuple[int, Share]] = {}

    def start(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(self._sharing.processes):
            ours, theirs = _FORK.Pipe()
            inherited = [child.pipe for child in self._children] + [ours]
            process = _FORK.Process(
                target=_serve, args=(self._sharing.task, self._room, theirs, inherited), daemon=True
            )
            process.start()
            theirs.close()
            self._children.append(_Child(process, ours))

    def train(self, model: Vector, jobs: Sequence[Job]) -> Iterator[Done]:
        if self._busy:
            raise RuntimeError("pool: asked again before all answers were taken")
        self._room.model[:] = model
        rows = self._sharing.in_turn(len(self._room.updates), len(jobs))
        shares, trained = self._sharing.shares(jobs), dict[int, Trained]()
        for place in range(len(jobs)):
            self._give(shares, rows, below=place + rows)
            while place not in trained:
                for pipe in wait(list(self._busy)):
                    trained |= self._hear(pipe)
                self._give(shares, rows, below=place + rows)
            yield Done(trained.pop(place), self._room.updates[place % rows])

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

    def _give(self, shares: Sequence[deque[Share]], rows: int, *, below: int) -> None:
        """Give whoever has nothing to do its next share, if its updates have their room: all jobs ``below`` do."""
        for number, (child, own) in enumerate(zip(self._children, shares, strict=True)):
            if child.pipe in self._busy or not own or own[0][-1][0] >= below:
                continue
            share = own.popleft()
            try:
                child.pipe.send([(place % rows, job) for place, job in share])
            except OSError:
                raise self._died(number, share) from None
            self._busy[child.pipe] = number, share

    def _hear(self, pipe: Any) -> dict[int, Trained]:
        """What was said of each job of a share, by its place."""
        number, share = self._busy.pop(pipe)
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            raise self._died(number, share) from None
        if isinstance(answer, _Raised):
            raise answer.error()
        return {place: said for (place, _), said in zip(share, answer, strict=True)}

    def _died(self, number: int, share: Share) -> RuntimeError:
        process = self._children[number].process
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
