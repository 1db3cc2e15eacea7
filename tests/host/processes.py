"""Real host processes: ended, starved and started again on one folder, which may lie on a small disk of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from console.client import HostClient
from protos.generate import ROOT
from tests.host.conftest import PLAN, DoorPeer
from tests.world import World
from worker.dialer import Dialer, Patience

_TOP = frozenset({"metrics_port"})  # not among the limits


class SmallDisk:
    """A tmpfs that this test alone sees, at ``folder``, in a mount namespace that a process of its own keeps."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(parents=True)
        script = f"mount -t tmpfs -o size={size_bytes} tmpfs '{folder}' && echo mounted && exec cat"
        command = ["unshare", "--mount", "sh", "-c", script]
        self.keeper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.keeper.stdout is not None
        if self.keeper.stdout.readline() != b"mounted\n":
            self.close()
            pytest.skip("no mount namespace with a tmpfs is permitted here")
        self.inside = ["nsenter", "--mount", f"--target={self.keeper.pid}", "--"]
        self.folder = Path(f"/proc/{self.keeper.pid}/root{folder}")  # the same, seen from outside

    def fill(self) -> Path:
        """Take all the room that is left."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        return ballast

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.communicate(timeout=10)


class HostProcess:
    """``python -m coordinator.host`` on ``folder``, with its limits and other settings by keyword."""

    def __init__(self, folder: Path, world: World, disk: SmallDisk | None = None, **settings: Any) -> None:
        self.folder, self.disk = folder, disk
        self.state = (disk.folder if disk else folder) / "state"
        self._doors = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes
        self._files = folder.with_name(folder.name + "-files")
        self._files.mkdir()
        (self._files / "charter.json").write_bytes(world.charter.envelope)
        self.door_address = f"unix:{self._doors}/door.sock"
        self.config: dict[str, Any] = {
            "state": str(folder / "state"),
            "listen": "localhost:0",
            "door": self.door_address,
            "charter": "charter.json",
            "limits": {"free_disk_bytes": 1},
        }
        for name, value in settings.items():
            (self.config if name in _TOP else self.config["limits"])[name] = value
        self.clients: list[Any] = []
        self.errors = self._files / "errors"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and do not wait."""
        path = self._files / "host.json"
        path.write_text(json.dumps(self.config))
        command = [*(self.disk.inside if self.disk else ()), sys.executable, "-P", "-m", "coordinator.host", str(path)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"PYTHONPATH": str(ROOT)}
            )
        return self.process

    def start(self) -> HostProcess:
        process = self.launch()
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line, self.errors.read_text()
        self.ready = dict(item.split("=", 1) for item in line.split()[1:])
        return self

    def refusal(self) -> str:
        """The one line with which a start is refused."""
        before = len(self.errors.read_bytes()) if self.errors.exists() else 0
        assert self.launch().wait(30) == 1
        self.clean()
        (line,) = self.errors.read_bytes()[before:].decode().splitlines()
        return line

    @property
    def target(self) -> str:
        return f"localhost:{self.ready['port']}"

    @property
    def ca(self) -> bytes:
        return (self.state / "tls" / "ca.pem").read_bytes()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def door(self, plan: bytes = PLAN, **options: Any) -> DoorPeer:
        self.clients.append(DoorPeer(self.door_address, plan, **options))
        return self.clients[-1]  # type: ignore[no-any-return]

    def dialer(self, plan: bytes = PLAN) -> Dialer:
        self.clients.append(Dialer(self.target, self.ca, plan, patience=Patience(1)))
        return self.clients[-1]  # type: ignore[no-any-return]

    def client(self) -> HostClient:
        self.clients.append(HostClient(self.target, self.ca))
        return self.clients[-1]  # type: ignore[no-any-return]

    def log(self) -> list[dict[str, Any]]:
        """Every line that it wrote; gRPC's own of the process's limits are not among them."""
        return [json.loads(line) for line in self.errors.read_text().splitlines() if line.startswith("{")]

    def allow(self, what: int, amount: int) -> int:
        """Move a resource limit of the running process; its old value."""
        soft, hard = resource.prlimit(self.pid, what)
        resource.prlimit(self.pid, what, (amount, hard))
        return soft

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: int = signal.SIGTERM, *, timeout: float = 30) -> int:
        """Signal it and wait until it is gone; what it returned."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.clean()
        return code

    def clean(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        shutil.rmtree(self._doors, ignore_errors=True)


def until(holds: Callable[[], object], timeout: float = 15) -> None:
    """Wait until ``holds``."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
