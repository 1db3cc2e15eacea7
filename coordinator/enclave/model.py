"""The global model of a run, in this enclave's memory only. Trust zone: aggregator TEE."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold import Contribution, Opened, in_reads
from coordinator.enclave.ports import HostStore
from trusted.documents.plan import Plan, initial_digest
from trusted.encoding import Vector
from trusted.errors import Reason, RoundError


@dataclass(slots=True)
class GlobalModel:
    """float32[elements] in the plan's layout, and room of the same size in which the next one is made."""

    vector: Vector = field(repr=False)
    _spare: Vector | None = field(default=None, repr=False)

    @classmethod
    def from_initial(cls, plan: Plan, sent: Contribution, store: HostStore) -> GlobalModel:
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
        return cls(vector)

    def room(self) -> Vector:
        """Where the next model is written, float32[elements]; used again, as fresh pages cost more than the fold."""
        if self._spare is None:
            self._spare = np.empty_like(self.vector)
        return self._spare

    def advanced(self) -> GlobalModel:
        """What was written into :meth:`room` is the model now, and this one gives the next room."""
        return GlobalModel(self.room(), self.vector)
