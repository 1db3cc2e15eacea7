"""Files that were blobs, kept to be blobs again. Trust zone: host.

Measured: a page that the kernel must find and clear costs ten times the copy into it, and a warm file has its pages.
What such a file still holds is ciphertext whose keys are gone; it is overwritten, and never read before that.
"""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex


class FilePool:
    """At most ``limit_bytes`` of such files in one folder, the newest used first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._files = [(path, path.stat().st_size) for path in folder.iterdir()]

    @property
    def size_bytes(self) -> int:
        """What the files take on disk, at most."""
        return sum(size for _, size in self._files)

    def take(self, path: Path) -> None:
        """Let ``path`` be a file of the pool, if there is one."""
        if self._files:
            self._files.pop()[0].rename(path)

    def give(self, path: Path) -> None:
        """Take ``path``, which need not exist; it is gone from where it was."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if self.size_bytes + size > self._limit_bytes:
            path.unlink()
            return
        kept = self._folder / token_hex(8)
        path.rename(kept)
        self._files.append((kept, size))

    def empty(self) -> None:
        """Give the disk its room back."""
        for path, _ in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
