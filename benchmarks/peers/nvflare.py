"""NVFlare as a proof-of-concept deployment: provisioned, mutual TLS over gRPC, a process for each party and its job.

Trust zone: the developer's machine. gRPC measured faster than its default, HTTP.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from string import Template

from benchmarks.peers.carried import require_aggregates
from benchmarks.peers.environments import Requirement
from benchmarks.peers.load import Load, PeerFailed, Rounds
from benchmarks.peers.peer import APPS, Peer, Site, free_port, intervals
from benchmarks.peers.processes import Family

_REQUIREMENT = Requirement("nvflare", ("2.9.0",))
_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
_MARK = re.compile(r"Round \d+ started|Finished FedAvg")
_FAST_POLL_S = 0.05


def _drive(site: Site, load: Load, task_request_interval_s: float | None) -> Rounds:
    """One run.

    Raises:
        PeerFailed: it did not do its rounds.
    """
    for name in ("client.py", "job.py"):
        shutil.copy(APPS / "nvflare" / name, site.folder)
    asked = {
        "folder": str(site.folder),
        "elements": load.elements,
        "workers": load.workers,
        "rounds": 1 + load.rounds,
        "project": _project(site.folder, load.workers),
        "task_request_interval_s": task_request_interval_s,
    }
    (site.folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    surroundings = {
        "NVFLARE_POC_WORKSPACE": str(site.folder / "poc"),
        "HOME": str(site.folder),
        "PATH": f"{site.environment.path}:{os.environ['PATH']}",
    }
    with Family(site.folder, surroundings) as family:
        command = [str(site.environment.python), "job.py", "asked.json"]
        family.run("job", command, cwd=site.folder, timeout_s=load.timeout_s)
        peaks = {"server": family.peak_mb("server_train"), "job": family.peak_mb("runner_process", "/server")}
        marks = _marks(site.folder, load.rounds)
        if marks is None:
            raise PeerFailed("the server's log does not tell of every round", family.last_lines())
    require_aggregates(site.folder, load, 1 + load.rounds)
    return Rounds(site.environment.version, intervals(marks)[1:], peaks)


def _project(folder: Path, workers: int) -> str:
    clients = "\n".join(f"- {{name: site-{number}, org: nvidia, type: client}}" for number in range(1, workers + 1))
    template = Template((APPS / "nvflare" / "project.yml").read_text(encoding="utf-8"))
    path = folder / "project.yml"
    path.write_text(template.substitute(port=free_port(), clients=clients), encoding="utf-8")
    return str(path)


def _marks(folder: Path, rounds: int) -> list[float] | None:
    """When each round started and the last ended, from the log that tells of them all."""
    for path in sorted(folder.rglob("log.txt")):
        marks = _marks_of(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if len(marks) == 1 + rounds + 1:
            return marks
    return None


def _marks_of(lines: Iterable[str]) -> list[float]:
    """A message may stand some lines below its time."""
    marks, latest = [], ""
    for line in lines:
        if found := _TIME.match(line):
            latest = found.group()
        if latest and _MARK.search(line):
            marks.append(datetime.strptime(latest, "%Y-%m-%d %H:%M:%S,%f").timestamp())
    return marks


def _polling(interval_s: float | None) -> Callable[[Site, Load], Rounds]:
    return lambda site, load: _drive(site, load, interval_s)


PEER = Peer("nvflare", "proof of concept, mutual TLS over gRPC", _REQUIREMENT, _polling(None))
FAST_POLL = Peer(
    "nvflare-fast-poll", f"the same, asking every {_FAST_POLL_S} s instead of 2 s", _REQUIREMENT, _polling(_FAST_POLL_S)
)
