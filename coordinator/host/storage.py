"""Opens what a host's configuration names: its state and its spool, alone or shared. Trust zone: host; shell.

The clients of PostgreSQL and S3 are extras: they are imported when a configuration asks for them, and not before.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from coordinator.host.config import HostConfig
from coordinator.host.objects import FolderObjects, ObjectStore
from coordinator.host.places import BlobPlace, Database
from coordinator.host.shared_spool import SharedSpool
from coordinator.host.spool import Spool
from coordinator.host.sqlite_trouble import damaged
from coordinator.host.staged import StagedUploads
from coordinator.host.state import HostState
from coordinator.host.state_sqlite import SqliteState
from trusted.errors import Reason, RunError

DATABASE = "host.sqlite"  # in the state folder
BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class Storage:
    """What a host stores in; ``spool`` is a :class:`SharedSpool` where blobs are shared."""

    state: HostState
    spool: Spool


async def open_storage(config: HostConfig, stack: AsyncExitStack) -> Storage:
    """Connect to everything that ``config`` names and take up what is there; ``stack`` closes it.

    Raises:
        RunError: STORE_AWAY: something does not answer, or an extra is not installed.
    """
    state = await open_state(config)
    stack.push_async_callback(state.close)
    folder = config.state / BLOBS
    if config.blobs is None:
        spool = Spool(folder, state, config.limits)
    else:
        objects = open_objects(config.blobs)
        await objects.probe()
        spool = SharedSpool(folder, state, config.limits, objects)
    stack.push_async_callback(spool.close)
    await spool.load()
    return Storage(state, spool)


async def open_state(config: HostConfig) -> HostState:
    """The configured state: PostgreSQL, or SQLite in the state folder.

    Raises:
        RunError: STORE_AWAY, STORE_DAMAGED, HOST_SHORT or UNSUPPORTED_VERSION.
    """
    if config.database is None:
        path = config.state / DATABASE
        _require_its_database(path, config.state / BLOBS)
        return SqliteState(path)
    return await _open_postgres(config.database, config.state)


def _require_its_database(path: Path, blobs: Path) -> None:
    """Refuse blobs without the database that names them: with an empty one, every one of them would be swept away.

    Raises:
        RunError: STORE_DAMAGED.
    """
    there = path.exists()
    if there and not path.stat().st_size:
        raise damaged(f"{path.name} is empty")
    if not there and any(blobs.glob("*/*")):
        raise damaged(f"{path.name} is gone, and the blobs are still there")


async def examine_database(database: Database) -> int:
    """Try everything that a host does with its database and leave nothing there; the version of its tables, 0: none.

    Raises:
        RunError: STORE_AWAY, or UNSUPPORTED_VERSION.
    """
    try:
        from coordinator.host.state_postgres import examine
    except ImportError:
        raise _not_installed("postgres") from None
    return await examine(database)


async def _open_postgres(database: Database, folder: Path) -> HostState:
    try:
        from coordinator.host.state_postgres import PostgresState
    except ImportError:
        raise _not_installed("postgres") from None
    staged = StagedUploads(folder / "staged.sqlite")
    try:
        return await PostgresState.open(database, staged)
    except BaseException:
        staged.close()
        raise


def open_objects(place: BlobPlace) -> ObjectStore:
    """The configured store of complete blobs; nothing is sent yet.

    Raises:
        RunError: STORE_AWAY: its client is not installed; MISSING_FIELD: its credentials cannot be read.
    """
    if not place.is_s3:
        return FolderObjects(place.folder)
    try:
        from coordinator.host.objects_s3 import S3Objects
    except ImportError:
        raise _not_installed("s3") from None
    return S3Objects(place)


def _not_installed(extra: str) -> RunError:
    return RunError(Reason.STORE_AWAY, f"host: this needs an extra; install cloister[{extra}]")
