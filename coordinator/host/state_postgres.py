"""The state of any number of host replicas in one PostgreSQL database. Trust zone: host.

Writers tell the other replicas with NOTIFY, inside the transaction that writes: who hears of a change can read it, and
nobody asks by the clock. An event's number comes from its run's row, which the writer locks until it commits: numbers
have no gaps, and whoever sees one sees all before it. A migration is one more entry in ``_MIGRATIONS``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_bytes, token_hex
from typing import Any

import asyncpg

from coordinator.host.places import Database
from coordinator.host.staged import StagedUploads
from coordinator.host.state import (
    STANDING,
    Change,
    ChangeKind,
    EventSource,
    Origin,
    StoredBlob,
    StoredOrder,
    StoredRun,
)
from trusted.errors import Reason, RunError

_MIGRATIONS = (
    """
    CREATE TABLE blobs (
        plan BYTEA NOT NULL, blob BYTEA NOT NULL, origin TEXT NOT NULL, total_bytes BIGINT, shared BOOLEAN NOT NULL,
        PRIMARY KEY (plan, blob)
    );
    CREATE TABLE orders (nonce BYTEA PRIMARY KEY, plan BYTEA NOT NULL, action TEXT NOT NULL, envelope BYTEA NOT NULL);
    CREATE TABLE runs (
        plan BYTEA PRIMARY KEY, events BIGINT NOT NULL DEFAULT 0,
        bytes_in BIGINT NOT NULL DEFAULT 0, bytes_out BIGINT NOT NULL DEFAULT 0,
        start_nonce BYTEA REFERENCES orders, stop_nonce BYTEA REFERENCES orders
    );
    CREATE TABLE events (
        plan BYTEA NOT NULL REFERENCES runs, number BIGINT NOT NULL, json TEXT NOT NULL,
        token BYTEA, sequence BIGINT,
        PRIMARY KEY (plan, number), UNIQUE (plan, token, sequence)
    );
    """,
    "ALTER TABLE runs ADD COLUMN hold_nonce BYTEA REFERENCES orders;",
)
_CHANNEL = "cloister"
_MIGRATION_LOCK = 0x636C6F6973746572  # "cloister": of two replicas that start at once, one migrates
_CONNECTIONS = 4
_TIMEOUT_S = 10.0
_RETRY_S = 2.0
# A listener is silent for hours, and networks forget silent connections: the server sends something in between.
_KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
_LARGEST = (1 << 63) - 1  # what a column holds

_log = logging.getLogger(__name__)


class PostgresState:
    """Implements :class:`coordinator.host.state.HostState` for replicas."""

    def __init__(self, database: Database, pool: asyncpg.Pool, staged: StagedUploads | None) -> None:
        self._database = database
        self._pool = pool
        self._staged = staged
        self._replica = token_hex(8)  # tells this process's own changes from those of others

    @classmethod
    async def open(cls, database: Database, staged: StagedUploads | None = None) -> PostgresState:
        """Connect, and bring the tables up to date. Without ``staged``, half uploads arrive again after a restart.

        Raises:
            RunError: STORE_AWAY: no connection; UNSUPPORTED_VERSION: a newer version wrote these tables.
        """
        with _reaching():
            pool = await asyncpg.create_pool(
                **_parameters(database), min_size=1, max_size=_CONNECTIONS, command_timeout=_TIMEOUT_S
            )
        state = cls(database, pool, staged)
        try:
            await state._migrate()
            if staged is not None:
                staged.keep((row.plan, row.blob) for row in await state.blobs() if not row.shared)
        except BaseException:
            await pool.close()
            raise
        return state

    async def close(self) -> None:
        """Close every connection, waiting a moment for what is under way."""
        try:
            await asyncio.wait_for(self._pool.close(), _TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()
        if self._staged is not None:
            self._staged.close()

    async def _migrate(self) -> None:
        with _reaching():
            async with self._pool.acquire() as db, db.transaction():
                await _bring_up_to_date(db)

    async def _fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        with _reaching():
            rows: list[asyncpg.Record] = await self._pool.fetch(query, *arguments)
            return rows

    # changes

    async def changes(self) -> AsyncIterator[Change]:
        """What other replicas write. A connection that breaks is made anew, and then everything is to be looked at."""
        while True:
            told: asyncio.Queue[str | None] = asyncio.Queue()
            try:
                listener = await asyncpg.connect(**_parameters(self._database))
                await listener.add_listener(_CHANNEL, lambda *said, told=told: told.put_nowait(said[-1]))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                _log.warning("database-away")
                await asyncio.sleep(_RETRY_S)
                continue
            listener.add_termination_listener(lambda _, told=told: told.put_nowait(None))
            try:
                yield Change(ChangeKind.MISSED)
                while (text := await told.get()) is not None:
                    change = self._decode(text)
                    if change is not None:
                        yield change
            finally:
                listener.terminate()

    def _encode(self, kind: ChangeKind, plan: bytes, blob: bytes = b"") -> str:
        return f"{self._replica} {kind.value} {plan.hex()} {blob.hex()}"

    def _decode(self, text: str) -> Change | None:
        """The change in ``text``; None for this replica's own, and for what no replica of this version says."""
        try:
            replica, kind, plan, blob = text.split(" ")
            if replica == self._replica:
                return None
            return Change(ChangeKind(kind), bytes.fromhex(plan), bytes.fromhex(blob))
        except ValueError:
            return None

    # blobs

    async def blobs(self) -> list[StoredBlob]:
        """Every blob."""
        rows = await self._fetch("SELECT plan, blob, origin, total_bytes, shared FROM blobs")
        return [self._blob(row) for row in rows]

    async def blob(self, plan: bytes, blob: bytes) -> StoredBlob | None:
        """One blob, or None."""
        rows = await self._fetch(
            "SELECT plan, blob, origin, total_bytes, shared FROM blobs WHERE plan = $1 AND blob = $2", plan, blob
        )
        return self._blob(rows[0]) if rows else None

    async def add_blob(self, blob: StoredBlob) -> StoredBlob:
        """Remember ``blob`` unless its name is known; the one that stands."""
        inserted = await self._fetch(
            "INSERT INTO blobs VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1",
            *(blob.plan, blob.blob, blob.origin.value, blob.total_bytes, blob.shared),
        )
        return blob if inserted else await self.blob(blob.plan, blob.blob) or blob

    async def finish_blob(self, blob: StoredBlob) -> bool:
        """Note the size of ``blob`` and whether it is shared; if it is, the other replicas hear of it."""
        if blob.shared and self._staged is not None:
            self._staged.forget(blob.plan, blob.blob)
        changed = await self._fetch(
            "WITH changed AS (UPDATE blobs SET total_bytes = $3, shared = $4 WHERE plan = $1 AND blob = $2 RETURNING 1)"
            " SELECT CASE WHEN $4 THEN pg_notify('cloister', $5) END FROM changed",
            *(blob.plan, blob.blob, blob.total_bytes, blob.shared),
            self._encode(ChangeKind.SHARED, blob.plan, blob.blob),
        )
        return bool(changed)

    def note_received(self, blob: StoredBlob) -> None:
        """Note how far an upload is beside this replica's files: what lies on its disk is no fact for all."""
        if self._staged is not None and blob.origin is Origin.WORKER and not blob.shared:
            self._staged.note(blob.plan, blob.blob, blob.received_bytes)

    async def delete_blob(self, plan: bytes, blob: bytes) -> bool:
        """Forget a blob, and let the other replicas delete their copies."""
        if self._staged is not None:
            self._staged.forget(plan, blob)
        gone = await self._fetch(
            "WITH gone AS (DELETE FROM blobs WHERE plan = $1 AND blob = $2 RETURNING 1)"
            " SELECT pg_notify('cloister', $3) FROM gone",
            *(plan, blob, self._encode(ChangeKind.DISCARDED, plan, blob)),
        )
        return bool(gone)

    def _blob(self, row: asyncpg.Record) -> StoredBlob:
        blob = StoredBlob(row["plan"], row["blob"], Origin(row["origin"]), row["total_bytes"], row["shared"])
        if self._staged is None or blob.shared or blob.origin is not Origin.WORKER:
            return blob
        return replace(blob, received_bytes=self._staged.received_bytes(blob.plan, blob.blob))

    # events

    async def append_event(self, plan: bytes, json: str, source: EventSource | None = None) -> bool:
        """Store one public event under the next number of its plan, unless one of this ``source`` is there."""
        token, sequence = (None, None) if source is None else (source.token, source.sequence)
        try:
            await self._fetch(
                "WITH run AS (INSERT INTO runs (plan, events) VALUES ($1, 1)"
                " ON CONFLICT (plan) DO UPDATE SET events = runs.events + 1 RETURNING events),"
                " new AS (INSERT INTO events SELECT $1, events, $2, $3, $4 FROM run RETURNING 1)"
                " SELECT pg_notify('cloister', $5) FROM new",
                *(plan, json, token, sequence, self._encode(ChangeKind.EVENT, plan)),
            )
        except asyncpg.UniqueViolationError:  # the statement is undone as a whole, its number too
            return False
        return True

    async def events(self, plan: bytes, after: int, limit: int = 256) -> list[tuple[int, str]]:
        """At most ``limit`` events (number, JSON) behind number ``after``, in order."""
        rows = await self._fetch(
            "SELECT number, json FROM events WHERE plan = $1 AND number > $2 ORDER BY number LIMIT $3",
            *(plan, min(after, _LARGEST), limit),
        )
        return [(row["number"], row["json"]) for row in rows]

    # runs and orders

    async def runs(self) -> list[StoredRun]:
        """Every run, in the order of its plan digest."""
        rows = await self._fetch(
            "SELECT runs.plan, bytes_in, bytes_out, started.envelope, stopped.envelope, held.envelope, held.action"
            " FROM runs LEFT JOIN orders started ON started.nonce = start_nonce"
            " LEFT JOIN orders stopped ON stopped.nonce = stop_nonce"
            " LEFT JOIN orders held ON held.nonce = hold_nonce ORDER BY runs.plan"
        )
        return [StoredRun(*row.values()) for row in rows]

    async def add_bytes(self, plan: bytes, bytes_in: int, bytes_out: int) -> None:
        """Add what a finished stream carried to and from a host."""
        await self._fetch(
            "UPDATE runs SET bytes_in = bytes_in + $2, bytes_out = bytes_out + $3 WHERE plan = $1",
            *(plan, bytes_in, bytes_out),
        )

    async def honour_order(self, order: StoredOrder) -> None:
        """Use up the nonce of ``order`` and let it stand for its run, both or neither.

        Raises:
            RunError: the nonce was used before, at whichever replica.
        """
        column = STANDING[order.action]
        try:
            await self._fetch(
                "WITH used AS (INSERT INTO orders VALUES ($1, $2, $3, $4) RETURNING nonce),"  # noqa: S608
                f" run AS (INSERT INTO runs (plan, {column}) SELECT $2, nonce FROM used"
                f" ON CONFLICT (plan) DO UPDATE SET {column} = excluded.{column} RETURNING 1)"
                " SELECT pg_notify('cloister', $5) FROM run",
                *(order.nonce, order.plan, order.action, order.envelope),
                self._encode(ChangeKind.ORDER, order.plan),
            )
        except asyncpg.UniqueViolationError:
            raise RunError(Reason.ORDER_REPLAYED, "order.nonce: used before; sign a new order") from None


