"""A small federation as its people would set it up: every file by a command, every party a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from tests.console.conftest import APP, Answer

ROOT = Path(__file__).parents[2]
SITES = ("site-1", "site-2", "site-3")
RECIPIENT, OTHER = "site-1", "site-2"
_MAIN = [sys.executable, "-c", "from console.main import main; main()"]
_POLL_S = 0.1
_GRACE_S = 15


def cloister(*arguments: object) -> Answer:
    """One command, run to its end in this process, with ``--json``."""
    result = CliRunner().invoke(APP, [*map(str, arguments), "--json"])
    return Answer(result.exit_code, result.stdout, result.stderr)


def made(*arguments: object) -> Answer:
    """One command that must succeed."""
    answer = cloister(*arguments)
    assert answer.code == 0, answer.stderr + answer.stdout
    return answer


def until(what: str, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until ``holds``; fail with ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(_POLL_S)


@dataclass
class Running:
    """One command as a process; what it prints goes to a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        """Everything that it printed so far, stdout and stderr."""
        return self.output.read_text()

    def until_said(self, pattern: str, timeout_s: float = 60.0) -> str:
        """Wait until it prints ``pattern``; its first group."""
        found: list[str] = []

        def holds() -> bool:
            match = re.search(pattern, self.said)
            found.extend(match.groups() if match else ())
            assert match or self.process.poll() is None, f"ended without {pattern!r}: {self.said}"
            return match is not None

        until(f"{pattern!r} in {self.output.name}", holds, timeout_s)
        return found[0] if found else ""

    def ended(self, timeout_s: float = 60.0) -> int:
        """Its exit code, once it ended by itself."""
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """End it, and it alone, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class Consortium:
    """Three sites with keys, chips, credentials and site policies; two signed plans; and the processes that run."""

    folder: Path
    running: list[Running] = field(default_factory=list)
    coordinator: str = ""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def charter(self) -> list[object]:
        """``--charter``."""
        return ["--charter", self / "charter.dsse.json"]

    def papers(self, plan: str) -> list[object]:
        """``--charter`` and ``--plan``."""
        return [*self.charter, "--plan", self / f"{plan}.dsse.json"]

    @property
    def host(self) -> list[object]:
        """``--coordinator`` and ``--ca``."""
        return ["--coordinator", self.coordinator, "--ca", self / "host" / "tls" / "ca.pem"]

    def start(self, name: str, *arguments: object) -> Running:
        """Start a command as a process of its own; ``name`` is its output file."""
        output = self / f"{name}.out"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*_MAIN, *map(str, arguments)], cwd=self.folder, env=environment, stdout=file, stderr=file
            )
        self.running.append(Running(process, output))
        return self.running[-1]

    def end(self) -> None:
        """End every process that was started here, newest first, each by its own id."""
        for process in reversed(self.running):
            process.end()

    def open_host(self) -> None:
        """Start the coordinator's host, and wait until it serves."""
        listen = ["--state", self / "host", "--listen", "127.0.0.1:0", "--blob-listen", "127.0.0.1:0"]
        host = self.start("host", "coordinator", "serve", *self.charter, *listen)
        self.coordinator = f"127.0.0.1:{host.until_said(r'Serving on 127[.]0[.]0[.]1:([0-9]+)')}"

    def serve(self, plan: str) -> Running:
        """Start the aggregator of ``plan``."""
        door = f"unix:{self / 'host' / 'door' / 'door.sock'}"
        tee = ["--tee", "software", "--chip", self / "chip-0"]
        log = ["--log", self / f"aggregator-{plan}.log"]
        return self.start(f"aggregator-{plan}", "aggregator", "serve", *self.papers(plan), "--door", door, *tee, *log)

    def join(
        self, site: str, plan: str, *, chip: str = "", name: str = "", data: list[object] | None = None
    ) -> Running:
        """Start the worker of ``site``; ``data`` in place of its CSV file."""
        name = name or f"{site}-{plan}"
        data = [*(data or ["--data", ROOT / "data" / "rand_hie" / f"{site}.csv"]), "--site", self / site]
        tee = ["--tee", "software", "--chip", self / (chip or site.replace("site", "chip"))]
        model = ["--initial-model", self / "initial.safetensors"] if site == RECIPIENT else []
        log = ["--log", self / site / f"{name}.log"]
        return self.start(name, "worker", "join", *self.papers(plan), *data, *self.host, *tee, *model, *log)

    def order(self, action: str, plan: str, site: str) -> Answer:
        """``run start`` or ``run stop``, signed by ``site``."""
        key = ["--key", self / site / "signing-key.pem"]
        return cloister("run", action, *self.papers(plan), *self.host, *key)

    def status(self, plan: str) -> dict[str, object]:
        """``run status``; empty while the host knows no such run."""
        answer = cloister("run", "status", *self.papers(plan), *self.host)
        return dict(answer.data["run"]) if answer.code == 0 else {}

    def attested(self, plan: str) -> set[str]:
        """The members that the host says are attested now."""
        members = self.status(plan).get("members", [])
        assert isinstance(members, list)
        return {item["member"] for item in members if item["attested"]}

    def events(self, plan: str) -> list[dict[str, object]]:
        """The public events that the host logged for ``plan``."""
        lines = (self / "host" / "host.log").read_text().splitlines()
        digest = made("plan", "show", self / f"{plan}.dsse.json", *self.charter).data["digest"]
        return [entry for entry in map(json.loads, lines) if entry.get("plan") == digest]


