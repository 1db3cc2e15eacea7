"""Real processes: one host, one aggregator enclave, a worker enclave for each member. Trust zone: operator.

Used in a ``with`` block: whatever happens inside, every process that was started here is ended, and no other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from console import keyfiles
from console.demo.cast import REPOSITORY, Cast, Folder, Scene
from console.demo.papers import AGGREGATOR
from console.enclaves import Papers, Stage, Surroundings, start_in_software
from console.joining import STATE, Route, SiteFiles, stage_site, worker_surroundings
from console.ordering import Desk, Host
from console.output import UserError
from softtee.enclave import Enclave
from trusted.errors import ProtocolError
from trusted.evidence.boot import Role

_HOST_START_S = 60.0
_MOST_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a run needs before anything is started."""

    folder: Folder
    cast: Cast
    scene: Scene
    papers: Papers


class Federation:
    """A running federation and its operator's desk."""

    def __init__(self, prepared: Prepared) -> None:
        self._folder, self._cast, self._scene = prepared.folder, prepared.cast, prepared.scene
        self.papers = prepared.papers
        self._stack = ExitStack()
        self.enclaves: dict[str, Enclave] = {}
        self.address = ""
        self._lost: set[str] = set()
        self._closing = False

    def __enter__(self) -> Federation:
        with self._stack as stack:
            self.address = self._start_host(stack)
            self._start_enclaves(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._stack.close()

    @property
    def host(self) -> Host:
        """The host, as members reach it."""
        return Host(self.address, self.ca)

    @property
    def ca(self) -> Path:
        """The CA of the host's certificate."""
        return self._folder.host / "tls" / "ca.pem"

    def start_run(self) -> None:
        """Order the run to start, signed by one of the members."""
        self._order("start")
        for name in self._cast.members:
            threading.Thread(target=self._stop_if_hopeless, args=(name,), daemon=True).start()

    def _order(self, action: str) -> None:
        signer = keyfiles.load_signer(self._folder.site(self._cast.orderer) / keyfiles.SIGNING_KEY, None)
        with self.host.connect() as client:
            Desk(self.papers.charter, self.papers.plan, client).order(action, signer)

    def _stop_if_hopeless(self, name: str) -> None:
        """Wait for a worker's end; when too few are left for any round, stop the run instead of waiting for ever."""
        if self.enclaves[name].wait() == 0 or self._closing:
            return
        self._lost.add(name)
        if len(self._cast.members) - len(self._lost) == self.papers.plan.document.cohort.minimum - 1:
            with suppress(ProtocolError):  # the host may be gone, too
                self._order("stop")

    def wait_for_enclaves(self, timeout_s: float) -> None:
        """Let every enclave end by itself, once the run is over."""
        for enclave in self.enclaves.values():
            try:
                enclave.wait(timeout_s)
            except subprocess.TimeoutExpired:
                enclave.terminate()

    def _start_host(self, stack: ExitStack) -> str:
        door = self._folder.host / "door" / "door.sock"
        config = {
            "state": "host",
            "listen": "127.0.0.1:0",
            "blob_listen": "127.0.0.1:0",
            "door": f"unix:{door}",
            "charter": os.path.relpath(self._folder.charter, self._folder.run),
        }
        path = self._folder.run / "host.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = stack.enter_context(self._folder.host_log.open("ab"))
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from coordinator.host.__main__ import main; "
        command = [sys.executable, "-P", "-c", code + "sys.exit(main(sys.argv[1:]))", str(REPOSITORY), str(path)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        stack.callback(_end, process)
        if process.stdout is None:
            raise RuntimeError("the host was started with a pipe")
        line = process.stdout.readline().decode()
        words = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
        if "port" not in words:
            raise UserError("the coordinator host did not start", f"See {self._folder.host_log}.")
        return f"127.0.0.1:{words['port']}"

    def _start_enclaves(self, stack: ExitStack) -> None:
        """As many at once as there are cores: each takes a second or two to be measured and confined."""
        at_once = min(_MOST_AT_ONCE, os.cpu_count() or 1)  # those that have begun hold up a Ctrl-C
        with ThreadPoolExecutor(at_once) as pool, ExitStack() as leaving:
            # After Ctrl-C what has not begun to start shall not: each start takes seconds on a busy machine.
            leaving.callback(pool.shutdown, wait=False, cancel_futures=True)
            starts = {"aggregator": pool.submit(self._start_aggregator)}
            starts |= {name: pool.submit(self._start_worker, stack, name) for name in self._cast.members}
            for name, start in starts.items():
                self.enclaves[name] = start.result()
                stack.callback(self.enclaves[name].terminate)

    def _start_aggregator(self) -> Enclave:
        door = self._folder.host / "door" / "door.sock"
        log = self._folder.logs / "aggregator.log"
        around = Surroundings(self._folder.chip(AGGREGATOR), log, writable=(door.parent,))
        return start_in_software(Role.AGGREGATOR, self.papers, {"doors": [f"unix:{door}"]}, around)

    def _start_worker(self, stack: ExitStack, name: str) -> Enclave:
        log = self._folder.logs / f"{name}.log"
        stage = stack.enter_context(Stage(self._folder.site(name)))
        initial = self._folder.initial_model if name == self._cast.recipient else None
        site = self._folder.site(name)
        files = SiteFiles(site, self._scene.data[name], self._folder.bundle, initial, log, site / STATE)
        options = stage_site(stage, self.papers, files, Route((self.address,), (self.ca,), ""))
        around = worker_surroundings(self._folder.chip(name), log, options)
        return start_in_software(Role.WORKER, self.papers, options, around)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
