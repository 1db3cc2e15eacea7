"""Digests of directory trees, with a cache of file digests that makes the second one fast. Trust zone: the platform.

A file's cached digest counts only while (path, device, inode, size, mtime, ctime) are unchanged. No program can set
ctime, but whoever can set the clock or write to the raw disk can forge it: docs/adr/0002 states this limit, and
``rehash=True`` reads every byte again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_THREADS = 2
_READ_BYTES = 1 << 20
_MAX_CACHE_BYTES = 256 << 20
# A file changed less than this before it was hashed could change again within one tick of the file system's clock.
_SETTLED_NS = 100_000_000

_Stamp = tuple[int, int, int, int, int]
_Remembered = tuple[str, _Stamp]
_UNKNOWN: _Remembered = ("", (0, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One file or link below a measured root. ``path`` is absolute, ``name`` relative to the root."""

    name: str
    path: str
    kind: str  # file, executable or link
    stamp: _Stamp

    @classmethod
    def of(cls, path: Path) -> TreeEntry:
        """The entry of one file on its own."""
        status = path.lstat()
        return cls(path.name, str(path), "executable" if status.st_mode & 0o111 else "file", _stamp(status))


def private_directory(path: Path) -> Path:
    """``path``, made if it is missing, and certain to be reachable by this user alone.

    Raises:
        ValueError: it is a link, belongs to somebody else, or others may enter it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ValueError(f"state directory {path}: must be a directory of this user with mode 0700 (chmod 700)")
    return path


class DigestCache:
    """SHA-384 of files, remembered in a private directory (made 0700). One user at a time: others wait."""

    def __init__(self, state: Path, *, rehash: bool = False) -> None:
        """Digests under ``state``; with ``rehash`` every file is read again, whatever is remembered."""
        self._state = private_directory(state)
        self._rehash = rehash

    def tree(self, root: Path, *, skip: Callable[[str], bool]) -> bytes:
        """SHA-384 over the sorted entries of ``root`` that ``skip`` (of the relative name) lets through.

        An entry is its name, its kind (file, executable, link) and the SHA-384 of its content or the link's target.
        Times, owners and the root's own path do not count.

        Raises:
            ValueError: ``root`` is no directory, or a link in it leads to a directory outside.
        """
        if not root.is_dir():
            raise ValueError(f"measured directory {root}: does not exist")
        entries = sorted(_walk(root, skip), key=lambda entry: entry.name.encode())
        digests = self.files([entry for entry in entries if entry.kind != "link"], root)
        total = hashlib.sha384()
        for entry in entries:
            content = digests[entry.path] if entry.kind != "link" else _link(entry, root)
            total.update(
                f"{entry.kind}\0{content}\0{len(entry.name)}\0{entry.name}\0".encode("utf-8", "surrogateescape")
            )
        return total.digest()

    def files(self, entries: list[TreeEntry], root: Path) -> dict[str, str]:
        """The SHA-384, in hex, of each entry's content, by path."""
        with self._opened(root) as remembered:
            trusted = {} if self._rehash else remembered
            fresh = [entry for entry in entries if trusted.get(entry.path, _UNKNOWN)[1] != entry.stamp]
            with ThreadPoolExecutor(_THREADS) as pool:
                hashed = dict(pool.map(_hash, fresh))
            result = {entry.path: hashed.get(entry.path) or trusted[entry.path][0] for entry in entries}
            settled = time.time_ns() - _SETTLED_NS
            kept = {path: value for path, value in remembered.items() if path in result and path not in hashed}
            kept |= {entry.path: (hashed[entry.path], entry.stamp) for entry in fresh if entry.stamp[4] < settled}
            if kept != remembered:
                self._write(root, kept)
        return result

    def _file(self, root: Path) -> Path:
        return self._state / f"digests-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"

    @contextlib.contextmanager
    def _opened(self, root: Path) -> Iterator[dict[str, _Remembered]]:
        """What is remembered of ``root``, under a lock: of several starts at once, one hashes and the others wait."""
        with locked(self._state / "digests.lock"):
            remembered: dict[str, _Remembered] = {}
            # A cache that cannot be read is an empty cache.
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                path = self._file(root)
                if path.stat().st_size <= _MAX_CACHE_BYTES:
                    stored = json.loads(path.read_bytes())
                    remembered = {name: (digest, _stamp_of(stamp)) for name, (digest, stamp) in stored.items()}
            yield remembered

    def _write(self, root: Path, remembered: dict[str, _Remembered]) -> None:
        path = self._file(root)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(remembered, separators=(",", ":")), encoding="ascii")
        temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among all processes that lock ``path``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _walk(root: Path, skip: Callable[[str], bool], below: str = "") -> Iterator[TreeEntry]:
    with os.scandir(root / below if below else root) as listing:
        for item in listing:
            name = f"{below}/{item.name}" if below else item.name
            if skip(name):
                continue
            if item.is_dir(follow_symlinks=False):
                yield from _walk(root, skip, name)
            else:
                yield _entry(name, item)


def _entry(name: str, item: os.DirEntry[str]) -> TreeEntry:
    status = item.stat(follow_symlinks=False)
    stamp = _stamp(status)
    if stat.S_ISLNK(status.st_mode):
        return TreeEntry(name, item.path, "link", stamp)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"measured file {item.path}: neither a file nor a link")
    return TreeEntry(name, item.path, "executable" if status.st_mode & 0o111 else "file", stamp)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stamp_of(stored: list[int]) -> _Stamp:
    device, inode, size, mtime, ctime = map(int, stored)
    return device, inode, size, mtime, ctime


def _link(entry: TreeEntry, root: Path) -> str:
    """The target, and what the target holds when it is a file: a link must not lead out of what is measured."""
    target = os.readlink(entry.path)
    resolved = Path(entry.path).resolve()
    if resolved.is_dir() and not resolved.is_relative_to(root.resolve()):
        raise ValueError(f"measured link {entry.path}: leads to a directory outside {root}")
    content = _sha384(str(resolved)) if resolved.is_file() else ""
    return f"{target}\0{content}"


def _hash(entry: TreeEntry) -> tuple[str, str]:
    digest = _sha384(entry.path)
    if _stamp(os.lstat(entry.path)) != entry.stamp:
        raise ValueError(f"measured file {entry.path}: changed while it was measured; try again")
    return entry.path, digest


def _sha384(path: str) -> str:
    digest = hashlib.sha384()
    with open(path, "rb", buffering=0) as source:
        while chunk := source.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