def establish(folder: Path, plans: dict[str, list[object]]) -> Consortium:
    """Everything up to where a federation can start, by commands alone. ``plans``: extra options of each plan."""
    consortium = Consortium(folder)
    _chips(consortium)
    members = [option for site in SITES for option in ("--member", consortium / site / "member.json")]
    for site in SITES:
        made("member", "keygen", site, "--out", consortium / site)
    measured = {role: made("measure", role).data["measurement"] for role in ("aggregator", "worker")}
    proofs = [option for role, value in measured.items() for option in (f"--{role}-measurement", value)]
    root = ["--profile", "development", "--software-root", consortium / "tee-root"]
    charter = consortium / "charter.dsse.json"
    made("charter", "new", "--name", "trial", *members, *root, *proofs, "--out", charter)
    for site in SITES:
        made("charter", "sign", charter, "--key", consortium / site / "signing-key.pem", "--yes")
    _initial_model(consortium / "initial.safetensors")
    for name, options in plans.items():
        _plan(consortium, name, options)
    for site in SITES:
        key = consortium / site / "signing-key.pem"
        made("member", "credential", *consortium.charter, "--key", key, "--out", consortium / site)
    return consortium


def _chips(consortium: Consortium) -> None:
    for root in ("tee-root", "other-root"):
        made("tee", "root", "--out", consortium / root)
    for number in range(1 + len(SITES)):
        made("tee", "chip", "--root", consortium / "tee-root", "--out", consortium / f"chip-{number}")
    made("tee", "chip", "--root", consortium / "other-root", "--out", consortium / "other-chip")


def _initial_model(out: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples' / 'rand_hie'}"}
    command = [sys.executable, "-m", "rand_hie.initial", "--seed", "7", "--out", str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def _plan(consortium: Consortium, name: str, options: list[object]) -> None:
    header = (ROOT / "data" / "rand_hie" / "site-1.csv").read_text().splitlines()[0]
    columns = [option for column in header.split(",") for option in ("--column", column)]
    app = ["--app", ROOT / "examples" / "rand_hie", "--initial-model", consortium / "initial.safetensors"]
    words = ["--name", name, "--purpose", "Predict visits", "--no-privacy-because", "public data"]
    leave = ["--recipient", RECIPIENT, "--metric", "auc:2:3"]
    plan = consortium / f"{name}.dsse.json"
    made("plan", "new", *consortium.charter, *app, *words, *columns, *leave, *options, "--out", plan)
    for site in SITES:
        made("plan", "sign", plan, *consortium.charter, "--key", consortium / site / "signing-key.pem", "--yes")


def allow(consortium: Consortium, site: str, *plans: str) -> None:
    """The signed site policy of ``site``, which lists ``plans``."""
    policy = consortium / site / "site-policy.dsse.json"
    listed = [option for plan in plans for option in ("--plan", consortium / f"{plan}.dsse.json")]
    made("site-policy", "new", *consortium.charter, "--member", site, *listed, "--out", policy)
    key = consortium / site / "signing-key.pem"
    made("site-policy", "sign", policy, *consortium.charter, "--key", key, "--yes")
