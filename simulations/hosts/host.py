"""A host that records all that passes and lies where it was told to. Trust zone: the developer's machine.

Its sites behave as worker shells do: what cannot be right ends their session, and work that fails is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulations.hosts import released
from simulations.hosts.consortium import Consortium
from simulations.hosts.net import Net
from simulations.hosts.site import Site
from simulations.hosts.store import MemoryStore
from trusted.channel.refusal import refusal
from trusted.channel.states import State
from trusted.encoding import Vector
from trusted.errors import ProtocolError, Reason
from trusted.release import VerifiedRelease
from worker.participant import Train

Attack = Callable[[int, bytes], list[bytes]]
"""From a connection and a frame on it to the frames that arrive in its place."""
Serve = Callable[[Site, bytes], bytes]
"""From a site and the sealed model of a round to what it is served."""
Keep = Callable[[int, bytes], bytes]
"""From a connection and a sealed update on it to what the host stores."""

_TICK_S, _TICKS = 10.0, 80


def pass_on(connection: int, frame: bytes) -> list[bytes]:
    """What an honest host does."""
    return [frame]


def flip(data: bytes, position: int = -1) -> bytes:
    """``data`` with one bit of one byte changed."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


class Host(Net):
    """``Net`` that records the wire; frames up, frames down, models served and updates kept are open to attack."""

    def __init__(self, world: Consortium, store: MemoryStore | None = None) -> None:
        super().__init__(world, store)
        self.sent_up: dict[int, list[bytes]] = {}
        self.sent_down: dict[int, list[bytes]] = {}
        self.attack_up: Attack = pass_on
        self.attack_down: Attack = pass_on
        self.serve: Serve = lambda site, sealed: sealed
        self.keep: Keep = lambda connection, sealed: sealed
        self.failures: dict[int, list[Reason]] = {}
        self.contributed: set[bytes] = set()  # uploads of tasks that were done

    def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
        """Recorded, and attacked."""
        self.sent_up.setdefault(connection, []).append(frame)
        return self.attack_up(connection, frame)

    def to_worker(self, connection: int, frame: bytes) -> list[bytes]:
        """Recorded, and attacked."""
        self.sent_down.setdefault(connection, []).append(frame)
        return self.attack_down(connection, frame)

    def stored(self, connection: int, sealed: bytes) -> bytes:
        """As :attr:`keep` says."""
        return self.keep(connection, sealed)

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

    def say(self, connection: int, message: dict[str, Any]) -> None:
        """Unless its session is over."""
        if self.sites[connection].channel.state is State.OPEN:
            super().say(connection, message)

    def contribute(self, connection: int, task: Train, **changes: Any) -> dict[str, Any]:
        """As ``worker.session_loop`` does: work that fails is said, by its reason."""
        self.contributed.add(task.upload)
        try:
            return super().contribute(connection, task, **changes)
        except ProtocolError as error:
            self.failures.setdefault(connection, []).append(error.reason)
            self.say(connection, {"type": "failed", "round": task.round, "reason": int(error.reason)})
            return {}

    def train(self, site: Site, task: Train) -> Vector:
        """On what :attr:`serve` gives in the place of the model."""
        honest = self.store.blobs[task.model_blob]
        self.store.blobs[task.model_blob] = self.serve(site, honest)
        try:
            return super().train(site, task)
        finally:
            self.store.blobs[task.model_blob] = honest

    def refused_by(self, connection: int) -> Reason | None:
        """Why the worker at ``connection`` ended its session, if it did."""
        error = self.sites[connection].error
        return None if error is None else error.reason

    def refusals(self, connection: int) -> set[Reason]:
        """Why either side ended the session of ``connection``."""
        found = (self.refused_by(connection), self.closed.get(connection))
        return {reason for reason in found if reason is not None}

    def gather(self, members: tuple[str, ...] | None = None, *, automatic: bool = True) -> None:
        """The run starts and ``members`` (all) join, in order; the first holds the initial model."""
        self.start()
        for index, member in enumerate(members or self.world.members):
            site = Site(self.world, member, has_initial=index == 0)
            site.automatic = automatic
            self.join(site)

    def succeed(self, members: tuple[str, ...] | None = None, *, store: MemoryStore | None = None) -> Host:
        """Another aggregator of the same plan, on this ``store`` or another, and the living workers of ``members``."""
        second = type(self)(self.world, store or self.store)
        second.now = self.now
        second.start()
        for site in list(self.sites.values()):
            if members is None or site.member in members:
                back = Site(self.world, site.member)
                back.participant, back.automatic = site.participant, False
                second.join(back)
        return second

    def come_back(self, connection: int) -> int:
        """The living worker whose session at ``connection`` is over connects again; its new connection."""
        old = self.sites.pop(connection)
        back = Site(self.world, old.member)
        back.participant, back.automatic = old.participant, old.automatic
        back.included, back.receipts = old.included, old.receipts
        new = 1 + max((*self.sites, *self.closed, connection))
        self.sites[new] = back
        self.perform(self.aggregator.attach(new, self.now))
        self.up(new, back.channel.begin())
        return new

    def contribute_all(self, connections: tuple[int, ...] | None = None) -> None:
        """Every site (of ``connections``) that was given a task trains the newest."""
        for connection in connections or tuple(self.sites):
            if self.sites[connection].tasks:
                self.contribute(connection, self.sites[connection].tasks[-1])

    def run_on(self, ticks: int = _TICKS) -> bool:
        """Time passes, until the run is over; whether it is."""
        for _ in range(ticks):
            if self.aggregator.state.value == "finished":
                break
            self.pass_time(_TICK_S)
        return self.aggregator.state.value == "finished"

    def release(self) -> VerifiedRelease:
        """The release of a run that is over, verified as recipients do."""
        return released.verified(self.world, self.store, self.world.now)

    def opened(self, recipient: str | None = None) -> Vector:
        """The released model, as a recipient (the plan's first) opens it."""
        return released.opened(self.world, self.store, self.world.now, recipient)

    def counted(self) -> list[frozenset[str]]:
        """Whose contributions each round of the released model holds."""
        return [frozenset(members) for _, members in self.release().release.contributions]
