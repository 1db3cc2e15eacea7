"""OpenFL as deployed with its TaskRunner API: an aggregator and a collaborator for each worker, gRPC with mutual TLS.

Trust zone: the developer's machine. Certificates take it minutes, so a workspace is provisioned once for each load and
copied for each run.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from string import Template

from benchmarks.peers.carried import require_aggregates
from benchmarks.peers.environments import Requirement
from benchmarks.peers.load import Load, PeerFailed, Rounds
from benchmarks.peers.peer import APPS, Peer, Site, free_port, intervals
from benchmarks.peers.processes import Family

_LOOK_S = 0.02
_MARKS = ("Starting round", "Experiment Completed")  # logged between two rounds, and after the last


def _drive(site: Site, load: Load) -> Rounds:
    """One run.

    Raises:
        PeerFailed: it did not do its rounds.
    """
    workspace = site.folder / "workspace"
    shutil.copytree(_provisioned(site, load), workspace)
    with Family(site.folder, _surroundings(site, load)) as family:
        deadline = time.monotonic() + load.timeout_s
        fx = site.environment.command("fx")
        family.start("aggregator", [fx, "aggregator", "start"], cwd=workspace)
        for name in _names(load.workers):
            family.start(name, [fx, "collaborator", "start", "-n", name], cwd=workspace)
        marks = _marks(family, load.rounds, deadline)
        peaks = {"aggregator": family.peak_mb("aggregator start")}
    require_aggregates(site.folder, load, 1 + load.rounds)
    return Rounds(site.environment.version, intervals(marks), peaks)


def _surroundings(site: Site, load: Load) -> dict[str, str]:
    return {
        "CARRIED_ELEMENTS": str(load.elements),
        "CARRIED_FOLDER": str(site.folder),
        "HOME": str(site.folder),
        "PATH": f"{site.environment.path}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",  # its log wraps lines otherwise
    }


def _names(workers: int) -> list[str]:
    return [f"worker-{number}" for number in range(1, workers + 1)]


def _provisioned(site: Site, load: Load) -> Path:
    """A workspace with plan and certificates for ``load``, made on its first use."""
    place = site.shared / f"{load.workers}-{load.elements}-{load.rounds}"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with Family(place, _surroundings(site, load)) as family:
            _provision(family, site.environment.command("fx"), load)
        (place / "complete").touch()
    return place / "workspace"


def _provision(family: Family, fx: str, load: Load) -> None:
    workspace = family.folder / "workspace"
    create = [fx, "workspace", "create", "--prefix", "workspace", "--template", "no-op"]
    family.run("provision", create, cwd=family.folder, timeout_s=load.timeout_s)
    shutil.copy(APPS / "openfl" / "task_runner.py", workspace / "src" / "task_runner.py")
    plan = Template((APPS / "openfl" / "plan.yaml").read_text(encoding="utf-8"))
    filled = plan.substitute(rounds=1 + load.rounds, port=free_port())
    (workspace / "plan" / "plan.yaml").write_text(filled, encoding="utf-8")
    steps = [
        ["plan", "initialize", "-a", "localhost"],
        ["workspace", "certify"],
        ["aggregator", "generate-cert-request", "--fqdn", "localhost"],
        ["aggregator", "certify", "--fqdn", "localhost", "--silent"],
    ]
    for name in _names(load.workers):
        steps.append(["collaborator", "create", "-n", name, "--silent"])
        steps.append(["collaborator", "generate-cert-request", "-n", name, "--silent", "--skip-package"])
        steps.append(["collaborator", "certify", "-n", name, "--silent"])
    for step in steps:
        family.run("provision", [fx, *step], cwd=workspace, timeout_s=load.timeout_s)


def _marks(family: Family, rounds: int, deadline: float) -> list[float]:
    """When each round but the first started and the last ended: as soon as the aggregator's log says so."""
    marks: list[float] = []
    with family.log("aggregator").open(encoding="utf-8", errors="replace") as log:
        while len(marks) < rounds + 1:
            start, line = log.tell(), log.readline()
            if line.endswith("\n"):
                if any(mark in line for mark in _MARKS):
                    marks.append(time.monotonic())
                continue
            log.seek(start)  # the line is not whole yet
            if family.has_ended("aggregator"):
                raise PeerFailed("the aggregator ended early", family.last_lines())
            family.require(deadline)
            time.sleep(_LOOK_S)
    return marks


_REQUIREMENT = Requirement("openfl", ("1.9.*",), ("numpy<2.1",))  # it calls what later ones dropped
PEER = Peer("openfl", "aggregator and collaborators, mutual TLS over gRPC", _REQUIREMENT, _drive)