async def examine(database: Database) -> int:
    """See whether a host could keep its state there, and leave nothing behind; the version of the tables that are.

    In one transaction that is never committed: the tables are made or brought up to date, written to and read.

    Raises:
        RunError: STORE_AWAY: no connection, or its user may not do all of that; UNSUPPORTED_VERSION.
    """
    with _reaching():
        db = await asyncpg.connect(**_parameters(database), command_timeout=_TIMEOUT_S)
        try:
            transaction = db.transaction()
            await transaction.start()
            await db.execute(f"SET LOCAL lock_timeout = '{_TIMEOUT_S:.0f}s'")
            version = await _bring_up_to_date(db)
            plan, nonce = token_bytes(32), token_bytes(16)
            await db.execute("INSERT INTO orders VALUES ($1, $2, 'start', $3)", nonce, plan, b"")
            await db.execute("INSERT INTO runs (plan, start_nonce) VALUES ($1, $2)", plan, nonce)
            await db.execute("UPDATE runs SET events = events + 1 WHERE plan = $1", plan)
            await db.execute("INSERT INTO events (plan, number, json) VALUES ($1, 1, '{}')", plan)
            await db.execute("INSERT INTO blobs VALUES ($1, $2, 'worker', 1, false)", plan, nonce)
            await db.fetch("SELECT * FROM runs JOIN events USING (plan) JOIN blobs USING (plan) WHERE plan = $1", plan)
            await db.execute("DELETE FROM blobs WHERE plan = $1", plan)
            await db.execute("SELECT pg_notify($1, '')", _CHANNEL)
            await transaction.rollback()
            return version
        finally:
            await db.close(timeout=_TIMEOUT_S)


