"""A worker in memory: really attested, really sealed, and training by a formula. Zone: the developer's machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulations.hosts.consortium import Consortium
from trusted.channel.worker import WorkerChannel
from trusted.encoding import Vector
from trusted.errors import ProtocolError, Reason
from trusted.tables import Tables
from worker.memory import Included
from worker.participant import Closed, Evaluate, Train


class Site:
    """One start of a member's worker, and all that it was told. Not ``automatic``: it waits to be told to train."""

    def __init__(self, world: Consortium, member: str, *, has_initial: bool = False, **identity: Any) -> None:
        self.world = world
        self.member = member
        self.identity = world.identity("worker", **identity)
        self.channel = WorkerChannel(world.federation, self.identity, world.membership(member))
        self.participant = world.participant(member)
        self.has_initial = has_initial
        self.receipts: list[Reason | None] = []
        self.included: list[Included] = []
        self.closed: Closed | None = None
        self.error: ProtocolError | None = None
        self.tasks: list[Train] = []
        self.models: list[Vector] = []
        self.weight = 10 * (1 + world.members.index(member))
        self.metrics: dict[str, float] = {"auc": 0.5}
        self.automatic = True
        self.evaluations: list[Evaluate] = []
        self.tables: Tables | None = None

    def delta(self, model: Vector) -> Vector:
        """What training ``model`` changes: the further down the list of members, the more."""
        return np.full_like(model, 0.25 * (1 + self.world.members.index(self.member)))
