"""What a member's broker keeps: keys, grants, how often each may be used, and a log. Trust zone: the member's own.

Whoever controls this disk can put an older copy back, and with it counts and revoked grants: it is the member's own
machine, and the threat model says so. Nothing here needs the private key of the store; handing out does (holdings.py).
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path

from broker.database import Database
from broker.key_files import KeyFiles
from broker.records import Entry, Event, KeptGrant, KeptKey, KeyKind
from trusted.blob import ContentKey
from trusted.documents.charter import VerifiedCharter
from trusted.documents.grant import VerifiedGrant, VerifiedWithdrawal, Withdrawn, commitment
from trusted.documents.plan import VerifiedPlan
from trusted.documents.schema import write_time
from trusted.errors import DocumentError, KeyReleaseError, Reason
from trusted.wire import exactly

STORE_KEY = "store-key.pem"  # the private half; whoever makes a store writes it, with the member's passphrase
_DATABASE = "store.db"
_KEYS = "keys"
_MAX_DESCRIPTION = 200
_MAX_REFUSALS = 10_000  # strangers can cause refusals: the oldest make room. Releases and withdrawals never go


class KeyStore:
    """One member's store, in a folder that only the member can read. Several processes may use it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.files = KeyFiles(folder / _KEYS)
        self.database = database

    @classmethod
    def create(cls, folder: Path, *, member: str, public: bytes) -> KeyStore:
        """A new store of ``member``, whose keys are sealed to ``public`` (1216 bytes).

        Raises:
            FileExistsError: there is one. OSError: it cannot be made. KeyReleaseError: KEY_STORE.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / _KEYS).mkdir(mode=0o700, exist_ok=True)
        store = cls(folder, Database(folder / _DATABASE, create=True))
        with store.database.changing() as db:
            db.executemany("INSERT INTO meta VALUES (?, ?)", [("member", member.encode()), ("public", public)])
        return store

    @classmethod
    def open(cls, folder: Path) -> KeyStore:
        """The store in ``folder``. Keys that were retired and whose file a crash left are destroyed now.

        Raises:
            KeyReleaseError: KEY_STORE: there is none, or it is not whole.
            OSError: a retired key's file cannot be removed.
        """
        store = cls(folder, Database(folder / _DATABASE))
        for kept in store.kept_keys():
            if kept.retired:
                store.files.destroy(kept.id)
        return store

    def close(self) -> None:
        """Give up the database."""
        self.database.close()

    def __enter__(self) -> KeyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def member(self) -> str:
        """Whose store it is."""
        return self._meta("member").decode()

    @property
    def public(self) -> bytes:
        """The key to which this store seals its keys, 1216 bytes."""
        return self._meta("public")

    def add(self, key_id: bytes, key: ContentKey, kind: KeyKind, description: str, now: datetime) -> None:
        """Keep ``key`` under ``key_id``: the digest of what it seals, 32 bytes. Needs no secret; again is the same.

        Raises:
            KeyReleaseError: KEY_COMMITMENT: another key has that id; KEY_RETIRED: this one was retired; KEY_STORE.
            OSError: its file cannot be written.
        """
        promised = commitment(exactly(key_id, 32, "key id"), key.secret)
        if self._holds(key_id, promised):
            return
        self.files.put(key_id, key, self.public)
        with self.database.changing() as db:
            values = (key_id, kind.value, description[:_MAX_DESCRIPTION], promised, write_time(now))
            db.execute("INSERT INTO keys (id, kind, description, commitment, added) VALUES (?, ?, ?, ?, ?)", values)
            _append(db, now, Event.ADDED, key=key_id)

    def kept_keys(self) -> list[KeptKey]:
        """Every key, the first that was added first."""
        with self.database.reading() as db:
            rows = db.execute("SELECT id, kind, description, commitment, added, retired FROM keys ORDER BY added, id")
            return [KeptKey(row[0], KeyKind(row[1]), row[2], row[3], row[4], bool(row[5])) for row in rows]

    def key(self, key_id: bytes) -> KeptKey:
        """The key of that id, which may be handed out.

        Raises:
            KeyReleaseError: KEY_UNKNOWN, KEY_RETIRED.
        """
        for kept in self.kept_keys():
            if kept.id == key_id:
                return _require_not_retired(kept)
        raise KeyReleaseError(Reason.KEY_UNKNOWN, "key: this broker holds no key of that id")

    def add_grant(self, grant: VerifiedGrant, charter: VerifiedCharter, plan: VerifiedPlan, now: datetime) -> None:
        """Act on ``grant`` from now on, by the rules of ``charter`` for the plan ``plan``.

        Raises:
            DocumentError: the grant is of another member, charter or plan.
            KeyReleaseError: KEY_UNKNOWN, KEY_RETIRED; KEY_COMMITMENT: for another key than is kept here; KEY_STORE.
        """
        document = grant.document
        if document.member != self.member:
            raise DocumentError(Reason.UNKNOWN_MEMBER, "grant.member: this is another member's store")
        if (document.charter, document.plan) != (charter.digest, plan.digest):
            raise DocumentError(Reason.DOCUMENT_DIGEST, "grant: for another charter or plan than is given with it")
        if self.key(document.key).commitment != document.commitment:
            raise KeyReleaseError(Reason.KEY_COMMITMENT, "grant.commitment: to another key than the one kept here")
        with self.database.changing() as db:
            papers = [(charter.digest, charter.envelope), (plan.digest, plan.envelope)]
            db.executemany("INSERT OR IGNORE INTO documents VALUES (?, ?)", papers)
            values = (grant.digest, document.key, charter.digest, plan.digest, grant.envelope, document.releases)
            columns = "digest, key, charter, plan, envelope, remaining"
            added = db.execute(f"INSERT OR IGNORE INTO grants ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608
            if added.rowcount:
                _append(db, now, Event.GRANTED, key=document.key, grant_digest=grant.digest)

    def grants(self) -> list[KeptGrant]:
        """Every grant, the first that was made first."""
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT digest, key, charter, plan, envelope, remaining, revoked FROM grants ORDER BY number"
            )
            return [KeptGrant(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6])) for row in rows]

    def document(self, digest: bytes) -> bytes | None:
        """The envelope of a charter or a plan that came with a grant."""
        with self.database.reading() as db:
            row = db.execute("SELECT envelope FROM documents WHERE digest = ?", (digest,)).fetchone()
            return None if row is None else row[0]

    def withdraw(self, withdrawal: VerifiedWithdrawal, now: datetime) -> None:
        """Take back a grant, or retire a key: its grants end, and its file is overwritten and removed. For good.

        Raises:
            DocumentError: another member's. KeyReleaseError: NOT_GRANTED, KEY_UNKNOWN: there is no such thing here.
            OSError: the key is retired, and its file is still there; opening the store again removes it.
        """
        document = withdrawal.document
        if document.member != self.member:
            raise DocumentError(Reason.UNKNOWN_MEMBER, "withdrawal.member: this is another member's store")
        with self.database.changing() as db:
            if document.what is Withdrawn.GRANT:
                _revoke(db, withdrawal, now)
            else:
                _retire(db, withdrawal, now)
        if document.what is Withdrawn.KEY:
            self.files.destroy(document.subject)

    def log(self) -> list[Entry]:
        """Every line, the first first."""
        columns = "number, at, event, key, grant_digest, result, measurement, reason, envelope"
        with self.database.reading() as db:
            return [Entry.of(row) for row in db.execute(f"SELECT {columns} FROM log ORDER BY number")]  # noqa: S608

    def note_refusal(self, key_id: bytes | None, reason: Reason, now: datetime) -> None:
        """Remember that somebody was refused, and why. The oldest of 10000 makes room.

        Raises:
            KeyReleaseError: KEY_STORE.
        """
        with self.database.changing() as db:
            _append(db, now, Event.REFUSED, key=key_id, reason=int(reason))
            oldest = "SELECT number FROM log WHERE event = 'refused' ORDER BY number DESC LIMIT 1 OFFSET ?"
            row = db.execute(oldest, (_MAX_REFUSALS,)).fetchone()
            if row is not None:
                db.execute("DELETE FROM log WHERE event = 'refused' AND number <= ?", row)

    def count_release(self, grant: bytes, result: bytes, measurement: bytes, now: datetime) -> None:
        """One release fewer is left, and the log holds this one: both on the disk once this returns.

        Raises:
            KeyReleaseError: GRANT_REVOKED, GRANT_EXHAUSTED, NOT_GRANTED: nothing was counted; KEY_STORE.
        """
        with self.database.changing() as db:
            row = db.execute("SELECT key, remaining, revoked FROM grants WHERE digest = ?", (grant,)).fetchone()
            if row is None:
                raise KeyReleaseError(Reason.NOT_GRANTED, "grant: not in this store")
            if row[2]:
                raise KeyReleaseError(Reason.GRANT_REVOKED, "grant: its member has taken it back")
            if row[1] < 1:
                raise KeyReleaseError(Reason.GRANT_EXHAUSTED, "grant.releases: all of them were made")
            db.execute("UPDATE grants SET remaining = remaining - 1 WHERE digest = ?", (grant,))
            _append(db, now, Event.RELEASED, key=row[0], grant_digest=grant, result=result, measurement=measurement)

    def _holds(self, key_id: bytes, promised: bytes) -> bool:
        """Whether this very key is here already."""
        for kept in self.kept_keys():
            if kept.id == key_id:
                if kept.commitment != promised:
                    raise KeyReleaseError(Reason.KEY_COMMITMENT, "key: another key has that id")
                return _require_not_retired(kept).id == key_id
        return False

    def _meta(self, name: str) -> bytes:
        with self.database.reading() as db:
            row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyReleaseError(Reason.KEY_STORE, f"store.db: no {name}; it was not made to its end")
        return bytes(row[0])


def _require_not_retired(kept: KeptKey) -> KeptKey:
    if kept.retired:
        raise KeyReleaseError(Reason.KEY_RETIRED, "key: its member has retired it; it was destroyed here")
    return kept


def _revoke(db: sqlite3.Connection, withdrawal: VerifiedWithdrawal, now: datetime) -> None:
    digest = withdrawal.document.subject
    row = db.execute("SELECT key, revoked FROM grants WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        raise KeyReleaseError(Reason.NOT_GRANTED, "withdrawal.subject: no grant of that digest in this store")
    if not row[1]:
        db.execute("UPDATE grants SET revoked = 1 WHERE digest = ?", (digest,))
        _append(db, now, Event.REVOKED, key=row[0], grant_digest=digest, envelope=withdrawal.envelope)


def _retire(db: sqlite3.Connection, withdrawal: VerifiedWithdrawal, now: datetime) -> None:
    key_id = withdrawal.document.subject
    row = db.execute("SELECT retired FROM keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise KeyReleaseError(Reason.KEY_UNKNOWN, "withdrawal.subject: this broker holds no key of that id")
    if not row[0]:
        db.execute("UPDATE keys SET retired = 1 WHERE id = ?", (key_id,))
        db.execute("UPDATE grants SET revoked = 1 WHERE key = ?", (key_id,))
        _append(db, now, Event.RETIRED, key=key_id, envelope=withdrawal.envelope)


def _append(db: sqlite3.Connection, now: datetime, event: Event, **columns: bytes | int | None) -> None:
    values = {"at": write_time(now), "event": event.value, **columns}
    places = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO log ({', '.join(values)}) VALUES ({places})", tuple(values.values()))  # noqa: S608
