"""Cloister as deployed, through its own benchmark in a process of its own. Trust zone: the developer's machine.

Everything is attested and sealed: what the peers do not do. ``python -m benchmarks rounds`` says what it starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.load import Load, PeerFailed, Rounds, last_lines
from benchmarks.peers.peer import Peer, Site
from benchmarks.peers.processes import Family

_REPOSITORY = Path(__file__).parents[2]
_ENVELOPE = '{"schema_version"'
_NAME = "rounds"


def cloister(command: Sequence[str]) -> Callable[[Site, Load], Rounds]:
    """A driver for ``command``, which takes the options of ``python -m benchmarks rounds`` and prints what it does."""

    def drive(site: Site, load: Load) -> Rounds:
        rounds = str(1 + load.rounds)  # the first one is not warm
        asked = ["--workers", str(load.workers), "--mb", f"{load.megabytes:g}", "--rounds", rounds, "--json"]
        with Family(site.folder) as family:
            family.run(_NAME, [*command, *asked], cwd=_REPOSITORY, timeout_s=load.timeout_s)
            return _rounds(family.log(_NAME))

    return drive


def _rounds(log: Path) -> Rounds:
    """What the envelope among the lines of ``log`` says.

    Raises:
        PeerFailed: there is none, or it lacks a figure.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        data: dict[str, Any] = json.loads(next(line for line in lines if line.startswith(_ENVELOPE)))["data"]
        peaks = {"aggregator": float(data["aggregator_peak_mb"]), "host": float(data["host_peak_mb"])}
        details = {name: data[name] for name in ("sealing_share", "grpc_limit_s")}
        return Rounds(version("cloister"), tuple(map(float, data["rounds_s"])), peaks, details)
    except (StopIteration, ValueError, KeyError, TypeError) as error:
        raise PeerFailed(f"its JSON is not as expected: {error!r}", last_lines(log)) from None


PEER = Peer("cloister", "software TEEs, all sealed", None, cloister([sys.executable, "-m", "benchmarks", "rounds"]))
