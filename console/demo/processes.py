"""Eight processes: one host, one aggregator enclave, six worker enclaves. Trust zone: operator.

Used in a ``with`` block: whatever happens inside, every process that was started here is ended, and no other.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from console import keyfiles
from console.demo.papers import AGGREGATOR, DATA, RECIPIENT, REPOSITORY, SITES, Folder
from console.enclaves import Papers, Stage, Surroundings, start_in_software
from console.joining import STATE, Route, SiteFiles, stage_site, worker_surroundings
from console.ordering import Desk, Host
from console.output import UserError
from softtee.enclave import Enclave
from trusted.errors import ProtocolError
from trusted.evidence.boot import Role

_HOST_START_S = 60.0


class Federation:
    """A running federation and its operator's desk."""

    def __init__(self, folder: Folder, papers: Papers) -> None:
        self._folder = folder
        self.papers = papers
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
    def host_state(self) -> Path:
        """The host's own folder: all that it ever stored."""
        return self._folder.path / "host"

    @property
    def ca(self) -> Path:
        """The CA of the host's certificate."""
        return self.host_state / "tls" / "ca.pem"

    def start_run(self) -> None:
        """Order the run to start, signed by one of the members."""
        self._order("start")
        for name in SITES:
            threading.Thread(target=self._stop_if_hopeless, args=(name,), daemon=True).start()

    def _order(self, action: str) -> None:
        signer = keyfiles.load_signer(self._folder.site(SITES[1]) / keyfiles.SIGNING_KEY, None)
        with self.host.connect() as client:
            Desk(self.papers.charter, self.papers.plan, client).order(action, signer)

    def _stop_if_hopeless(self, name: str) -> None:
        """Wait for a worker's end; when too few are left for any round, stop the run instead of waiting for ever."""
        if self.enclaves[name].wait() == 0 or self._closing:
            return
        self._lost.add(name)
        if len(SITES) - len(self._lost) == self.papers.plan.document.cohort.minimum - 1:
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
        door = self.host_state / "door" / "door.sock"
        config = {
            "state": "host",
            "listen": "127.0.0.1:0",
            "door": f"unix:{door}",
            "charter": self._folder.charter.name,
        }
        path = self._folder.path / "host.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = stack.enter_context((self._folder.path / "host.log").open("ab"))
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
            raise UserError("the coordinator host did not start", f"See {self._folder.path / 'host.log'}.")
        return f"127.0.0.1:{words['port']}"

    def _start_enclaves(self, stack: ExitStack) -> None:
        """All at once: each takes a second to be measured and confined."""
        with ThreadPoolExecutor(max_workers=4) as pool, ExitStack() as leaving:
            # After Ctrl-C what has not begun to start shall not: each start takes seconds on a busy machine.
            leaving.callback(pool.shutdown, wait=False, cancel_futures=True)
            starts = {"aggregator": pool.submit(self._start_aggregator)}
            starts |= {name: pool.submit(self._start_worker, stack, name) for name in SITES}
            for name, start in starts.items():
                self.enclaves[name] = start.result()
                stack.callback(self.enclaves[name].terminate)

    def _start_aggregator(self) -> Enclave:
        door = self.host_state / "door" / "door.sock"
        log = self._folder.path / "logs" / "aggregator.log"
        around = Surroundings(self._folder.chip(AGGREGATOR), log, writable=(door.parent,))
        return start_in_software(Role.AGGREGATOR, self.papers, {"doors": [f"unix:{door}"]}, around)

    def _start_worker(self, stack: ExitStack, name: str) -> Enclave:
        log = self._folder.path / "logs" / f"{name}.log"
        stage = stack.enter_context(Stage(self._folder.site(name)))
        initial = self._folder.initial_model if name == RECIPIENT else None
        site = self._folder.site(name)
        files = SiteFiles(site, DATA / f"{name}.csv", self._folder.bundle, initial, log, site / STATE)
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
