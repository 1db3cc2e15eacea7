"""``cloister demo`` as a person runs it: a process of its own, with real enclaves below it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.canary.processes import Running, descendants

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from console.main import main; main()", "demo", "--rounds", "2"]
SITES = [f"site-{number}" for number in range(1, 7)]
ENCLAVES = 7
SWTPM = shutil.which("swtpm")
_START_S = 150.0
_STOP_S = 15.0


class Demo:
    """A running demonstration, and every process that was ever seen below it."""

    def __init__(self, folder: Path, *options: str, path: str) -> None:
        self.folder = folder
        self.seen: set[Running] = set()
        self.process = subprocess.Popen(
            [*COMMAND, "--keep", str(folder), *options],
            cwd=REPOSITORY,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # as a shell does it: Ctrl-C goes to the whole group
        )
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.seen |= descendants(self.process.pid)
            time.sleep(0.1)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for a moment of the demonstration, which must not end before."""
        deadline = time.monotonic() + _START_S
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            assert time.monotonic() < deadline, "the demonstration does not get there"
            time.sleep(0.05)

    def left(self) -> set[Running]:
        """What still lives of all that was seen, after a second of grace for what is just ending."""
        self._watcher.join()
        deadline = time.monotonic() + 1.0
        while (alive := {process for process in self.seen if process.is_alive}) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive


@contextmanager
def demo(folder: Path, *options: str, path: str = os.environ["PATH"]) -> Iterator[Demo]:
    """A demonstration of which nothing stays, even where the test fails. ``path``: where it looks for programs."""
    running = Demo(folder, *options, path=path)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()
        for process in running.left():
            os.kill(process.pid, signal.SIGKILL)


def _enclaves_start(running: Demo) -> bool:
    return len(list(running.folder.glob("logs/*.log"))) >= 2


def _a_round_is_open(running: Demo) -> bool:
    log = running.folder / "host.log"
    return log.exists() and b'"round-opened"' in log.read_bytes()


@pytest.mark.parametrize("moment", [_enclaves_start, _a_round_is_open], ids=["while-enclaves-start", "in-a-round"])
def test_ctrl_c_ends_every_process_that_the_demo_started(moment: Callable[[Demo], bool], tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as running:
        running.wait_until(lambda: moment(running))
        started = ENCLAVES * (1 if SWTPM is None else 2)  # each enclave has a TPM's process beside it
        assert len(descendants(running.process.pid)) >= (1 + started if moment is _a_round_is_open else 2)
        stopped_at = time.monotonic()
        os.killpg(running.process.pid, signal.SIGINT)
        _, errors = running.process.communicate(timeout=4 * _STOP_S)
        assert time.monotonic() - stopped_at < _STOP_S
        assert running.process.returncode == 1
        assert b"Traceback" not in errors
        assert running.left() == set()
        assert list(running.folder.glob("site-*/stage-*")) == []  # copies of data and of the worker's key


def test_json_demo_prints_one_object_with_its_fields(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--json") as running:
        output, errors = running.process.communicate(timeout=_START_S)
        assert running.process.returncode == 0, errors.decode()
        assert running.left() == set()
    assert output.count(b"\n") == 1
    envelope = json.loads(output)
    assert envelope["schema_version"] == "1"
    assert envelope["status"] == "ok"
    assert envelope["error"] is None
    data = envelope["data"]
    assert all(0.5 < data["auc"][way] < 1 for way in ("local_mean", "federated", "pooled"))
    assert sorted(data["auc"]["by_site"]) == SITES
    assert (data["sites"], data["rounds"]) == (6, 2)
    assert (data["assurance"], data["protection"]) == ("none", "NO HARDWARE PROTECTION")
    assert 0 < data["seconds"] < _START_S
    assert data["artefacts"] == str(tmp_path / "demo")
    assert Path(data["model"]).is_file()
    assert len(bytes.fromhex(data["model_sha256"])) == 32
    assert data["evaluation"]["sites_with_scores"] == 6
    assert 0.5 < data["evaluation"]["overall"]["auc"] < 1
    for attack in data["evaluation"]["membership_inference"].values():
        assert abs(attack["auc"] - 0.5) < 0.1
    assert Path(data["card"]).read_text().startswith("<!doctype html>")
    assert data["software_tpms"] is (SWTPM is not None)
    for policy in policies(tmp_path / "demo"):
        assert ("tpm" in policy.get("devices", {})) is (SWTPM is not None)


def policies(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the charter of a demonstration asks of aggregator and worker."""
    envelope = json.loads((folder / "charter.dsse.json").read_bytes())
    charter = json.loads(base64.b64decode(envelope["payload"]))
    return charter["aggregator"], charter["worker"]


def test_without_swtpm_the_demo_says_so_and_asks_for_no_tpm(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", path="/nowhere") as running:
        running.wait_until(lambda: _a_round_is_open(running))
        os.killpg(running.process.pid, signal.SIGINT)
        output, _ = running.process.communicate(timeout=4 * _STOP_S)
    assert b"No software TPMs: swtpm is not installed here" in output
    assert all("devices" not in policy for policy in policies(tmp_path / "demo"))
    assert not list((tmp_path / "demo").glob("chips/*/tpm"))
