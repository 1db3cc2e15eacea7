"""Where the member's data lies in clear while its worker runs: in memory where there is some. Trust zone: worker TEE.

On a confidential VM all of this is inside the guest; a file system in memory is encrypted with it, and never reaches a
disk. What a worker leaves when it is killed, the next one in the same place removes. docs/data.md says where it is for
each kind of TEE.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PREFIX = "cloister-data-"
_IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made there, for this user alone
_MOUNTS = Path("/proc/self/mountinfo")
_YOUNG_S = 60.0  # what another worker has just made is not locked yet
_ROOM = 2  # free memory for so many times the data: a CSV copy is never larger, and the app needs some too


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """A folder that only this user may enter, gone when the worker is. Used in a ``with`` block, or closed.

    Attributes:
        path: it.
        in_memory: whether its file system is one that never writes to a disk.
    """

    path: Path
    in_memory: bool
    _lock: int

    @classmethod
    def make(cls, data_bytes: int) -> PrivateFolder:
        """A new folder for about ``data_bytes`` of data; what killed workers left in the same place goes.

        Raises:
            OSError: none can be made.
        """
        place = _place(data_bytes)
        for left in place.glob(f"{_PREFIX}*"):
            _remove_if_abandoned(left)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        # Held as long as this process lives, however it ends: that is how a later start tells.
        return cls(path, is_in_memory(place), _locked(path))

    def close(self) -> None:
        """Remove it with all that is in it. May be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def is_in_memory(place: Path) -> bool:
    """Whether files in ``place`` lie in memory alone, by the kernel's list of mounts; False where it says nothing."""
    resolved, found, longest = place.resolve(), "", -1
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:  # proc(5): … root, mount point, options … "-" type …; later ones cover earlier ones
        before, _, after = line.partition(" - ")
        parts, kind = before.split(" "), after.split(" ")[0]
        if len(parts) > 4 and resolved.is_relative_to(parts[4]) and len(parts[4]) >= longest:
            found, longest = kind, len(parts[4])
    return found in _IN_MEMORY


def _place(data_bytes: int) -> Path:
    """The usual place for temporary files, unless that is a disk and shared memory has room."""
    usual = Path(tempfile.gettempdir())
    if is_in_memory(usual) or not is_in_memory(_SHARED_MEMORY):
        return usual
    try:
        room = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return usual
    fits = room.f_bavail * room.f_frsize >= _ROOM * data_bytes
    return _SHARED_MEMORY if fits and _writable(_SHARED_MEMORY) else usual


def _writable(place: Path) -> bool:
    """Whether a folder can really be made there: a confined process may not, whatever the mode says."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    except OSError:
        return False
    return True


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_abandoned(path: Path) -> None:
    try:
        descriptor = _locked(path)
    except OSError:  # somebody's who lives, or another user's
        return
    if time.time() - os.fstat(descriptor).st_mtime > _YOUNG_S:
        shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)
