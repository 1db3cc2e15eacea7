"""The state of one host in one SQLite file: the default. Trust zone: host.

Calls take microseconds (WAL, no fsync for each commit) and are made on the event loop's thread. What was answered
survives the end of this process at any instant; the end of the machine may cost the last moments. A migration is one
more entry in ``_MIGRATIONS``, which ``user_version`` counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.host.sqlite_trouble import naming_trouble, require_sound
from coordinator.host.state import STANDING, Change, EventSource, Origin, StoredBlob, StoredOrder, StoredRun
from trusted.errors import Reason, RunError

_MIGRATIONS = (
    """
    CREATE TABLE blobs (
        plan BLOB NOT NULL, blob BLOB NOT NULL, origin TEXT NOT NULL, total_bytes INTEGER,
        PRIMARY KEY (plan, blob)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        plan BLOB NOT NULL, number INTEGER NOT NULL, json TEXT NOT NULL,
        PRIMARY KEY (plan, number)
    ) WITHOUT ROWID;
    CREATE TABLE orders (
        nonce BLOB PRIMARY KEY, plan BLOB NOT NULL, action TEXT NOT NULL, envelope BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        plan BLOB PRIMARY KEY, bytes_in INTEGER NOT NULL DEFAULT 0, bytes_out INTEGER NOT NULL DEFAULT 0,
        start_nonce BLOB REFERENCES orders, stop_nonce BLOB REFERENCES orders
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE blobs ADD COLUMN received_bytes INTEGER NOT NULL DEFAULT 0;",
    """
    ALTER TABLE blobs ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE events ADD COLUMN token BLOB;
    ALTER TABLE events ADD COLUMN sequence INTEGER;
    CREATE UNIQUE INDEX events_by_source ON events (plan, token, sequence) WHERE token IS NOT NULL;
    """,
    "ALTER TABLE runs ADD COLUMN hold_nonce BLOB REFERENCES orders;",
)
_BLOB = "plan, blob, origin, total_bytes, shared, received_bytes"
_LARGEST = (1 << 63) - 1  # what a column holds


