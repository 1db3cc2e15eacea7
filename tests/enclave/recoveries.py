"""Runs in memory whose aggregator and workers die, by being forgotten, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from coordinator.enclave.aggregator import Aggregator
from tests.world import MemoryStore, Net, SimpleSite, World
from trusted.channel.worker import WorkerChannel


class MemoryKeeper:
    """A worker's vault: what was written outlives its process."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.records.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.records[name] = content


class Crash(Exception):
    """The power goes out."""


class Mortal(Net):
    """A run whose aggregator and workers may die and come back at any moment."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        super().__init__(world, store)
        self.keepers = {member: MemoryKeeper() for member in world.members}
        self.by_member: dict[str, SimpleSite] = {}
        self.steps_left: int | None = None  # effects until the aggregator dies
        self.uploads: list[tuple[str, bytes]] = []

    def live(self, member: str) -> SimpleSite:
        """A start of this member's worker, with what an earlier one remembered."""
        site = SimpleSite(self.world, member, has_initial=True)
        site.participant = self.world.participant(member, self.keepers[member])
        self.by_member[member] = site
        return site

    def connect(self, *members: str) -> None:
        """New sessions of workers that live already."""
        for member in members or tuple(self.by_member):
            site = self.by_member[member]
            site.channel = WorkerChannel(self.world.federation, site.identity, self.world.membership(member))
            self.join(site)

    def perform_one(self, effect: Any) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                self.steps_left = None
                raise Crash
            self.steps_left -= 1
        super().perform_one(effect)

    def kill(self) -> None:
        """The aggregator dies, with its sessions; another one of the same plan is started."""
        self.due.clear()
        self.sites.clear()
        self.aggregator = Aggregator(self.world.federation, self.world.identity("aggregator"), self.store)

    def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
        """A worker that has sealed its update sends the key again, and no byte."""
        site = self.sites[connection]
        kept = getattr(site, "kept", None)
        if kept is not None and kept["blob"] == task.upload.hex():
            self.say(connection, kept)
            return kept
        self.uploads.append((site.member, task.upload))
        kept = super().contribute(connection, task, **changes)
        site.kept = kept  # type: ignore[attr-defined]
        return kept

    def join(self, site: SimpleSite) -> int:
        connection = self.next_connection = getattr(self, "next_connection", 0) + 1
        self.sites[connection] = site
        self.perform(self.aggregator.attach(connection, self.now))
        self.up(connection, site.channel.begin())
        return connection


def begun(world: World, net: Mortal | None = None, members: Iterable[str] | None = None) -> Mortal:
    net = net or Mortal(world)
    for member in members or world.members:
        net.live(member)
    net.start()
    net.connect()
    return net


def ended(net: Mortal) -> bool:
    return net.aggregator.state.value == "finished"


def steps_of(world: World, net: Mortal | None = None) -> int:
    """How many effects a whole run has."""
    net = net or Mortal(world)
    count = 0
    perform_one = net.perform_one

    def counting(effect: Any) -> None:
        nonlocal count
        count += 1
        perform_one(effect)

    net.perform_one = counting  # type: ignore[method-assign]
    begun(world, net)
    return count


def go_on(net: Mortal) -> None:
    net.kill()
    net.start()
    net.connect()


def crash_at(net: Mortal, step: int, act: Callable[[], None]) -> bool:
    """Whether the aggregator died before ``act`` was through."""
    net.steps_left = step
    try:
        act()
    except Crash:
        return True
    finally:
        net.steps_left = None
    return False


class Waiting(Mortal):
    """Sites get their tasks and wait for the test."""

    def live(self, member: str) -> SimpleSite:
        site = super().live(member)
        site.automatic = False
        return site


def in_second_round(world: World) -> Waiting:
    net = Waiting(world)
    begun(world, net)
    for connection in list(net.sites):
        net.contribute(connection, net.sites[connection].tasks[-1])
    assert net.outcomes("round-opened")[-1]["round"] == 2
    return net
