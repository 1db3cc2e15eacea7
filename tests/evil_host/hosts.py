"""A host that records all that passes and attacks where a test tells it to; its sites behave as worker shells do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tests.world import NOW, MemoryStore, Net, SimpleSite, World
from trusted.blob import open_blob
from trusted.channel.federation import Federation
from trusted.channel.refusal import refusal
from trusted.channel.states import State
from trusted.errors import ProtocolError, Reason
from trusted.release import VerifiedRelease, release_name, verify_release
from worker.participant import Train

VICTIM = 4  # the connection of the last member to join; the first one holds the initial model
Attack = Callable[[int, bytes], list[bytes]]
Serve = Callable[[SimpleSite, bytes], bytes]
Keep = Callable[[int, bytes], bytes]


AnyHost = TypeVar("AnyHost", bound="Host")


def pass_on(connection: int, frame: bytes) -> list[bytes]:
    """What an honest host does."""
    return [frame]


class Host(Net):
    """``Net`` that records the wire; a test may attack frames up, frames down, models served and updates kept."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        super().__init__(world, store)
        self.sent_up: dict[int, list[bytes]] = {}
        self.sent_down: dict[int, list[bytes]] = {}
        self.attack_up: Attack = pass_on
        self.attack_down: Attack = pass_on
        self.serve: Serve = lambda site, sealed: sealed
        self.keep: Keep = lambda connection, sealed: sealed
        self.failures: dict[int, list[Reason]] = {}

    def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
        self.sent_up.setdefault(connection, []).append(frame)
        return self.attack_up(connection, frame)

    def to_worker(self, connection: int, frame: bytes) -> list[bytes]:
        self.sent_down.setdefault(connection, []).append(frame)
        return self.attack_down(connection, frame)

    def down(self, connection: int, frame: bytes) -> None:
        """As ``worker.session_loop`` does: an error ends the session, and nothing is read after it."""
        site = self.sites[connection]
        if site.error is not None:
            return
        before = site.channel.state
        try:
            received = site.channel.receive(frame, self.now)
            opened = before is not State.OPEN and site.channel.state is State.OPEN
            for reply in received.replies:
                self.up(connection, reply)
            if opened:
                self.say(connection, site.participant.ready(has_initial=site.has_initial))
            for message in received.messages:
                self.messages.setdefault(connection, {})[message["type"]] = message
                self.act(connection, site.participant.take(message, self.now))
        except ProtocolError as error:
            site.error = error
            if error.reason is not Reason.PEER_REFUSED:
                self.up(connection, refusal(error.reason))

    def say(self, connection: int, message: dict[str, object]) -> None:
        if self.sites[connection].channel.state is State.OPEN:
            super().say(connection, message)

    def contribute(self, connection: int, task: Train, **changes: object) -> dict[str, object]:
        """As ``worker.session_loop`` does: work that fails is said, by its reason."""
        try:
            return super().contribute(connection, task, **changes)
        except ProtocolError as error:
            self.failures.setdefault(connection, []).append(error.reason)
            self.say(connection, {"type": "failed", "round": task.round, "reason": int(error.reason)})
            return {}

    def train(self, site: SimpleSite, task: Train) -> np.ndarray:
        honest = self.store.blobs[task.model_blob]
        self.store.blobs[task.model_blob] = self.serve(site, honest)
        try:
            return super().train(site, task)
        finally:
            self.store.blobs[task.model_blob] = honest

    def stored(self, connection: int, sealed: bytes) -> bytes:
        return self.keep(connection, sealed)

    def refused_by(self, connection: int) -> Reason | None:
        """Why the worker at ``connection`` ended its session, if it did."""
        error = self.sites[connection].error
        return None if error is None else error.reason

    def refusals(self, connection: int) -> set[Reason]:
        """Why either side ended the session of ``connection``."""
        found = (self.refused_by(connection), self.closed.get(connection))
        return {reason for reason in found if reason is not None}


def joined(host: AnyHost, members: tuple[str, ...] | None = None, *, automatic: bool = True) -> AnyHost:
    """``host`` after its run was started and ``members`` joined, in order; the first holds the initial model."""
    host.start()
    for index, member in enumerate(members or host.world.members):
        site = SimpleSite(host.world, member, has_initial=index == 0)
        site.automatic = automatic
        host.join(site)
    return host


def finished(host: Host) -> VerifiedRelease:
    """The release of a run that goes on while time passes; fails if it does not come to its end."""
    for _ in range(80):
        if host.aggregator.state.value == "finished":
            break
        host.pass_time(10)
    assert host.aggregator.state.value == "finished"
    return verify_release(host.store.blobs[release_name(host.world.plan.digest)], host.world.federation, NOW)


def counted(verified: VerifiedRelease) -> list[set[str]]:
    """Whose contributions each round holds."""
    return [set(members) for _, members in verified.release.contributions]


def everybody_but(host: Host, connection: int) -> set[str]:
    """The members that an attack on one connection must not touch."""
    return set(host.world.members) - {host.sites[connection].member}


def another_plan(world: World, name: str = "another plan") -> World:
    """The same members, keys and charter with a second plan."""
    other = copy.copy(world)
    other.plan = world.make_plan(name=name)
    other.federation = Federation(world.charter, other.plan)
    return other


def open_release(host: Host, verified: VerifiedRelease, recipient: str = "site-1") -> np.ndarray:
    """The released model, as ``recipient`` opens it."""
    release = verified.release
    opened = open_blob(
        [host.store.blobs[release.blob]],
        expected=release.header(host.world.federation),
        key=verified.open_key(recipient, host.world.sealing[recipient]),
        verify_key=release.verify_key,
    )
    return np.frombuffer(b"".join(opened), dtype="<f4")


def flip(data: bytes, position: int = -1) -> bytes:
    """``data`` with one bit of one byte changed."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
