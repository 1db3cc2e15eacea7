"""Sites that do a round's work by the worker's own code: fetch, open, train, clip, seal, upload.

Trust zone: the developer's machine. What trains is given: a Flower app's trainer, or whatever has a ``train``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from simulations.hosts.net import Net
from simulations.hosts.site import Site
from simulations.hosts.store import MemoryStore
from trusted.blob import BlobHeader
from trusted.errors import ProtocolError
from trusted.exchange import Exchanged
from worker.contribution import Contributor, SealedStream, Trains
from worker.participant import SendInitial, Train

_TIMEOUT_S = 3600.0


class StoreTransport:
    """A host's store, as a worker's transport."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        """All of it at once."""
        yield memoryview(self.store.blobs[blob])

    def put_blob(self, blob: bytes, sealed: SealedStream, progress: Callable[[int], None]) -> None:
        """All of it at once."""
        self.store.blobs[blob] = bytes(sealed)


class WorkingSite(Site):
    """A member's worker that trains by ``trains``."""

    def __init__(self, net: Net, member: str, trains: Trains, **more: Any) -> None:
        super().__init__(net.world, member, **more)
        plan = net.world.plan.document
        self.contributor = Contributor(
            Exchanged.of(net.world.plan),
            StoreTransport(net.store),
            trains,
            self.identity.signing_key,
            frozenset(rule.name for rule in plan.metrics),
            _TIMEOUT_S,
            plan.privacy,
        )


class WorkingNet(Net):
    """An honest host between such sites; those that are ``automatic`` train as soon as they are told to."""

    def act(self, connection: int, action: Any) -> None:
        """As ``worker.session_loop`` does, with what concerns models."""
        site = self.working(connection)
        if isinstance(action, SendInitial):
            self.say(connection, site.contributor.send_initial(action, self.world.initial))
        elif isinstance(action, Train):
            site.tasks.append(action)
            if site.automatic:
                self.work(connection, action)
        else:
            super().act(connection, action)

    def work(self, connection: int, task: Train) -> None:
        """The site does ``task``; work that fails is said, by its reason."""
        try:
            message = self.working(connection).contributor.contribute(task, lambda stage, percent: None).message()
        except ProtocolError as error:
            message = {"type": "failed", "round": task.round, "reason": int(error.reason)}
        self.say(connection, message)

    def working(self, connection: int) -> WorkingSite:
        """The site at ``connection``.

        Raises:
            TypeError: one that does not work by the worker's own code.
        """
        site = self.sites[connection]
        if not isinstance(site, WorkingSite):
            raise TypeError("a net of working sites joins no other")
        return site
