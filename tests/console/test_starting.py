"""What keeps an enclave from being started is told as what it is, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtee.chip import Chip
from tests.console.conftest import Cloister, Consortium


@pytest.fixture
def papers(planned: Consortium) -> list[object]:
    return ["--charter", planned / "charter.dsse.json", "--plan", planned / "plan.dsse.json"]


def serve(papers: list[object], folder: Path, chip: Path) -> list[object]:
    door = ["--door", f"unix:{folder / 'door.sock'}"]
    return ["aggregator", "serve", *papers, *door, "--tee", "software", "--chip", chip, "--log", folder / "log"]


def test_a_door_in_no_folder_is_told(papers: list[object], cloister: Cloister, tmp_path: Path, chip: Chip) -> None:
    chip.save(tmp_path / "chip")
    command = serve(papers, tmp_path, tmp_path / "chip")
    command[command.index("--door") + 1] = f"unix:{tmp_path / 'none' / 'door.sock'}"
    refused = cloister(*command)
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert "no such folder" in refused.error["message"]


def test_a_chip_that_does_not_load_is_told(
    papers: list[object], cloister: Cloister, tmp_path: Path, chip: Chip
) -> None:
    chip.save(tmp_path / "chip")
    (tmp_path / "chip" / "vcek.key").write_text("no key")
    refused = cloister(*serve(papers, tmp_path, tmp_path / "chip"))
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert "no enclave was started" in refused.error["message"]
    collect = ["attest", "collect", "--tee", "software", "--chip", tmp_path / "chip", "--out", tmp_path / "e"]
    assert "not a software chip" in cloister(*collect).error["message"]


def test_a_site_that_does_not_exist_is_told_and_not_made(
    papers: list[object], cloister: Cloister, tmp_path: Path, chip: Chip
) -> None:
    chip.save(tmp_path / "chip")
    tee = ["--tee", "software", "--chip", tmp_path / "chip"]
    here = ["--site", tmp_path / "none", "--data", tmp_path / "none.csv", "--coordinator", "127.0.0.1:1"]
    refused = cloister("worker", "join", *papers, *here, *tee)
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert not (tmp_path / "none").exists()


def test_hardware_is_never_replaced_by_software(papers: list[object], cloister: Cloister, tmp_path: Path) -> None:
    if Path("/sys/kernel/config/tsm/report").is_dir():
        pytest.skip("this machine has a TEE")
    command = serve(papers, tmp_path, tmp_path)
    command[command.index("software")] = "hardware"
    refused = cloister(*command)
    assert (refused.code, refused.error["code"]) == (4, "TEE-901")


def test_a_product_that_nobody_makes_is_told(cloister: Cloister, tmp_path: Path) -> None:
    refused = cloister("tee", "root", "--out", tmp_path / "root", "--product", "Foo")
    assert "Milan, Genoa, Turin" in refused.error["hint"]
    assert not (tmp_path / "root").exists()


def test_a_door_that_cannot_be_bound_is_named(planned: Consortium, cloister: Cloister, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 110)  # no Unix socket has so long a path
    serve = ["coordinator", "serve", "--charter", planned / "charter.dsse.json", "--state", long]
    refused = cloister(*serve, "--listen", "127.0.0.1:0")
    assert (refused.code, refused.error["code"]) == (6, "RUN-707")
    assert "host.door: cannot bind" in refused.error["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--database", "postgresql://u:hunter2@db/x"], "no password belongs here"),
        (["--database", "postgresql://u@db/x"], "host.blobs: needed"),
        (["--database", "sqlite:x"], "postgresql://"),
        (["--database-password", "file"], "postgresql://"),
        (["--blobs", "bucket"], "s3://bucket/prefix"),
        (["--s3-region", "eu"], "s3://bucket/prefix"),
    ],
)
def test_options_of_shared_stores_that_do_not_fit_are_told_without_the_password(
    options: list[str], said: str, papers: list[object], cloister: Cloister, tmp_path: Path
) -> None:
    refused = cloister("coordinator", "serve", *papers[:2], "--state", tmp_path / "state", *options)
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert said in refused.error["message"]
    assert "hunter2" not in refused.stdout + refused.stderr


def test_a_coordinator_whose_stores_are_away_says_which_and_does_not_start(
    papers: list[object], cloister: Cloister, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    serve = ["coordinator", "serve", *papers[:2], "--state", tmp_path / "state", "--listen", "127.0.0.1:0"]
    database = ["--database", "postgresql://u@127.0.0.1:1/x", "--blobs", f"folder:{tmp_path / 'blobs'}"]
    for stores, said in ((database, "database: no answer"), (["--blobs", f"folder:{tmp_path / 'none'}"], "mounted")):
        refused = cloister(*serve, *stores)
        assert (refused.code, refused.error["code"]) == (6, "RUN-711")
        assert said in refused.error["message"]


def test_a_place_to_remember_and_none_contradict_each_other(
    papers: list[object], cloister: Cloister, tmp_path: Path
) -> None:
    here = ["--site", tmp_path, "--data", tmp_path / "none.csv", "--coordinator", "127.0.0.1:1", "--tee", "software"]
    refused = cloister("worker", "join", *papers, *here, "--state", tmp_path / "state", "--no-state")
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert "--no-state" in refused.error["message"]
    assert not (tmp_path / "state").exists()
