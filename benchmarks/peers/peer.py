"""What a peer is to the benchmark. Trust zone: the developer's machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.peers.environments import Environment, Requirement
from benchmarks.peers.load import Load, Rounds

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True, slots=True)
class Site:
    """Where one run of a peer happens.

    Attributes:
        environment: the installed peer.
        folder: empty, for this run alone.
        shared: kept for all runs of this peer in one benchmark: what takes long to set up.
    """

    environment: Environment
    folder: Path
    shared: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """One system that is measured.

    Attributes:
        setting: how it is deployed, in words.
        requirement: None for Cloister itself, which is here.
        drive: one run; raises PeerFailed.
    """

    name: str
    setting: str
    requirement: Requirement | None
    drive: Callable[[Site, Load], Rounds]


def free_port() -> int:
    """A port of the loopback that nobody has now. Another process may take it before the peer does; then it fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def intervals(marks: list[float]) -> tuple[float, ...]:
    """The seconds between neighbouring ``marks``."""
    return tuple(round(later - earlier, 4) for earlier, later in pairwise(marks))
