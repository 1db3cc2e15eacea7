"""Lanes for a fold: threads, one for each core, as an aggregator has them. Trust zone: the developer's machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from coordinator.enclave.jobs import Inline

_MOST = 4


class Lanes(Inline):
    """Jobs at once in the caller's thread, but for the lanes of a fold. Use it with ``with``."""

    def __init__(self, lanes: int | None = None) -> None:
        self._lanes = min(_MOST, lanes or os.cpu_count() or 1)
        self._others = ThreadPoolExecutor(max(1, self._lanes - 1), thread_name_prefix="lane")

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._others.shutdown()

    def each_lane(self, work: Callable[[int, int], None]) -> None:
        """The caller's thread is the first lane."""
        others = [self._others.submit(work, lane, self._lanes) for lane in range(1, self._lanes)]
        try:
            work(0, self._lanes)
        finally:
            failures = [other.exception() for other in others]
        for failure in failures:
            if failure is not None:
                raise failure
