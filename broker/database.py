"""The broker's one SQLite file: mode 0600, every commit on the disk before it returns. Trust zone: the member's own.

Several processes may use it (a broker that serves, a command that revokes); each sees what the others committed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trusted.errors import KeyReleaseError, Reason

VERSION = 1
_SCHEMA = """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE keys (
        id BLOB PRIMARY KEY, kind TEXT NOT NULL, description TEXT NOT NULL, commitment BLOB NOT NULL,
        added TEXT NOT NULL, retired INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE documents (digest BLOB PRIMARY KEY, envelope BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE grants (
        number INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, key BLOB NOT NULL REFERENCES keys,
        charter BLOB NOT NULL REFERENCES documents, plan BLOB NOT NULL REFERENCES documents, envelope BLOB NOT NULL,
        remaining INTEGER NOT NULL CHECK (remaining >= 0), revoked INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE log (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, event TEXT NOT NULL, key BLOB, grant_digest BLOB,
        result BLOB, measurement BLOB, reason INTEGER, envelope BLOB
    );
    CREATE TRIGGER log_is_not_changed BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'append-only'); END;
    CREATE TRIGGER log_is_not_cut BEFORE DELETE ON log WHEN OLD.event <> 'refused'
        BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
_BUSY_S = 10.0
# EXTRA also syncs the folder when a journal is removed: a count that went down stays down.
_PRAGMAS = ("journal_mode = DELETE", "synchronous = EXTRA", "secure_delete = ON", "foreign_keys = ON")


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file; with ``create``, make it, which must not be there yet.

        Raises:
            KeyReleaseError: KEY_STORE: there is none, others may read it, it is damaged, or of another version.
            FileExistsError: ``create``, and it is there.
        """
        if create:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _require_private(path)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
        try:
            with _naming_trouble():
                for pragma in _PRAGMAS:
                    self._db.execute(f"PRAGMA {pragma}")
                if create:
                    self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
                self._require_version()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Give up the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing."""
        with self._lock, _naming_trouble():
            yield self._db

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other process interleaves with: all of it is on the disk afterwards, or nothing."""
        with self._lock, _naming_trouble():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _require_version(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise KeyReleaseError(Reason.KEY_STORE, f"store.db: a store of version {VERSION} expected")


def _require_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        hint = "make one: cloister keys init"
        raise KeyReleaseError(Reason.KEY_STORE, f"store.db: no key store in this folder; {hint}") from None
    if mode & 0o077:
        raise KeyReleaseError(Reason.KEY_STORE, "store.db: other users may read it; run chmod 600 on it")


@contextmanager
def _naming_trouble() -> Iterator[None]:
    """SQLite's errors under the store's own reason; its words may quote what was stored.

    Raises:
        KeyReleaseError: KEY_STORE.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
        hint = "look at the disk's space, the folder's rights, and whether the file is whole"
        raise KeyReleaseError(Reason.KEY_STORE, f"store.db: {code}; {hint}") from None
