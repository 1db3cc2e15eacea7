"""Where data lies in clear: a folder of its user's, in memory where there is some, and gone with the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from worker import private_folder
from worker.private_folder import PrivateFolder, is_in_memory


@pytest.fixture(autouse=True)
def _on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places below the test's own folder, whatever this machine mounts where."""
    for name in ("usual", "memory"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "usual"))
    monkeypatch.setattr(private_folder, "_SHARED_MEMORY", tmp_path / "memory")


def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *points: Path) -> None:
    table = tmp_path / "mountinfo"
    lines = ["21 1 8:1 / / rw - ext4 /dev/sda1 rw", *(f"30 21 0:9 / {point} rw - tmpfs tmpfs rw" for point in points)]
    table.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(private_folder, "_MOUNTS", table)


def test_only_its_user_may_enter_it_and_closing_removes_everything() -> None:
    with PrivateFolder.make(1) as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "a.csv").write_text("x\n")
        (folder.path / "a.csv").chmod(0o400)
    assert not folder.path.exists()
    folder.close()


def test_memory_is_preferred_to_a_disk_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path, monkeypatch, tmp_path / "memory")
    with PrivateFolder.make(1) as folder:
        assert (folder.path.parent, folder.in_memory) == (tmp_path / "memory", True)
    with PrivateFolder.make(1 << 60) as folder:
        assert (folder.path.parent, folder.in_memory) == (tmp_path / "usual", False)


def test_where_the_usual_place_is_in_memory_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path, monkeypatch, tmp_path / "memory", tmp_path / "usual")
    with PrivateFolder.make(1) as folder:
        assert (folder.path.parent, folder.in_memory) == (tmp_path / "usual", True)


def test_a_disk_mounted_below_memory_is_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - tmpfs t rw\n2 1 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(private_folder, "_MOUNTS", table)
    assert not is_in_memory(tmp_path / "usual")
    assert is_in_memory(Path("/"))
    monkeypatch.setattr(private_folder, "_MOUNTS", tmp_path / "absent")
    assert not is_in_memory(Path("/"))


def test_what_a_killed_worker_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    code = "import sys, time; from worker.private_folder import PrivateFolder as F; print(F.make(1).path, flush=True)"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "usual"), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["PYTHONPATH"] += f":{tmp_path}"
    (tmp_path / "sitecustomize.py").write_text(
        f"import pathlib, worker.private_folder as p; p._SHARED_MEMORY = pathlib.Path({str(tmp_path / 'memory')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    left = Path(done.stdout.strip())
    assert left.exists()
    with PrivateFolder.make(1) as living:
        old = time.time() - 120
        os.utime(living.path, (old, old))
        with PrivateFolder.make(1):
            assert left.exists()  # perhaps just made, and not locked yet
        os.utime(left, (old, old))
        with PrivateFolder.make(1):
            assert not left.exists()
            assert living.path.exists()
