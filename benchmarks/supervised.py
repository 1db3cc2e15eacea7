"""Processes that are killed and come back, as under a service manager. Trust zone: the developer's machine.

A supervisor is a process of one thread that uses no gRPC: it may fork at any time, whatever runs beside it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deployment import Deployment, fork

_POLL_S = 0.005
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a supervised process; ``began`` is in seconds of ``time.monotonic``."""

    number: int
    pid: int
    began: float


@dataclass(frozen=True, slots=True)
class Supervised:
    """A process that is started again at once whenever a signal ends it."""

    book: Path

    def life(self) -> Life | None:
        """The newest start."""
        try:
            number, pid, began = self.book.read_text().split()
        except (OSError, ValueError):
            return None
        return Life(int(number), int(pid), float(began))

    def kill(self) -> Life:
        """``kill -9``; the start that follows.

        Raises:
            TimeoutError: none does.
        """
        before = self.life()
        if before is None:
            raise TimeoutError("nothing was started")
        os.kill(before.pid, signal.SIGKILL)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            life = self.life()
            if life is not None and life.number > before.number:
                return life
            time.sleep(_POLL_S)
        raise TimeoutError("no start followed")


def supervise(stack: ExitStack, folder: Path, name: str, spec: Deployment, work: Callable[[], None]) -> Supervised:
    """Do ``work`` in a process that comes back; it ends with ``stack``."""
    book = folder / f"{name}.life"

    def watch() -> None:
        number, status = 0, 1
        while number == 0 or os.WIFSIGNALED(status):
            number += 1
            with ExitStack() as unused:  # whatever is forked here ends with this process
                pid = fork(unused, folder / f"{name}.log", spec, work)
                unused.pop_all()
            partial = book.with_suffix(".new")
            partial.write_text(f"{number} {pid} {time.monotonic()}")
            partial.replace(book)
            _, status = os.waitpid(pid, 0)

    fork(stack, folder / f"{name}-supervisor.log", spec, watch)
    return Supervised(book)
