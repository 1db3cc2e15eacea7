"""Checks of a coordinator's stores: reached, and usable for all that a host does with them. Trust zone: operator.

Nothing stays: the database's transaction is rolled back, and the object that was stored is deleted. A store's own words
are never shown, for they may quote keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from console.finding import Finding, ok, problem
from coordinator.host.config import HostConfig
from coordinator.host.places import BlobPlace, Database
from coordinator.host.storage import examine_database, open_objects
from trusted.errors import ProtocolError, Reason

_ADVICE = {
    Reason.UNSUPPORTED_VERSION: "Start hosts of that version, or give this one a database of its own.",
    Reason.MISSING_FIELD: "Correct the file that the configuration names.",
}
_STORE_ADVICE = "The host would not start: docs/runbook.md tells more about this reason."


def stores(path: Path) -> Iterator[Finding]:
    """Findings about the stores that the host's configuration ``path`` names, one line each."""
    name = "host config"
    try:
        config = HostConfig.load(path)
    except ProtocolError as error:
        yield problem(name, _said(error), "Correct it: docs/operations.md lists what may stand in it.")
        return
    yield ok(name, f"{path} reads")
    yield _database(config.database) if config.database is not None else ok("host database", "SQLite, in its state")
    yield _blobs(config.blobs) if config.blobs is not None else ok("host blobs", "files, in its state")


def _database(database: Database) -> Finding:
    name = "host database"
    try:
        version = asyncio.run(examine_database(database))
    except ProtocolError as error:
        return problem(name, _said(error), _ADVICE.get(error.reason, _STORE_ADVICE))
    tables = f"tables of version {version}" if version else "no tables yet; the first host makes them"
    return ok(name, f"PostgreSQL{_where(database.url)}: written to and read, nothing left; {tables}")


def _blobs(place: BlobPlace) -> Finding:
    name = "host blobs"
    try:
        asyncio.run(open_objects(place).probe())
    except ProtocolError as error:
        return problem(name, _said(error), _ADVICE.get(error.reason, _STORE_ADVICE))
    what = f"bucket {place.bucket}" if place.is_s3 else f"folder {place.folder}"
    return ok(name, f"{what}: an object was stored, read and deleted")


def _where(url: str) -> str:
    host = urlsplit(url).hostname
    return f" at {host}" if host else ""


def _said(error: ProtocolError) -> str:
    return f"{error.reason.code}: {error.detail}"
