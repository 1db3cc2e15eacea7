"""``cloister doctor --host-config``: each store is tried as a host would use it, and nothing is left in it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.host.places import BlobPlace, Database
from coordinator.host.state_postgres import _MIGRATIONS, PostgresState
from tests.console.processes import cloister
from tests.stores import postgres as postgres_server
from tests.stores import s3 as s3_server

_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
_ROWS = "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM blobs)"


def config(folder: Path, *, database: Database | None = None, blobs: BlobPlace | None = None) -> Path:
    """A host's configuration that names these stores."""
    value: dict[str, Any] = {"state": "state", "listen": "127.0.0.1:0", "door": f"unix:{folder}/d", "charter": "c"}
    if database is not None:
        value["database"] = {"url": database.url, "password_file": str(database.password_file)}
    if blobs is not None:
        names = {"url": blobs.url, "endpoint": blobs.endpoint, "region": blobs.region, "credentials": blobs.credentials}
        value["blobs"] = {name: str(named) for name, named in names.items() if named is not None}
    path = folder / "host.json"
    path.write_text(json.dumps(value))
    return path


def shared(folder: Path) -> BlobPlace:
    (folder / "shared").mkdir(exist_ok=True)
    return BlobPlace(f"folder:{folder}/shared")


def findings(path: Path) -> dict[str, dict[str, str]]:
    """What doctor says about the host, by name; no secret stands in any of it."""
    answer = cloister("doctor", "--state", path.parent, "--host-config", path)
    for secret in (postgres_server.PASSWORD, "secret-of-the-bucket"):
        assert secret not in answer.stdout + answer.stderr
    return {item["name"]: item for item in answer.data["checks"] if item["name"].startswith("host ")}


def refused(path: Path, name: str) -> str:
    """The problem that ``name`` is."""
    found = findings(path)[name]
    assert (found["severity"], bool(found["advice"])) == ("problem", True)
    return found["found"]


def database_of(database: Database) -> str:
    return database.url.partition("@/")[2].partition("?")[0]


def test_a_host_that_keeps_all_to_itself_has_no_stores_to_reach(tmp_path: Path) -> None:
    found = findings(config(tmp_path))
    assert [(name, item["severity"]) for name, item in found.items()] == [
        ("host config", "ok"),
        ("host database", "ok"),
        ("host blobs", "ok"),
    ]
    assert not (tmp_path / "state").exists()


def test_a_configuration_that_does_not_read_is_a_problem(tmp_path: Path) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace("charter", "chapter"))
    assert "RUN" in refused(path, "host config") or "WIR" in refused(path, "host config")
    path.unlink()
    assert list(findings(path)) == ["host config"]


def test_an_empty_database_is_tried_and_stays_empty(postgres: postgres_server.Server, tmp_path: Path) -> None:
    database = postgres.new_database()
    found = findings(config(tmp_path, database=database, blobs=shared(tmp_path)))
    assert (found["host database"]["severity"], found["host blobs"]["severity"]) == ("ok", "ok")
    assert "no tables yet" in found["host database"]["found"]
    assert postgres.sql(_TABLES, database_of(database)).strip() == "0"
    assert list((tmp_path / "shared").iterdir()) == []


def test_tables_in_use_are_tried_beside_their_host_and_nothing_is_added(
    postgres: postgres_server.Server, tmp_path: Path
) -> None:
    database = postgres.new_database()
    path = config(tmp_path, database=database, blobs=shared(tmp_path))

    async def beside_a_host() -> dict[str, dict[str, str]]:
        state = await PostgresState.open(database)
        try:
            return await asyncio.to_thread(findings, path)
        finally:
            await state.close()

    found = asyncio.run(beside_a_host())
    assert found["host database"]["severity"] == "ok"
    assert f"tables of version {len(_MIGRATIONS)}" in found["host database"]["found"]
    assert postgres.sql(_ROWS, database_of(database)).strip() == "0"


def test_a_database_that_no_host_could_use_is_a_problem(postgres: postgres_server.Server, tmp_path: Path) -> None:
    database, blobs = postgres.new_database(), shared(tmp_path)
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password")
    elsewhere = replace(database, url=database.url.replace(str(postgres.folder), str(tmp_path)))
    missing = replace(database, url=database.url.replace("@/test", "@/other"))
    postgres.sql(f"CREATE ROLE reader LOGIN PASSWORD '{postgres_server.PASSWORD}'")
    reader = replace(database, url=database.url.replace("cloister@", "reader@"))
    expected = {
        "password file": replace(database, password_file=wrong),
        "no answer": elsewhere,
        "none of that name": missing,
        "may not do this": reader,
        "cannot be read": replace(database, password_file=tmp_path / "none"),
    }
    for words, one in expected.items():
        assert words in refused(config(tmp_path, database=one, blobs=blobs), "host database")


def test_tables_that_only_some_of_a_hosts_work_is_allowed_on_are_a_problem(
    postgres: postgres_server.Server, tmp_path: Path
) -> None:
    database = postgres.new_database()
    name = database_of(database)

    async def make() -> None:
        await (await PostgresState.open(database)).close()

    asyncio.run(make())
    postgres.sql(f"CREATE ROLE half LOGIN PASSWORD '{postgres_server.PASSWORD}'", name)
    postgres.sql("GRANT CREATE ON SCHEMA public TO half", name)
    postgres.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO half", name)
    path = config(
        tmp_path, database=replace(database, url=database.url.replace("cloister@", "half@")), blobs=shared(tmp_path)
    )
    assert findings(path)["host database"]["severity"] == "ok"
    postgres.sql("REVOKE DELETE ON blobs FROM half", name)
    assert "may not do this" in refused(path, "host database")
    postgres.sql("GRANT DELETE ON blobs TO half; UPDATE cloister_schema SET version = 99", name)
    assert "newer version" in refused(path, "host database")


def test_a_bucket_is_written_to_and_read_and_stays_empty(s3: s3_server.Server, tmp_path: Path) -> None:
    place = s3.new_place()
    found = findings(config(tmp_path, blobs=place))["host blobs"]
    assert (found["severity"], place.bucket in found["found"]) == ("ok", True)
    assert s3.keys(place) == set()


def test_a_bucket_that_is_not_there_or_not_open_is_a_problem(s3: s3_server.Server, tmp_path: Path) -> None:
    place = s3.new_place()
    assert "no such bucket" in refused(
        config(tmp_path, blobs=replace(place, url="s3://no-such-bucket/x")), "host blobs"
    )
    keyless = replace(place, credentials=tmp_path / "none")
    assert "credentials" in refused(config(tmp_path, blobs=keyless), "host blobs")


def test_a_shared_folder_that_is_not_mounted_is_a_problem(tmp_path: Path) -> None:
    path = config(tmp_path, blobs=BlobPlace(f"folder:{tmp_path}/not-mounted"))
    assert "is it mounted" in refused(path, "host blobs")
