"""Flower as deployed: SuperLink, a SuperNode for each worker, and an app submitted with ``flwr run``.

Trust zone: the developer's machine. State in memory and no TLS, the fastest that it offers; its polls of three seconds
cannot be set.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

from benchmarks.peers.carried import require_aggregates
from benchmarks.peers.environments import Requirement
from benchmarks.peers.load import Load, PeerFailed, Rounds
from benchmarks.peers.peer import APPS, Peer, Site, free_port, intervals
from benchmarks.peers.processes import Family

_LOOK_S = 0.1
_CONNECTED = "SuperNode ID"  # what a SuperNode logs once the SuperLink knows it
_SERVERS = {"superlink": "/flower-superlink", "serverapp": "/flwr-serverapp"}


def _drive(site: Site, load: Load) -> Rounds:
    """One run.

    Raises:
        PeerFailed: it did not do its rounds.
    """
    deadline = time.monotonic() + load.timeout_s
    shutil.copytree(APPS / "flower", site.folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    with Family(site.folder, _surroundings(site)) as family:
        port = free_port()
        _start(family, site, load.workers, port)
        _wait_for_nodes(family, load.workers, port, deadline)
        _submit(family, site, load, port)
        marks = _marks(family, site.folder, deadline)
        peaks = {role: family.peak_mb(command) for role, command in _SERVERS.items()}
    require_aggregates(site.folder, load, 1 + load.rounds)
    return Rounds(site.environment.version, intervals(marks)[1:], peaks)


def _surroundings(site: Site) -> dict[str, str]:
    return {
        "FLWR_HOME": str(site.folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{site.environment.path}:{os.environ['PATH']}",
    }


def _start(family: Family, site: Site, workers: int, port: int) -> None:
    superlink = [site.environment.command("flower-superlink"), "--insecure", "--host", "127.0.0.1"]
    family.start("superlink", [*superlink, "--port", str(port)], cwd=site.folder)
    supernode = [site.environment.command("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
    for worker in range(workers):
        options = ["--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f"partition-id={worker}"]
        family.start(f"supernode-{worker}", [*supernode, *options], cwd=site.folder)


def _wait_for_nodes(family: Family, workers: int, port: int, deadline: float) -> None:
    logs = [family.log(f"supernode-{worker}") for worker in range(workers)]
    while not (_answers(port) and all(_CONNECTED in log.read_text(errors="replace") for log in logs)):
        family.require(deadline)
        time.sleep(_LOOK_S)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _submit(family: Family, site: Site, load: Load, port: int) -> None:
    home = site.folder / "home"
    home.mkdir(exist_ok=True)
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection, encoding="utf-8")
    asked = f"elements={load.elements} rounds={1 + load.rounds} workers={load.workers} folder='{site.folder}'"
    command = [site.environment.command("flwr"), "run", str(site.folder / "app"), "here", "-c", asked]
    family.run("flwr-run", command, cwd=site.folder, timeout_s=load.timeout_s)


def _marks(family: Family, folder: Path, deadline: float) -> list[float]:
    """When each aggregated model was there, the initial one first; the server's app writes them when it is through."""
    path = folder / "marks.json"
    while not path.exists():
        if family.has_ended("superlink"):
            raise PeerFailed("the SuperLink ended", family.last_lines())
        family.require(deadline)
        time.sleep(_LOOK_S)
    marks: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return marks


PEER = Peer(
    "flower", "SuperLink and SuperNodes, no TLS, state in memory", Requirement("flwr", ("1.42.*", "1.41.*")), _drive
)
