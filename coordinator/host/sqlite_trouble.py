"""What SQLite says when it cannot go on, as the host's own numbered reasons; and whether a file is whole.

Trust zone: host.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.host.shortages import HostShort, Shortage
from trusted.errors import Reason, RunError

_PRIMARY = 0xFF  # an extended result code holds the primary one in its lowest byte
# A write that fails for another cause than a full disk (a quota, a limit of the file's size) is an I/O error to SQLite.
_WRITE_FAILED = frozenset(
    {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_FULL}
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_WAL_HEADER_BYTES = 32
_WAL_MAGIC = frozenset({b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"})  # sqlite.org/fileformat2.html, §4.1


def damaged(what: str) -> RunError:
    """STORE_DAMAGED, with what to do about it."""
    advice = "move the state folder aside, put back a backup and start again"
    return RunError(Reason.STORE_DAMAGED, f"store: {what}; {advice}")


@contextmanager
def naming_trouble() -> Iterator[None]:
    """Around every use of the database. A constraint that does not hold stays the caller's rule.

    Raises:
        RunError: HOST_SHORT, STORE_DAMAGED or STORE_AWAY.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except MemoryError:
        raise HostShort(Shortage.MEMORY) from None
    except sqlite3.Error as error:
        raise _refusal(getattr(error, "sqlite_errorcode", 0)) from None


def _refusal(code: int) -> RunError:
    if code in _WRITE_FAILED:
        return HostShort(Shortage.DISK)
    if code & _PRIMARY == sqlite3.SQLITE_NOMEM or code == sqlite3.SQLITE_IOERR_NOMEM:
        return HostShort(Shortage.MEMORY)
    if code & _PRIMARY in _DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return damaged("the database is cut short or overwritten")
    if code & _PRIMARY == sqlite3.SQLITE_BUSY:
        return RunError(Reason.STORE_AWAY, "store: another process holds the database; is a second host running?")
    return RunError(
        Reason.STORE_AWAY, f"store: SQLite refuses (code {code}); look at the state folder's disk and rights"
    )


def require_sound(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that is half there; to be asked before it is used for the first time.

    SQLite passes over a write-ahead log that it cannot read, and with it over all that was stored last.

    Raises:
        RunError: STORE_DAMAGED.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists():
        with log.open("rb") as file:
            head = file.read(_WAL_HEADER_BYTES)
        if len(head) == _WAL_HEADER_BYTES and head[:4] not in _WAL_MAGIC:
            raise damaged("the database's write-ahead log is overwritten")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise damaged("the database does not pass its own check")
