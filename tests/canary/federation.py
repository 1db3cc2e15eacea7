"""Five real processes and two inspecting proxies between them; the host is started as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from console.client import HostClient
from console.enclaves import Papers, Stage, Surroundings, start_in_software
from console.joining import STATE, Route, SiteFiles, stage_site, worker_surroundings
from console.ordering import Host
from coordinator.host.tls import server_identity
from softtee.enclave import Enclave
from tests.canary.agreement import AGGREGATOR, Folder
from tests.canary.relay import Relay, dial_tls, dial_unix
from tests.canary.sites import NAMES, RECIPIENT
from tests.ports import free_port
from trusted.evidence.boot import Role

REPOSITORY = Path(__file__).resolve().parents[2]
CONTROL_VARIABLE = "CANARY_CONTROL"  # what an operator might be careless enough to put there


class Federation:
    """A host, an aggregator, three workers. All gRPC and all of the door pass through relays. A ``with`` block."""

    def __init__(self, folder: Folder, papers: Papers, data: dict[str, Path], control: str) -> None:
        self.folder = folder
        self.papers = papers
        self._data = data
        self._control = control
        self._stack = ExitStack()
        self.enclaves: dict[str, Enclave] = {}
        self.host_pid = 0
        self.metrics_port = free_port()

    def __enter__(self) -> Federation:
        with self._stack as stack:
            host_port = self._start_host(stack)
            self.grpc = stack.enter_context(Relay(dial_tls(host_port, self.folder.host_state / "tls" / "ca.pem")))
            proxy = self.folder.path / "proxy"
            server_identity(proxy, ("127.0.0.1",), datetime.now(UTC))
            port = self.grpc.listen_tls(proxy / "server.pem", proxy / "server.key")
            self.address, self.ca = f"127.0.0.1:{port}", proxy / "ca.pem"
            self.door = stack.enter_context(Relay(dial_unix(self._door_of(self.folder.host_state))))
            self.door.listen_unix(self._door_of(proxy))
            self._start_enclaves(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def connect(self) -> HostClient:
        """A member's client, through the relay like everybody."""
        return Host(self.address, self.ca).connect()

    def wait_for_enclaves(self, timeout_s: float) -> dict[str, int]:
        """The exit status of each, once the run is over."""
        return {name: enclave.wait(timeout_s) for name, enclave in self.enclaves.items()}

    @property
    def host_log(self) -> Path:
        """What the host wrote to its output."""
        return self.folder.path / "host.log"

    @staticmethod
    def _door_of(folder: Path) -> Path:
        return folder / "door" / "door.sock"

    def _start_host(self, stack: ExitStack) -> int:
        config = {
            "state": self.folder.host_state.name,
            "listen": "127.0.0.1:0",
            "door": f"unix:{self._door_of(self.folder.host_state)}",
            "charter": self.folder.charter.name,
            "metrics_port": self.metrics_port,
        }
        path = self.folder.path / "host.json"
        path.write_text(json.dumps(config))
        log = stack.enter_context(self.host_log.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "coordinator.host", str(path)],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], CONTROL_VARIABLE: self._control},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        stack.callback(_end, process)
        self.host_pid = process.pid
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("ready port="), self.host_log.read_text()
        return int(line.split()[1].removeprefix("port="))

    def _start_enclaves(self, stack: ExitStack) -> None:
        with ThreadPoolExecutor(max_workers=4) as pool:
            starts = {AGGREGATOR: pool.submit(self._start_aggregator)}
            starts |= {name: pool.submit(self._start_worker, stack, name) for name in NAMES}
            for name, start in starts.items():
                self.enclaves[name] = start.result()
                stack.callback(self.enclaves[name].terminate)

    def _start_aggregator(self) -> Enclave:
        door = self._door_of(self.folder.path / "proxy")
        log = self.folder.logs / "aggregator.log"
        around = Surroundings(self.folder.chip(AGGREGATOR), log, writable=(door.parent,))
        return start_in_software(Role.AGGREGATOR, self.papers, {"doors": [f"unix:{door}"]}, around)

    def _start_worker(self, stack: ExitStack, name: str) -> Enclave:
        log = self.folder.logs / f"{name}.log"
        stage = stack.enter_context(Stage(self.folder.member(name)))
        initial = self.folder.initial_model if name == RECIPIENT else None
        member = self.folder.member(name)
        files = SiteFiles(member, self._data[name], self.folder.bundle, initial, log, member / STATE)
        options = stage_site(stage, self.papers, files, Route((self.address,), (self.ca,), ""))
        around = worker_surroundings(self.folder.chip(name), log, options)
        return start_in_software(Role.WORKER, self.papers, options, around)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
