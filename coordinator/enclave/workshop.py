"""Jobs on threads of their own: part of the aggregator's shell. Trust zone: aggregator TEE.

A job reads and writes through the door, which may break under it. It has changed nothing then, so it is done again,
from its start, until the door answers or the shell ends.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import TypeVar

from trusted.errors import ProtocolError

T = TypeVar("T")
Finish = Callable[[datetime], None]

_MAX_LANES = 4
_AT_ONCE = 2  # one whose blob the host keeps back holds up no other
_AGAIN_S = 0.5
# Updates that arrive together are read once, by the fold; only who waits longer than this for others is read before.
_LATER_S = 0.25


class Workshop:
    """Implements :class:`coordinator.enclave.jobs.Jobs`; outcomes go to ``post``, which any thread may call."""

    def __init__(self, post: Callable[[Finish], None]) -> None:
        self._post = post
        self._closed = threading.Event()
        self._lanes = min(_MAX_LANES, os.cpu_count() or 1)
        self._jobs = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="job")
        self._helpers = ThreadPoolExecutor(max(1, self._lanes - 1), thread_name_prefix="lane")
        self._waiting: queue.SimpleQueue[tuple[float, Callable[[], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._do_later, name="later", daemon=True).start()

    def submit(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """Do ``work`` on a thread; ``done`` is posted. A bug in ``work`` is raised where posts are taken."""
        self._jobs.submit(self._do, work, done)

    def submit_later(self, work: Callable[[], T], done: Callable[[T, datetime], None], now: datetime) -> None:
        """Do ``work`` on another thread, one by one, each a moment after it was handed over."""
        self._waiting.put((time.monotonic() + _LATER_S, partial(self._do, work, done)))

    def each_lane(self, work: Callable[[int, int], None]) -> None:
        """The caller's thread is the first lane."""
        others = [self._helpers.submit(work, lane, self._lanes) for lane in range(1, self._lanes)]
        failures: list[BaseException | None] = []
        try:
            work(0, self._lanes)
        finally:
            failures = [other.exception() for other in others]  # waits: no lane outlives the fold
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        """Let no job start again; those at work end with the door."""
        self._closed.set()
        for pool in (self._jobs, self._helpers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _do_later(self) -> None:
        while True:
            due, job = self._waiting.get()
            if self._closed.wait(max(0.0, due - time.monotonic())):
                return
            job()

    def _do(self, work: Callable[[], T], done: Callable[[T, datetime], None]) -> None:
        while not self._closed.is_set():
            try:
                value = work()
            except (OSError, ProtocolError):  # the door broke, or said what no door says
                self._closed.wait(_AGAIN_S)
                continue
            except BaseException as error:
                self._post(_raising(error))
                return
            self._post(partial(done, value))
            return


def _raising(error: BaseException) -> Finish:
    def finish(_: datetime) -> None:
        raise error

    return finish
