"""What a configuration may say of shared stores, and what is said when they are away."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator.host.config import HostConfig
from coordinator.host.places import BlobPlace, Database
from coordinator.host.storage import open_objects, open_state
from tests.stores import postgres as postgres_server
from tests.stores import s3 as s3_server
from trusted.errors import ProtocolError, Reason

DATABASE = {"url": "postgresql://cloister@db.example:5432/cloister", "password_file": "password"}
BUCKET = {"url": "s3://models/site/a", "endpoint": "https://s3.example", "region": "eu", "credentials": "keys"}


def load(folder: Path, **fields: Any) -> HostConfig:
    path = folder / "host.json"
    plain = {"state": "s", "listen": "127.0.0.1:0", "door": f"unix:{folder}/d", "charter": "c"}
    path.write_text(json.dumps(plain | fields))
    return HostConfig.load(path)


def test_a_configuration_names_database_and_bucket_and_files_beside_it(tmp_path: Path) -> None:
    config = load(tmp_path, database=DATABASE, blobs=BUCKET)
    assert config.database == Database(DATABASE["url"], tmp_path / "password")
    assert config.blobs == BlobPlace(BUCKET["url"], BUCKET["endpoint"], BUCKET["region"], tmp_path / "keys")
    assert (config.blobs.bucket, config.blobs.prefix) == ("models", "site/a")
    assert load(tmp_path).database is load(tmp_path).blobs is None
    assert load(tmp_path, blobs={"url": "folder:/mnt/blobs"}).blobs == BlobPlace("folder:/mnt/blobs")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"database": DATABASE}, Reason.MISSING_FIELD),  # replicas would not find each other's blobs
        ({"database": {}, "blobs": BUCKET}, Reason.MISSING_FIELD),
        ({"database": {"url": "mysql://db/x"}, "blobs": BUCKET}, Reason.MALFORMED),
        ({"database": {"url": "postgresql://u:hunter2@db/x"}, "blobs": BUCKET}, Reason.MALFORMED),
        ({"database": {"url": "postgresql://u@db/x?password=hunter2"}, "blobs": BUCKET}, Reason.MALFORMED),
        ({"database": DATABASE | {"password": "hunter2"}, "blobs": BUCKET}, Reason.UNKNOWN_FIELD),
        ({"blobs": {"url": "s3:///prefix"}}, Reason.MALFORMED),
        ({"blobs": {"url": "folder:relative"}}, Reason.MALFORMED),
        ({"blobs": {"url": "gs://bucket"}}, Reason.MALFORMED),
        ({"blobs": {"url": "/mnt/blobs"}}, Reason.MALFORMED),
        ({"blobs": {"url": "folder:/mnt/blobs", "region": "eu"}}, Reason.MALFORMED),
        ({"blobs": BUCKET | {"endpoint": "s3.example"}}, Reason.MALFORMED),
        ({"blobs": BUCKET | {"secret": "hunter2"}}, Reason.UNKNOWN_FIELD),
    ],
)
def test_what_a_configuration_may_not_say_is_refused_without_its_secret(
    fields: dict[str, Any], reason: Reason, tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError) as caught:
        load(tmp_path, **fields)
    assert caught.value.reason is reason
    assert "hunter2" not in str(caught.value)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("a b\nsecond line\n")
    assert Database("postgresql://db/x", path).read_password() == "a b"
    assert Database("postgresql://db/x").read_password() is None
    with pytest.raises(ProtocolError) as caught:
        Database("postgresql://db/x", tmp_path / "none").read_password()
    assert caught.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    "text", ["", "[other]\naws_access_key_id = a\n", "[default]\naws_access_key_id = a\n", "words"]
)
def test_a_credentials_file_without_keys_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text(text)
    with pytest.raises(ProtocolError) as caught:
        BlobPlace("s3://bucket", credentials=path).read_credentials()
    assert caught.value.reason is Reason.MISSING_FIELD
    path.write_text(s3_server.CREDENTIALS)
    assert len(BlobPlace("s3://bucket", credentials=path).read_credentials()) == 2


async def away(database: Database) -> str:
    from coordinator.host.state_postgres import PostgresState

    with pytest.raises(ProtocolError) as caught:
        await PostgresState.open(database)
    assert caught.value.reason is Reason.STORE_AWAY
    assert postgres_server.PASSWORD not in str(caught.value)
    return caught.value.detail


async def test_a_database_that_cannot_be_used_is_said_with_what_to_check(
    postgres: postgres_server.Server, tmp_path: Path
) -> None:
    good = postgres.new_database()
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    assert "password" in await away(Database(good.url, wrong))
    assert "create it" in await away(Database(good.url.replace("/test_", "/none_"), good.password_file))
    assert "no answer" in await away(Database(f"postgresql://cloister@/x?host={tmp_path}", good.password_file))
    assert "no answer" in await away(Database("postgresql://cloister@127.0.0.1:1/x", good.password_file))


async def test_objects_are_whole_repeatable_and_gone_when_deleted(tmp_path: Path, s3: s3_server.Server) -> None:
    (tmp_path / "shared").mkdir()
    data = bytes(range(256)) * (20 << 12)  # 20 MiB: three parts
    path = tmp_path / "blob"
    path.write_bytes(data)
    for place in (BlobPlace(f"folder:{tmp_path / 'shared'}"), s3.new_place()):
        objects = open_objects(place)
        await objects.probe()
        for _ in range(2):
            await objects.put("plan/blob", path)
            assert await objects.read("plan/blob", 0, len(data)) == data
        assert await objects.read("plan/blob", len(data) - 3, 3) == data[-3:]
        with pytest.raises(ProtocolError) as caught:
            await objects.read("plan/blob", len(data) - 3, 4)
        assert caught.value.reason is Reason.STORE_AWAY
        for _ in range(2):
            await objects.delete("plan/blob")
        with pytest.raises(ProtocolError) as caught:
            await objects.read("plan/blob", 0, 1)
        assert caught.value.reason is Reason.STORE_AWAY
    assert s3.keys(place) == set()
    assert [item for item in (tmp_path / "shared").rglob("*") if item.is_file()] == []


async def test_a_store_that_cannot_be_used_is_said_soon_and_without_its_keys(
    tmp_path: Path, s3: s3_server.Server
) -> None:
    place = s3.new_place()
    places = (
        BlobPlace("s3://no-such-bucket", place.endpoint, place.region, place.credentials),
        BlobPlace(place.url, "http://127.0.0.1:1", place.region, place.credentials),
        BlobPlace(f"folder:{tmp_path / 'none'}"),
    )
    for bad in places:
        started = time.monotonic()
        with pytest.raises(ProtocolError) as caught:
            await open_objects(bad).probe()
        assert caught.value.reason is Reason.STORE_AWAY
        assert "secret-of-the-bucket" not in str(caught.value)
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(("library", "extra"), [("asyncpg", "postgres"), ("obstore", "s3")])
async def test_a_client_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("coordinator.host.state_postgres", "coordinator.host.objects_s3"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    config = load(tmp_path, database={"url": DATABASE["url"]}, blobs={"url": "s3://bucket"})
    assert config.blobs is not None
    with pytest.raises(ProtocolError) as caught:
        open_objects(config.blobs) if extra == "s3" else await open_state(config)
    assert caught.value.reason is Reason.STORE_AWAY
    assert f"cloister[{extra}]" in caught.value.detail
