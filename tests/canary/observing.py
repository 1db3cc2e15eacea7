"""Everything that a coordinator's operator could look at, taken while the run goes on and after it."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from console.joining import STATE
from tests.canary.federation import Federation
from tests.canary.loopback import LoopbackCapture
from tests.canary.processes import command_and_environment, descendants, memory_of
from tests.canary.sites import NAMES


class Place(Enum):
    """Where a secret could be found."""

    HOST_MEMORY = "the host's memory"
    HOST_DISK = "the host's disk"
    FILE_NAMES = "names of files"
    HOST_LOG = "the host's log"
    METRICS = "the host's metrics"
    PROCESSES = "arguments and environments"
    GRPC = "gRPC below TLS"
    DOOR = "the door's socket"
    LOOPBACK = "loopback"
    ENCLAVE_LOGS = "the enclaves' logs"


@dataclass(slots=True)
class Sightings:
    """What was read, by place; and what was not: memory of the host, environments of enclaves, packets."""

    by_place: dict[Place, dict[str, bytes]] = field(default_factory=lambda: {place: {} for place in Place})
    unread_memory: list[str] = field(default_factory=list)
    unread_environments: set[int] = field(default_factory=set)
    dropped_packets: int = 0

    def add(self, place: Place, moment: str, content: Mapping[str, bytes]) -> None:
        """Keep what was read at one moment."""
        self.by_place[place] |= {f"{moment}: {source}": data for source, data in content.items()}

    def size_bytes(self, place: Place) -> int:
        """How much was read there, at all moments together."""
        return sum(map(len, self.by_place[place].values()))

    def look_at_host(self, federation: Federation, moment: str) -> None:
        """Memory, disk, log, metrics, and every process's arguments and environment, at one moment."""
        memory = memory_of(federation.host_pid)
        self.add(Place.HOST_MEMORY, moment, memory.regions)
        self.unread_memory += memory.unreadable
        self.add(Place.HOST_DISK, moment, files_below(federation.folder.host_state))
        self.add(Place.FILE_NAMES, moment, names_below(federation.folder.host_state))
        for name in NAMES:  # what workers keep is sealed from their own hosts, too
            kept = federation.folder.member(name) / STATE
            self.add(Place.HOST_DISK, f"{moment}, {name}", files_below(kept))
            self.add(Place.FILE_NAMES, f"{moment}, {name}", names_below(kept))
        self.add(Place.HOST_LOG, moment, {"host.log": federation.host_log.read_bytes()})
        self.add(Place.METRICS, moment, {"/metrics": scrape(federation.metrics_port)})
        for process in descendants(os.getpid()):
            read = command_and_environment(process.pid)
            self.add(Place.PROCESSES, moment, read)
            if len(read) < 2 and process.is_alive:
                self.unread_environments.add(process.pid)

    def look_at_wires(self, federation: Federation, capture: LoopbackCapture | None, moment: str) -> None:
        """All that has passed so far."""
        self.add(Place.GRPC, moment, federation.grpc.recorded())
        self.add(Place.DOOR, moment, federation.door.recorded())
        if capture is not None:
            self.add(Place.LOOPBACK, moment, capture.captured())
            self.dropped_packets = capture.dropped

    def look_at_enclave_logs(self, logs: Path) -> None:
        """What enclaves tell their own operators, and what the apps printed, which is sealed for the members."""
        self.add(Place.ENCLAVE_LOGS, "after", {path.name: path.read_bytes() for path in logs.glob("*.log")})
        self.add(Place.ENCLAVE_LOGS, "after", {str(path): path.read_bytes() for path in logs.glob("*-app/app.log")})


def files_below(folder: Path) -> dict[str, bytes]:
    """Every regular file; one that goes away meanwhile (the host deletes blobs) is left out."""
    content = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                content[str(path.relative_to(folder))] = path.read_bytes()
    return content


def names_below(folder: Path) -> dict[str, bytes]:
    """The names of everything."""
    return {"names": b"\n".join(os.fsencode(path) for path in sorted(folder.rglob("*")))}


def scrape(port: int, query: str = "") -> bytes:
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics{query}", timeout=10) as answer:
        data: bytes = answer.read()
        return data
