"""How far uploads are in this host's own files, where the state is shared with replicas. Trust zone: host.

What lies on one replica's disk is no fact for all, so it stands beside that disk, in one SQLite file: after a restart
half an upload continues at the same host. Only workers' uploads are noted: their names are never used twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS staged (
    plan BLOB NOT NULL, blob BLOB NOT NULL, received_bytes INTEGER NOT NULL, PRIMARY KEY (plan, blob)
) WITHOUT ROWID;
"""


class StagedUploads:
    """One file, used by one process, on the event loop's thread: a call takes microseconds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._db.close()

    def received_bytes(self, plan: bytes, blob: bytes) -> int:
        """How much of a blob is known to have arrived here; 0 where nothing is."""
        row = self._db.execute("SELECT received_bytes FROM staged WHERE plan = ? AND blob = ?", (plan, blob)).fetchone()
        return 0 if row is None else int(row[0])

    def note(self, plan: bytes, blob: bytes, received_bytes: int) -> None:
        """Note how far a blob is."""
        self._db.execute("INSERT OR REPLACE INTO staged VALUES (?, ?, ?)", (plan, blob, received_bytes))

    def forget(self, plan: bytes, blob: bytes) -> None:
        """A blob is discarded, or lies where every replica finds it."""
        self._db.execute("DELETE FROM staged WHERE plan = ? AND blob = ?", (plan, blob))

    def keep(self, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Forget all but ``names``: what other replicas discarded or completed while this one was away."""
        known = set(names)
        for plan, blob in self._db.execute("SELECT plan, blob FROM staged").fetchall():
            if (plan, blob) not in known:
                self.forget(plan, blob)
