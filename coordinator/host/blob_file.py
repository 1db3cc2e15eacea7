"""Bytes into a blob's file, front to back. Trust zone: host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coordinator.host.shortages import naming_shortages
from trusted.errors import BlobError, Reason, RunError

_PIECES_A_WRITE = 1024  # IOV_MAX: the kernel refuses more at once
Buffer = bytes | bytearray | memoryview
Source = Callable[[], memoryview]
"""Gives the next bytes, good until it is called again; nothing when there are none for now."""


def behind(pieces: Sequence[Buffer], skipped: int) -> list[memoryview]:
    """The ``pieces`` without their first ``skipped`` bytes."""
    left: list[memoryview] = []
    for piece in pieces:
        view = memoryview(piece)[skipped:]
        skipped = max(0, skipped - len(piece))
        if view:
            left.append(view)
    return left


class Pouring:
    """What a source gives, on its way into a file whose first ``at`` bytes are there; the first ``skipped`` bytes are
    among them already, and the file is to hold ``whole`` in the end.
    """

    def __init__(self, path: Path, at: int, skipped: int, whole: int) -> None:
        self.taken = 0
        self._path = path
        self._at = at
        self._skipped = skipped
        self._whole = whole

    def all_of(self, source: Source) -> int:
        """Write what ``source`` gives until it gives nothing; how many bytes that are new."""
        written = 0
        with _written_to(self._path) as descriptor:
            while piece := source():
                self.taken += len(piece)
                new = piece[self._skipped :]
                self._skipped = max(0, self._skipped - len(piece))
                if self._at + written + len(new) > self._whole:
                    raise too_long()
                _write_all(descriptor, self._at + written, [new])
                written += len(new)
        return written


def write_at(path: Path, offset: int, pieces: Sequence[memoryview]) -> int:
    """Write all of ``pieces`` or raise; what a failed call left behind does not count and is written again."""
    with _written_to(path) as descriptor:
        return _write_all(descriptor, offset, pieces)


def _write_all(descriptor: int, offset: int, pieces: Sequence[memoryview]) -> int:
    begun = offset
    while pieces and pieces[0]:
        written = os.pwritev(descriptor, pieces[:_PIECES_A_WRITE], offset)
        offset += written
        pieces = behind(pieces, written)
    return offset - begun


@contextmanager
def _written_to(path: Path) -> Iterator[int]:
    """A descriptor of the file ``path``, for writing.

    Raises:
        RunError: HOST_SHORT or STORE_AWAY: the disk refuses.
    """
    try:
        with naming_shortages():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
    except OSError as error:
        raise RunError(Reason.STORE_AWAY, f"spool: the disk refuses to write ({error.strerror}); look at it") from None


def too_long() -> BlobError:
    return BlobError(Reason.BLOB_TOO_LONG, "blob: more bytes than the aggregator announced")
