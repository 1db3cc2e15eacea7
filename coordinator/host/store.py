"""What the host remembers: one SQLite file behind one class. Trust zone: host.

Nothing here is secret, and nothing here is believed by anybody else. Calls take microseconds (WAL, no fsync for each
commit) and are made on the event loop's thread. A migration is one more entry in ``_MIGRATIONS``, which
``user_version`` counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

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
)


class Origin(Enum):
    """Who writes a blob: a worker that uploads it, or the aggregator through its door."""

    WORKER = "worker"
    AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that was announced or begun. ``total_bytes`` is None while the aggregator still writes it.

    ``received_bytes`` are known to be in its file; there may be more, which then arrive again.
    """

    plan: bytes
    blob: bytes
    origin: Origin
    total_bytes: int | None
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order that was verified and honoured."""

    nonce: bytes
    plan: bytes
    action: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What the host itself counted for one plan, and the envelopes of the orders that stand."""

    plan: bytes
    bytes_in: int
    bytes_out: int
    start_order: bytes | None
    stop_order: bytes | None


class Store:
    """The host's memory. It survives a restart; every write is one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._migrate()

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._db.close()

    def _migrate(self) -> None:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise RunError(Reason.UNSUPPORTED_VERSION, "store: written by a newer version; use that version")
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # blobs

    def blobs(self) -> list[StoredBlob]:
        """Every blob, for a host that starts."""
        rows = self._db.execute("SELECT plan, blob, origin, total_bytes, received_bytes FROM blobs")
        return [StoredBlob(plan, blob, Origin(origin), *sizes) for plan, blob, origin, *sizes in rows]

    def put_blob(self, blob: StoredBlob) -> None:
        """Remember ``blob``, or how far it now is."""
        self._db.execute(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " total_bytes = excluded.total_bytes, received_bytes = excluded.received_bytes",
            (blob.plan, blob.blob, blob.origin.value, blob.total_bytes, blob.received_bytes),
        )

    def delete_blob(self, plan: bytes, blob: bytes) -> None:
        """Forget a blob; its row is overwritten on disk (secure_delete)."""
        self._db.execute("DELETE FROM blobs WHERE plan = ? AND blob = ?", (plan, blob))

    # events

    def append_event(self, plan: bytes, json: str) -> int:
        """Store one public event and return its number: 1, 2, 3… for each plan, without gaps."""
        with self._transaction() as db:
            number: int = db.execute(
                "SELECT coalesce(max(number), 0) + 1 FROM events WHERE plan = ?", (plan,)
            ).fetchone()[0]
            db.execute("INSERT INTO events VALUES (?, ?, ?)", (plan, number, json))
        return number

    def events(self, plan: bytes, after: int, limit: int = 256) -> list[tuple[int, str]]:
        """At most ``limit`` events (number, JSON) behind number ``after``, in order."""
        after = min(after, (1 << 63) - 1)  # what SQLite can compare
        return self._db.execute(
            "SELECT number, json FROM events WHERE plan = ? AND number > ? ORDER BY number LIMIT ?",
            (plan, after, limit),
        ).fetchall()

    # runs and orders

    def runs(self) -> list[StoredRun]:
        """Every run, in the order of its plan digest."""
        rows = self._db.execute(
            "SELECT runs.plan, bytes_in, bytes_out, started.envelope, stopped.envelope FROM runs"
            " LEFT JOIN orders started ON started.nonce = start_nonce"
            " LEFT JOIN orders stopped ON stopped.nonce = stop_nonce ORDER BY runs.plan"
        )
        return [StoredRun(*row) for row in rows]

    def add_run(self, plan: bytes) -> None:
        """Remember that a run of ``plan`` exists."""
        self._db.execute("INSERT INTO runs (plan) VALUES (?) ON CONFLICT DO NOTHING", (plan,))

    def add_bytes(self, plan: bytes, bytes_in: int, bytes_out: int) -> None:
        """Add what a finished stream carried to and from the host."""
        self._db.execute(
            "UPDATE runs SET bytes_in = bytes_in + ?, bytes_out = bytes_out + ? WHERE plan = ?",
            (bytes_in, bytes_out, plan),
        )

    def honour_order(self, order: StoredOrder) -> None:
        """Use up the nonce of ``order`` and let it stand for its run, both or neither.

        Raises:
            RunError: the nonce was used before.
        """
        column = "start_nonce" if order.action == "start" else "stop_nonce"
        try:
            with self._transaction() as db:
                db.execute(
                    "INSERT INTO orders VALUES (?, ?, ?, ?)", (order.nonce, order.plan, order.action, order.envelope)
                )
                db.execute("INSERT INTO runs (plan) VALUES (?) ON CONFLICT DO NOTHING", (order.plan,))
                db.execute(f"UPDATE runs SET {column} = ? WHERE plan = ?", (order.nonce, order.plan))  # noqa: S608
        except sqlite3.IntegrityError:
            raise RunError(Reason.ORDER_REPLAYED, "order.nonce: used before; sign a new order") from None
