"""Files that were blobs, kept to be blobs again. Trust zone: host.

Measured: a page that the kernel must find and clear costs ten times the copy into it, and a warm file has its pages.
What such a file still holds is ciphertext whose keys are gone; it is overwritten, and never read before that.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from secrets import token_hex


class FilePool:
    """At most ``limit_bytes`` of such files in one folder."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._files: dict[int, list[Path]] = {}  # by size
        self.size_bytes = 0  # on disk
        for path in folder.iterdir():
            self._keep(path, path.stat().st_size)

    def take(self, path: Path, size_bytes: int | None) -> None:
        """Let ``path`` be a file of the pool, if there is one for a blob of about ``size_bytes``; None: nobody knows.

        It is never longer than the blob, unless nobody knows: see :func:`cut`.
        """
        size = self._nearest(size_bytes)
        if size is None:
            return
        self._files[size].pop().rename(path)
        self.size_bytes -= size
        if not self._files[size]:
            del self._files[size]
        if size_bytes is not None:
            cut(path, size_bytes)

    def _nearest(self, size_bytes: int | None) -> int | None:
        if size_bytes is None:
            return max(self._files, default=None)
        if size_bytes in self._files:
            return size_bytes
        near = [size for size in self._files if size_bytes <= 2 * size and size <= 2 * size_bytes]
        return min(near, key=lambda size: abs(size - size_bytes), default=None)

    def give(self, path: Path) -> None:
        """Take ``path``, which need not exist; it is gone from where it was."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if size == 0 or self.size_bytes + size > self._limit_bytes:
            path.unlink()
            return
        kept = self._folder / token_hex(8)
        path.rename(kept)
        self._keep(kept, size)

    def _keep(self, path: Path, size: int) -> None:
        self._files.setdefault(size, []).append(path)
        self.size_bytes += size

    def empty(self) -> None:
        """Give the disk its room back."""
        for path in chain.from_iterable(self._files.values()):
            path.unlink(missing_ok=True)
        self._files.clear()
        self.size_bytes = 0


def cut(path: Path, size_bytes: int) -> None:
    """Give back what a file that was longer still holds behind its blob of ``size_bytes``."""
    if path.stat().st_size > size_bytes:
        os.truncate(path, size_bytes)