async def _bring_up_to_date(db: asyncpg.Connection) -> int:
    """Make what is missing, inside the caller's transaction; the version that was there, 0 where nothing was.

    Raises:
        RunError: UNSUPPORTED_VERSION: a newer version wrote these tables.
    """
    await db.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
    await db.execute("CREATE TABLE IF NOT EXISTS cloister_schema (version BIGINT NOT NULL)")
    version: int = await db.fetchval("SELECT max(version) FROM cloister_schema") or 0
    if version > len(_MIGRATIONS):
        raise RunError(Reason.UNSUPPORTED_VERSION, "database: written by a newer version; use that version")
    for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
        await db.execute(script)
        await db.execute("INSERT INTO cloister_schema VALUES ($1)", number)
    return version


def _parameters(database: Database) -> dict[str, Any]:
    return {
        "dsn": database.url,
        "password": database.read_password(),
        "timeout": _TIMEOUT_S,
        "server_settings": {"application_name": "cloister", **_KEEPALIVE},
    }


@contextmanager
def _reaching() -> Iterator[None]:
    """Around every use of the database: what it and the network say becomes one reason, without their words."""
    try:
        yield
    except asyncpg.UniqueViolationError:
        raise  # the caller's rule
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        advice = "check the user in its URL, and the password file"
        raise RunError(Reason.STORE_AWAY, f"database: it does not let this host in; {advice}") from None
    except asyncpg.InvalidCatalogNameError:
        raise RunError(Reason.STORE_AWAY, "database: there is none of that name; create it") from None
    except asyncpg.InsufficientPrivilegeError:
        raise RunError(Reason.STORE_AWAY, "database: its user may not do this; grant it CREATE on the schema") from None
    except (OSError, TimeoutError):
        raise RunError(Reason.STORE_AWAY, "database: no answer; check its URL, and that it runs") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise RunError(Reason.STORE_AWAY, f"database: it refuses ({type(error).__name__})") from None
