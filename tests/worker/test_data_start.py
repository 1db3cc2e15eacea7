"""A worker's start: the app's process first, then keys, then data, then the app; and what is left when it fails."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.worker.flower_apps import LAYOUT, unpacked, write_app
from tests.world import World, envelope
from trusted.apps.bundle import build_bundle, bundle_digest
from trusted.documents import site_policy as site_policies
from trusted.documents.plan import initial_digest
from trusted.documents.terms import App, ColumnRule, ColumnType, DatasetContract
from trusted.errors import BlobError, ProtocolError, Reason
from trusted.evidence.boot import Boot, Role
from trusted.sealed_data import DataHeader, seal_data
from worker import private_folder, start
from worker.contract import Gate
from worker.dataset import Source, admit_dataset
from worker.start import Options, Prepared, prepare
from worker.trainer_process import TrainerProcess, TrainerSpec

CONTRACT = DatasetContract(2, ("x",), (ColumnRule("x", ColumnType.INTEGER, high=9),))
Note = Callable[..., None]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, as where a worker starts; and all that it makes below the test's own folder."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(private_folder, "_SHARED_MEMORY", tmp_path / "no-shared-memory")


class Site:
    """One site's papers and files, and its worker's start."""

    def __init__(self, folder: Path, root: SoftwareRoot, chip: Chip, data: bytes = b"x,y\n1,a\n2,b\n") -> None:
        self.folder = folder
        bundle = build_bundle(write_app(folder / "source"))
        app = App.read({"kind": "flower", "bundle_sha256": bundle_digest(bundle).hex(), "config": {}})
        changes = {"app": app, "dataset": CONTRACT, "layout": LAYOUT}
        changes["initial_sha256"] = initial_digest(LAYOUT, bytes(4 * LAYOUT.elements))
        self.world = World(root, chip, plan_changes=changes)
        (folder / "app.fab").write_bytes(bundle)
        (folder / "data.csv").write_bytes(data)
        (folder / "worker.key").write_bytes(self.world.worker_keys["site-1"].private_bytes_raw())
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def options(self, **changes: str) -> Options:
        blank = {field.name: "" for field in fields(Options)}
        given = {
            "site_policy": self._policy().decode(),
            "credential": self.world.membership("site-1").credential.decode(),
            "worker_key": str(self.folder / "worker.key"),
            "bundle": str(self.folder / "app.fab"),
            "data": str(self.folder / "data.csv"),
            "app_log": str(self.folder / "app.log"),
        }
        return Options(**blank | given | changes | {"coordinators": ("host:443",), "app_memory_mib": 0})  # type: ignore[arg-type]

    def prepare(self, **changes: str) -> Prepared:
        world = self.world
        boot = Boot(Role.WORKER, world.charter.envelope, world.plan.envelope, {}, world.provider("worker"))
        return prepare(boot, self.options(**changes), lambda event, **said: self.notes.append((event, said)))

    def refused(self, **changes: str) -> Reason:
        with pytest.raises(ProtocolError) as error:
            self.prepare(**changes)
        return error.value.reason

    @property
    def in_clear(self) -> list[Path]:
        """The folders that are there of data in clear, and of what an app may write."""
        return [path for name in ("cloister-data-*", "site-*") for path in (self.folder / "tmp").glob(name)]

    def _policy(self) -> bytes:
        world = self.world
        document = site_policies.SitePolicy(
            member="site-1",
            charter=world.charter.digest,
            plans=(world.plan.digest,),
            bundles=(world.plan.document.app.bundle_sha256,),
            max_rounds=100,
            columns=("x",),
            not_after=world.plan.document.validity.not_after,
        )
        return envelope(document, site_policies.PAYLOAD_TYPE, [world.signing["site-1"]])


@pytest.fixture
def site(tmp_path: Path, software_root: SoftwareRoot, chip: Chip) -> Site:
    return Site(tmp_path, software_root, chip)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def sealed(site: Site, member: str) -> str:
    path = site.folder / "data.sealed"
    header = DataHeader(member, bytes(32), datetime(2026, 3, 1, tzinfo=UTC))
    path.write_bytes(b"".join(seal_data(header, bytes(32), [b"x\n1\n2\n"])))
    return str(path)


def test_the_data_in_clear_is_gone_when_the_worker_is(site: Site) -> None:
    prepared = site.prepare()
    (folder, work) = site.in_clear
    assert (work / "scratch").is_dir()
    assert (folder / "admitted" / "data.csv").read_bytes() == b"x\n1\n2\n"
    said = dict(site.notes)["data-admitted"]
    assert (said["rows"], said["commitment"]) == (2, prepared.membership.commitment.hex())
    prepared.close()
    assert (site.in_clear, children()) == ([], [])
    prepared.close()


def test_the_apps_process_is_there_before_any_key_and_loads_nothing_before_the_data_is_checked(site: Site) -> None:
    with pytest.raises(FileNotFoundError):
        site.prepare(worker_key=str(site.folder / "absent.key"))
    assert (site.folder / "app.log").exists()  # it was forked by then,
    assert [event for event, _ in site.notes] == []  # and had loaded nothing
    assert (site.in_clear, children()) == ([], [])


def test_a_process_that_waits_has_not_imported_the_app(tmp_path: Path) -> None:
    app = unpacked(tmp_path)
    (client,) = app.glob("*/client_app.py")
    client.write_text("import pathlib; pathlib.Path('imported').write_text('')\n" + client.read_text())
    for name in ("data", "scratch"):
        (tmp_path / name).mkdir()
    spec = TrainerSpec(app, tmp_path / "data", LAYOUT, {}, tmp_path / "app.log", tmp_path / "scratch")
    trainer = TrainerProcess.fork(spec)
    try:
        time.sleep(0.3)
        assert not (tmp_path / "scratch" / "imported").exists()
        trainer.load(timeout_s=60)
        assert (tmp_path / "scratch" / "imported").exists()
    finally:
        trainer.stop()


def test_data_that_breaks_the_contract_leaves_nothing_behind(site: Site) -> None:
    (site.folder / "data.csv").write_bytes(b"x,y\n1,a\n10,b\n")
    assert site.refused() is Reason.DATA_VALUES
    assert (site.in_clear, children(), site.notes[-1][0]) == ([], [], "nothing-remembered")
    assert "10" not in str(site.notes)


def test_how_many_rows_there_are_is_not_told_where_they_expire(site: Site) -> None:
    (site.folder / "data.csv").write_bytes(b"x,until\n1,2999-01-01\n2,2999-01-01\n")
    with private_folder.PrivateFolder.make(1) as folder:
        contract = replace(CONTRACT, expires="until")
        source = Source(site.folder / "data.csv")
        admitted = admit_dataset(source, Gate(contract, datetime.now(UTC)), into=folder.path, secret=bytes(32))
        note: Note = lambda event, **said: site.notes.append((event, said))  # noqa: E731
        start._note_admitted(admitted, contract, folder, note)
    assert set(dict(site.notes)["data-admitted"]) == {"commitment", "in_memory"}


def test_a_sealed_file_of_another_member_is_refused_before_anything_starts(site: Site) -> None:
    with pytest.raises(BlobError) as error:
        site.prepare(data=sealed(site, "site-2"), key_broker="127.0.0.1:1")
    assert error.value.reason is Reason.DATA_FILE
    assert not (site.folder / "app.log").exists()


def test_sealed_data_without_a_broker_is_refused_before_anything_starts(site: Site) -> None:
    assert site.refused(data=sealed(site, "site-1")) is Reason.DATA_KEY
    assert not (site.folder / "app.log").exists()
