"""The global model of a run, in this enclave's memory only. Trust zone: aggregator TEE."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold import Advance, Contribution, Opened, State, in_reads
from coordinator.enclave.ports import HostStore
from trusted.documents.plan import Plan, initial_digest
from trusted.documents.terms import ServerOptimizer
from trusted.encoding import Vector
from trusted.errors import Reason, RoundError


@dataclass(slots=True)
class GlobalModel:
    """float32[elements] in the plan's layout with what a server optimiser remembers, and room for the next."""

    state: State = field(repr=False)
    _spare: State | None = field(default=None, repr=False)

    @classmethod
    def first(cls, vector: Vector, moments: int) -> GlobalModel:
        """The model that a run starts from: nothing is remembered yet, so ``moments`` vectors are 0."""
        return cls(State(vector, tuple(np.zeros_like(vector) for _ in range(moments))))

    @property
    def vector(self) -> Vector:
        """The model."""
        return self.state.model

    def advance(self, server: ServerOptimizer | None, number: int) -> Advance:
        """The step to the next model; its room is used again, as fresh pages cost more than the fold."""
        if self._spare is None:
            self._spare = self.state.room()
        return Advance(server, number, self.state, self._spare)

    def advanced(self) -> GlobalModel:
        """What :meth:`advance` wrote is the model now, and this one gives the next room.

        Raises:
            RuntimeError: it wrote nothing.
        """
        if self._spare is None:
            raise RuntimeError("a round was committed that folded nothing")
        return GlobalModel(self._spare, self.state)


def read_initial(plan: Plan, sent: Contribution, store: HostStore) -> Vector:
    """The initial model that the plan pins by digest. The member that sent it may be lying.

    Raises:
        ContributionLost: not a whole one, or not finite. RoundError: another model.
    """
    vector = np.empty(plan.layout.elements, dtype="<f4")
    opened = Opened(sent, store)
    scratch = np.empty(min(sent.header.elements, sent.header.encoding.piece_elements), dtype="<f4")
    for pieces in in_reads(sent.header):
        for piece, values in opened.open_each(pieces, scratch):
            vector[piece.start : piece.start + piece.elements] = values
    if initial_digest(plan.layout, vector.data.cast("B")) != plan.initial_sha256:
        raise RoundError(Reason.INITIAL_MODEL, "initial: not the model whose digest the plan pins")
    return vector
