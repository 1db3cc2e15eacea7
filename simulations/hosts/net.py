"""The host between sites and an aggregator, all of them in this process. Trust zone: the developer's machine.

The peers are those of production, joined frame by frame; only what carries their frames and blobs is made up.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

import numpy as np

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.effects import Close, Effect, Emit, Send
from simulations.hosts.consortium import Consortium
from simulations.hosts.site import Site
from simulations.hosts.store import MemoryStore
from trusted.blob import ContentKey, open_blob, seal
from trusted.channel.refusal import refusal
from trusted.encoding import Vector
from trusted.errors import ProtocolError, Reason
from trusted.wire import sha256
from worker.memory import Included
from worker.participant import Answer, Closed, Evaluate, Receipt, SendInitial, Train


class Net:
    """An honest host, until a subclass changes what passes through it."""

    def __init__(self, world: Consortium, store: MemoryStore | None = None) -> None:
        self.world = world
        self.store = store or MemoryStore()
        self.aggregator = self.make_aggregator()
        self.sites: dict[int, Site] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.closed: dict[int, Reason] = {}
        self.now = world.now
        self.due: deque[Effect] = deque()
        self.is_performing = False
        self.messages: dict[int, dict[str, Any]] = {}  # the last of each type that a site was sent

    def make_aggregator(self) -> Aggregator:
        """The one that serves this run, or a successor over the same store."""
        return Aggregator(self.world.federation, self.world.identity("aggregator"), self.store)

    def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
        """What arrives of ``frame``, which a worker sent."""
        return [frame]

    def to_worker(self, connection: int, frame: bytes) -> list[bytes]:
        """What arrives of ``frame``, which the aggregator sent."""
        return [frame]

    def stored(self, connection: int, sealed: bytes) -> bytes:
        """What is kept of an update that a worker uploads."""
        return sealed

    def join(self, site: Site) -> int:
        """``site`` connects; its connection."""
        connection = len(self.sites) + 1
        self.sites[connection] = site
        self.perform(self.aggregator.attach(connection, self.now))
        self.up(connection, site.channel.begin())
        return connection

    def up(self, connection: int, frame: bytes) -> None:
        """A worker's frame, or what the host makes of it, to the aggregator."""
        for passed in self.to_aggregator(connection, frame):
            self.perform(self.aggregator.receive(connection, passed, self.now))

    def perform(self, effects: tuple[Effect, ...]) -> None:
        """Do what the aggregator asks, in its order, also where that makes it ask for more."""
        self.due.extend(effects)
        if self.is_performing:
            return
        self.is_performing = True
        try:
            while self.due:
                self.perform_one(self.due.popleft())
        finally:
            self.is_performing = False

    def perform_one(self, effect: Effect) -> None:
        """One of them."""
        if isinstance(effect, Emit):
            self.events.append((effect.event, dict(effect.fields)))
        elif isinstance(effect, Close):
            self.closed[effect.connection] = effect.reason
        elif isinstance(effect, Send) and effect.connection in self.sites:
            for frame in self.to_worker(effect.connection, effect.frame):
                self.down(effect.connection, frame)

    def down(self, connection: int, frame: bytes) -> None:
        """A frame to a worker, and what that makes it do."""
        site = self.sites[connection]
        opened_before = site.channel.state
        try:
            received = site.channel.receive(frame, self.now)
        except ProtocolError as error:
            site.error = error
            if error.reason is not Reason.PEER_REFUSED:
                self.up(connection, refusal(error.reason))
            return
        opened_now = site.channel.state is not opened_before and site.channel.state.value == "open"
        for reply in received.replies:
            self.up(connection, reply)
        if opened_now:
            self.say(connection, site.participant.ready(has_initial=site.has_initial))
        for message in received.messages:
            self.messages.setdefault(connection, {})[message["type"]] = message
            self.act(connection, site.participant.take(message, self.now))

    def say(self, connection: int, message: dict[str, Any]) -> None:
        """A worker says ``message`` in its session."""
        self.up(connection, self.sites[connection].channel.session.send(message))

    def act(self, connection: int, action: Any) -> None:
        """A worker does what its participant made of a message."""
        site = self.sites[connection]
        if isinstance(action, Answer):
            self.say(connection, action.message)
        elif isinstance(action, Included):
            site.included.append(action)
        elif isinstance(action, Receipt):
            site.receipts.append(action.reason)
        elif isinstance(action, Closed):
            site.closed = action
        elif isinstance(action, SendInitial):
            self.bring(connection, action)
        elif isinstance(action, Evaluate):
            site.evaluations.append(action)
            if site.automatic:
                self.evaluate(connection, action)
        elif isinstance(action, Train):
            site.tasks.append(action)
            if site.automatic:
                self.contribute(connection, action)

    def bring(self, connection: int, action: SendInitial) -> None:
        """A worker seals and uploads the initial model."""
        key, signing_key = ContentKey.generate(), self.sites[connection].identity.signing_key
        pieces = seal(action.header, [self.world.initial.tobytes()], key=key, signing_key=signing_key)
        self.store.blobs[action.blob] = b"".join(pieces)
        self.say(connection, {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()})

    def train(self, site: Site, task: Train) -> Vector:
        """A worker opens the round's model and trains it.

        Raises:
            BlobError: what the host served is not that model.
        """
        opened = open_blob(
            [self.store.blobs[task.model_blob]],
            expected=task.model_header,
            key=task.model_key,
            verify_key=task.model.signer,
        )
        model = np.frombuffer(b"".join(opened), dtype="<f4")
        site.models.append(model)
        return site.delta(model)

    def contribute(self, connection: int, task: Train, **changes: Any) -> dict[str, Any]:
        """A worker trains, seals, uploads and says so; ``changes`` are to its message, or ``delta``, ``header``,
        ``signing_key`` of what is sealed."""
        site = self.sites[connection]
        delta = changes.pop("delta", None)
        delta = self.train(site, task) if delta is None else delta
        key = ContentKey.generate()
        header = changes.pop("header", task.upload_header)
        signing_key = changes.pop("signing_key", site.identity.signing_key)
        pieces = seal(header, [np.asarray(delta, dtype="<f4").tobytes()], key=key, signing_key=signing_key)
        sealed = b"".join(pieces)
        self.store.blobs[task.upload] = self.stored(connection, sealed)
        message = {
            "type": "update",
            "round": task.round,
            "blob": task.upload.hex(),
            "key": key.secret.hex(),
            "prefix_sha256": sha256(sealed[: header.prefix_bytes]).hex(),
            "weight": site.weight,
            "metrics": site.metrics,
        } | changes
        self.say(connection, message)
        return message

    def evaluate(self, connection: int, task: Evaluate, **changes: Any) -> None:
        """The final model opens for its sites, which answer with the tables that they were given."""
        site, model = self.sites[connection], task.model
        stored = [self.store.blobs[model.blob]]
        opened = open_blob(stored, expected=model.header, key=model.key, verify_key=model.signer)
        site.models.append(np.frombuffer(b"".join(opened), dtype="<f4"))
        tables = None if site.tables is None else site.tables.encode().hex()
        reasons = {} if site.tables is not None else {"scores": int(Reason.APP_ROWS)}
        message = {"type": "evaluated", "round": task.round, "rows": site.weight, "metrics": site.metrics}
        self.say(connection, message | {"tables": tables, "reasons": reasons} | changes)

    def start(self) -> None:
        """The host passes on an order to start."""
        self.perform(self.aggregator.start(self.now))

    def pass_time(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += timedelta(seconds=seconds)
        self.perform(self.aggregator.tick(self.now))

    def outcomes(self, event: str) -> list[dict[str, Any]]:
        """The fields of every public event of this name."""
        return [fields for name, fields in self.events if name == event]