class SqliteState:
    """Implements :class:`coordinator.host.state.HostState` for one process."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            RunError: STORE_DAMAGED: it is cut short or overwritten; HOST_SHORT; STORE_AWAY; UNSUPPORTED_VERSION.
        """
        with naming_trouble():
            self._db = sqlite3.connect(path, isolation_level=None)
        try:
            with naming_trouble():
                require_sound(self._db, path)
                for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON", "foreign_keys = ON"):
                    self._db.execute(f"PRAGMA {pragma}")
                self._migrate()
        except BaseException:
            self._db.close()
            raise

    async def close(self) -> None:
        """Fold the write-ahead log into the file; on a full disk it stays beside it."""
        self._db.close()

    async def changes(self) -> AsyncIterator[Change]:
        """Nothing: no other process writes this file."""
        nothing: tuple[Change, ...] = ()
        for change in nothing:
            yield change

    def _migrate(self) -> None:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise RunError(Reason.UNSUPPORTED_VERSION, "store: written by a newer version; use that version")
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with naming_trouble():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with naming_trouble():
            return self._db.execute(sql, values).fetchall()

    def _change(self, sql: str, values: tuple[Any, ...]) -> int:
        """How many rows changed."""
        with naming_trouble():
            return self._db.execute(sql, values).rowcount

    # blobs

    async def blobs(self) -> list[StoredBlob]:
        """Every blob."""
        rows = self._rows(f"SELECT {_BLOB} FROM blobs")  # noqa: S608
        return [_blob(row) for row in rows]

    async def blob(self, plan: bytes, blob: bytes) -> StoredBlob | None:
        """One blob, or None."""
        return self._find(plan, blob)

    def _find(self, plan: bytes, blob: bytes) -> StoredBlob | None:
        rows = self._rows(f"SELECT {_BLOB} FROM blobs WHERE plan = ? AND blob = ?", (plan, blob))  # noqa: S608
        return _blob(rows[0]) if rows else None

    async def add_blob(self, blob: StoredBlob) -> StoredBlob:
        """Remember ``blob`` unless its name is known; the one that stands."""
        added = self._change(
            f"INSERT INTO blobs ({_BLOB}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
            (blob.plan, blob.blob, blob.origin.value, blob.total_bytes, blob.shared, blob.received_bytes),
        )
        return blob if added else self._find(blob.plan, blob.blob) or blob

    async def finish_blob(self, blob: StoredBlob) -> bool:
        """Note the size of ``blob`` and whether it is shared; False if it is not known."""
        changed = self._change(
            "UPDATE blobs SET total_bytes = ?, shared = ?, received_bytes = ? WHERE plan = ? AND blob = ?",
            (blob.total_bytes, blob.shared, blob.received_bytes, blob.plan, blob.blob),
        )
        return changed > 0

    def note_received(self, blob: StoredBlob) -> None:
        """Note how far ``blob`` is; this file and the blobs' own lie on one disk."""
        self._change(
            "UPDATE blobs SET received_bytes = ? WHERE plan = ? AND blob = ?",
            (blob.received_bytes, blob.plan, blob.blob),
        )

    async def delete_blob(self, plan: bytes, blob: bytes) -> bool:
        """Forget a blob; its row is overwritten on disk (secure_delete). False if it is not known."""
        return self._change("DELETE FROM blobs WHERE plan = ? AND blob = ?", (plan, blob)) > 0

    # events

    async def append_event(self, plan: bytes, json: str, source: EventSource | None = None) -> bool:
        """Store one public event under the next number of its plan, unless one of this ``source`` is there."""
        token, sequence = (None, None) if source is None else (source.token, source.sequence)
        try:
            with self._transaction() as db:
                db.execute("INSERT INTO runs (plan) VALUES (?) ON CONFLICT DO NOTHING", (plan,))
                db.execute(
                    "INSERT INTO events (plan, number, json, token, sequence)"
                    " SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM events WHERE plan = ?1",
                    (plan, json, token, sequence),
                )
        except sqlite3.IntegrityError:
            return False
        return True

    async def events(self, plan: bytes, after: int, limit: int = 256) -> list[tuple[int, str]]:
        """At most ``limit`` events (number, JSON) behind number ``after``, in order."""
        return self._rows(
            "SELECT number, json FROM events WHERE plan = ? AND number > ? ORDER BY number LIMIT ?",
            (plan, min(after, _LARGEST), limit),
        )

    # runs and orders

    async def runs(self) -> list[StoredRun]:
        """Every run, in the order of its plan digest."""
        rows = self._rows(
            "SELECT runs.plan, bytes_in, bytes_out, started.envelope, stopped.envelope, held.envelope, held.action"
            " FROM runs LEFT JOIN orders started ON started.nonce = start_nonce"
            " LEFT JOIN orders stopped ON stopped.nonce = stop_nonce"
            " LEFT JOIN orders held ON held.nonce = hold_nonce ORDER BY runs.plan"
        )
        return [StoredRun(*row) for row in rows]

    async def add_bytes(self, plan: bytes, bytes_in: int, bytes_out: int) -> None:
        """Add what a finished stream carried to and from the host."""
        self._change(
            "UPDATE runs SET bytes_in = bytes_in + ?, bytes_out = bytes_out + ? WHERE plan = ?",
            (bytes_in, bytes_out, plan),
        )

    async def honour_order(self, order: StoredOrder) -> None:
        """Use up the nonce of ``order`` and let it stand for its run, both or neither.

        Raises:
            RunError: the nonce was used before.
        """
        column = STANDING[order.action]
        try:
            with self._transaction() as db:
                db.execute(
                    "INSERT INTO orders VALUES (?, ?, ?, ?)", (order.nonce, order.plan, order.action, order.envelope)
                )
                db.execute("INSERT INTO runs (plan) VALUES (?) ON CONFLICT DO NOTHING", (order.plan,))
                db.execute(f"UPDATE runs SET {column} = ? WHERE plan = ?", (order.nonce, order.plan))  # noqa: S608
        except sqlite3.IntegrityError:
            raise RunError(Reason.ORDER_REPLAYED, "order.nonce: used before; sign a new order") from None


def _blob(row: tuple[bytes, bytes, str, int | None, int, int]) -> StoredBlob:
    plan, blob, origin, total_bytes, shared, received_bytes = row
    return StoredBlob(plan, blob, Origin(origin), total_bytes, bool(shared), received_bytes)
