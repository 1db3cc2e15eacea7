"""Fresh processes that a measurement talks to over pipes. Trust zone: the developer's machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from simulations.costs.not_measured import NotMeasured

START_S = 60.0


def heard(peer: Connection, timeout_s: float) -> Any:
    """What the other process says next.

    Raises:
        NotMeasured: it ended, or says nothing for ``timeout_s``.
    """
    try:
        if peer.poll(timeout_s):
            return peer.recv()
    except (EOFError, OSError):
        raise NotMeasured("a process of the measurement ended early", "Its traceback stands above.") from None
    raise NotMeasured(f"a measurement took longer than {timeout_s:.0f} s", "Measure on a quieter machine.")


@contextmanager
def process(target: Any, *arguments: object) -> Iterator[Connection]:
    """``target(pipe, *arguments)`` in a fresh process, which is ended with the block."""
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()
