"""How fast a host's spool takes bytes and gives them back. Trust zone: the developer's machine."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from simulations.costs.rates import Rate

_PIECE = bytes(1 << 20)


def disk_rates(*, megabytes: int, passes: int, folder: Path | None = None) -> list[Rate]:
    """Writing a file of so many MiB again and again in place, as the spool reuses its files, and reading it.

    Neither waits for the disk itself: nor does the host. A file larger than what the machine keeps in memory does.
    """
    written, read = [], []
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(1 + passes):
            written.append(_timed_write(file.fileno(), megabytes))
            read.append(_timed_read(file.fileno(), megabytes))
    size_bytes = megabytes << 20
    return [Rate("disk write", size_bytes, tuple(written[1:])), Rate("disk read", size_bytes, tuple(read[1:]))]


def _timed_write(descriptor: int, megabytes: int) -> float:
    begun = time.perf_counter()
    for place in range(megabytes):
        os.pwrite(descriptor, _PIECE, place << 20)
    return time.perf_counter() - begun


def _timed_read(descriptor: int, megabytes: int) -> float:
    buffer = bytearray(1 << 20)
    begun = time.perf_counter()
    for place in range(megabytes):
        os.preadv(descriptor, [buffer], place << 20)
    return time.perf_counter() - begun
