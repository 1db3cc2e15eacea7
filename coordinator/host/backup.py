"""A copy of a host's state, also while it runs. Trust zone: host.

A plain copy of a live folder is not safe: the database and its write-ahead log would be of two moments. The order here:

1. the database, by SQLite's own online backup: one moment of it, M;
2. the TLS folder, so that workers find the CA that they pin;
3. the blobs that the database named at M, each as far as it says. They only ever grow, and at M so much was there.

A blob that was discarded after M is left out, with its row. So the copy is what a host that stopped at M would have
left; put back in its place it serves the run on, and what came after M is unknown to it. Aggregator and workers see for
themselves that it is an older state, and decide what that means.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coordinator.host.shortages import naming_shortages
from coordinator.host.sqlite_trouble import naming_trouble, require_sound
from coordinator.host.storage import BLOBS, DATABASE
from trusted.errors import Reason, RunError

_TLS = "tls"
_PIECE_BYTES = 1 << 20
_PAGES_A_STEP = 1024  # between two steps the host writes on


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup holds. ``left_out``: blobs that were discarded while it was made."""

    blobs: int
    size_bytes: int
    left_out: int


def back_up(state: Path, to: Path) -> Copied:
    """Copy the host's state in the folder ``state`` to the new folder ``to``, which is there whole or not at all.

    Raises:
        RunError: MISSING_FIELD: nothing to copy, or ``to`` exists; HOST_SHORT: a full disk; STORE_DAMAGED; STORE_AWAY.
    """
    if not (state / DATABASE).is_file():
        rule = "of a host with --database, back up that database and the bucket"
        raise RunError(Reason.MISSING_FIELD, f"backup: no {DATABASE} in the state folder; {rule}")
    if to.exists():
        raise RunError(Reason.MISSING_FIELD, "backup: the target exists already; name a new folder")
    draft = to.with_name(to.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with naming_shortages():
            draft.mkdir(mode=0o700, parents=True)
            copied = _copy_all(state, draft)
            draft.rename(to)
            _sync_folder(to.parent)
    except OSError as error:
        raise RunError(
            Reason.STORE_AWAY, f"backup: {error.strerror or 'the copy failed'}; look at both disks"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return copied


def _copy_all(state: Path, draft: Path) -> Copied:
    blobs, size_bytes, left_out = 0, 0, 0
    with naming_trouble(), closing(sqlite3.connect(draft / DATABASE, isolation_level=None)) as copy:
        with closing(sqlite3.connect(f"file:{_quoted(state / DATABASE)}?mode=rw", uri=True)) as live:
            live.backup(copy, pages=_PAGES_A_STEP)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
        require_sound(copy, draft / DATABASE)
        if (state / _TLS).is_dir():
            shutil.copytree(state / _TLS, draft / _TLS, ignore=shutil.ignore_patterns("*.draft"))
        (draft / BLOBS).mkdir(mode=0o700)
        rows = copy.execute("SELECT plan, blob, received_bytes FROM blobs").fetchall()
        for plan, blob, received_bytes in rows:
            name = Path(plan.hex(), blob.hex())
            (draft / BLOBS / name).parent.mkdir(mode=0o700, exist_ok=True)
            if received_bytes and not _copy_blob(state / BLOBS / name, draft / BLOBS / name, received_bytes):
                copy.execute("DELETE FROM blobs WHERE plan = ? AND blob = ?", (plan, blob))
                left_out += 1
                continue
            blobs, size_bytes = blobs + 1, size_bytes + received_bytes
        copy.execute("VACUUM")
    _sync_folder(draft)
    return Copied(blobs, size_bytes, left_out)


def _copy_blob(source: Path, target: Path, size_bytes: int) -> bool:
    """Copy the first ``size_bytes``, if the file is there and still this blob's when they are read.

    A host uses the file of a discarded blob for another one, but moves it away before that.
    """
    try:
        with source.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
                left = size_bytes
                while left and (piece := file.read(min(_PIECE_BYTES, left))):
                    copy.write(piece)
                    left -= len(piece)
                copy.flush()
                os.fsync(copy.fileno())
        if source.stat().st_ino == number:
            return True
    except FileNotFoundError:
        pass
    target.unlink(missing_ok=True)
    return False


def _quoted(path: Path) -> str:
    return path.absolute().as_uri().removeprefix("file://")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
