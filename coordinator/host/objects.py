"""Where complete blobs lie when one machine is not enough: a seam, and a folder behind it. Trust zone: host.

Sealed bytes only; a key is the two names of its blob and tells nothing. An object is written once, whole, and never
changed. Whoever holds the store may read ciphertext, lose it or change it: the same that a host may, and no more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import ParamSpec, Protocol, TypeVar

from trusted.errors import Reason, RunError

P = ParamSpec("P")
R = TypeVar("R")


class ObjectStore(Protocol):
    """Objects by key (``plan/blob``, both in hex).

    Every method raises :class:`RunError` (STORE_AWAY) when the store cannot be reached or refuses.
    """

    async def put(self, key: str, path: Path) -> None:
        """Store the file ``path`` under ``key``, all of it or nothing; again is harmless. A window is in memory."""

    async def read(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` from ``offset``."""

    async def delete(self, key: str) -> None:
        """Delete the object, whether or not it is there."""

    async def probe(self) -> None:
        """See whether the store takes an object, gives it back and deletes it."""


class FolderObjects:
    """A folder that every replica mounts. Its file system must rename atomically, as NFS does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, path: Path) -> None:
        """A copy, which gets its name when it is whole. No link: a spool may write to its file again."""
        await _in_thread(self._put, key, path)

    async def read(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` from ``offset``."""
        return await _in_thread(self._read, key, offset, size_bytes)

    async def delete(self, key: str) -> None:
        """Delete the object, whether or not it is there."""
        await _in_thread(lambda: (self._folder / key).unlink(missing_ok=True))

    async def probe(self) -> None:
        """Write a file, read it and delete it."""
        await _in_thread(self._probe)

    def _put(self, key: str, path: Path) -> None:
        target = self._folder / key
        target.parent.mkdir(mode=0o700, exist_ok=True)
        growing = target.with_suffix(f".{token_hex(4)}")
        try:
            shutil.copyfile(path, growing)
            growing.replace(target)
        finally:
            growing.unlink(missing_ok=True)

    def _read(self, key: str, offset: int, size_bytes: int) -> bytes:
        with (self._folder / key).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size_bytes, offset)
        if len(data) != size_bytes:
            raise OSError("an object is shorter than its blob")
        return data

    def _probe(self) -> None:
        probe, content = self._folder / f".probe-{token_hex(4)}", token_bytes(16)
        probe.write_bytes(content)
        try:
            if probe.read_bytes() != content:
                raise OSError("a file reads otherwise than it was written")
        finally:
            probe.unlink()


async def _in_thread(work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """``work`` beside the event loop: a mount may stall."""
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except OSError as error:
        advice = "is it mounted, and may this user write there?"
        raise RunError(Reason.STORE_AWAY, f"blob folder: {error.strerror or 'cut short'}; {advice}") from None
