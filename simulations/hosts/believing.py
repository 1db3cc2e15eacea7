"""FedAvg as it is commonly served: all state lies open with the host, and whatever comes from there is believed.

Trust zone: the developer's machine. It is what a lie is tried on first: a lie that gains nothing here needs no defence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trusted.encoding import Vector

MEMBERS = ("site-1", "site-2", "site-3", "site-4")
VICTIM = MEMBERS[-1]
ROUNDS, ELEMENTS = 2, 100
_PULL = 0.5


@dataclass(slots=True)
class Disk:
    """What the server needs to go on, and the host holds: anybody there may read, copy, restore and alter it."""

    model: Vector
    round: int = 1
    updates: list[tuple[str, Vector]] = field(default_factory=list)

    def copy(self) -> Disk:
        """As it is now."""
        return replace(self, model=self.model.copy(), updates=list(self.updates))


class Believing:
    """A server and its four sites, each of which pulls the model to a number of its own."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk(np.zeros(ELEMENTS, dtype=np.float32))

    def trained(self, member: str, model: Vector | None = None) -> Vector:
        """The update of ``member`` to the ``model`` that it was served, by default the server's."""
        given = self.disk.model if model is None else model
        return np.float32(_PULL) * (np.float32(1 + MEMBERS.index(member)) - given)

    def receive(self, member: str, update: Vector) -> None:
        """Count an update, in whatever round it comes and however often."""
        self.disk.updates.append((member, update))

    def close(self) -> None:
        """The mean of what came is the step to the next round."""
        updates = [update for _, update in self.disk.updates]
        with np.errstate(over="ignore"):
            self.disk = Disk((self.disk.model + np.mean(updates, axis=0)).astype(np.float32), self.disk.round + 1)

    def play(self, members: Sequence[str] = MEMBERS) -> None:
        """A whole round of ``members``."""
        for member in members:
            self.receive(member, self.trained(member))
        self.close()

    def finish(self, members: Sequence[str] = MEMBERS) -> Vector:
        """The rounds that are left, and the model after them."""
        while self.disk.round <= ROUNDS:
            self.play(members)
        return self.disk.model


def honest() -> Vector:
    """The model where nobody lies."""
    return Believing().finish()
