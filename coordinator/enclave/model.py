"""The global model of a run, in this enclave's memory only. Trust zone: aggregator TEE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold import Vector
from trusted.blob import PIECE_BYTES
from trusted.documents.plan import Plan, initial_digest
from trusted.errors import BlobError, Reason, RoundError


@dataclass(slots=True)
class GlobalModel:
    """float32[elements] in the plan's layout."""

    vector: Vector = field(repr=False)

    @classmethod
    def from_initial(cls, plan: Plan, plaintext: Iterator[bytes]) -> GlobalModel:
        """The initial model that the plan pins by digest. The member that sent it may be lying.

        Raises:
            RoundError: another model. BlobError: not a whole one, or not finite.
        """
        vector = np.empty(plan.layout.elements, dtype="<f4")
        target, position = vector.data.cast("B"), 0
        for piece in plaintext:
            target[position : position + len(piece)] = piece
            position += len(piece)
        if initial_digest(plan.layout, target) != plan.initial_sha256:
            raise RoundError(Reason.INITIAL_MODEL, "initial: not the model whose digest the plan pins")
        return cls(vector)

    def pieces(self) -> Iterator[memoryview]:
        """The model's bytes, float32 little-endian, a piece at a time, without a copy."""
        data = self.vector.data.cast("B")
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    def with_update(self, update: Vector) -> GlobalModel:
        """A new model: this one plus ``update``; this one stays as it is.

        Raises:
            BlobError: the sum leaves the range of float32.
        """
        vector = self.vector + update
        if not np.isfinite(vector).all():
            raise BlobError(Reason.NON_FINITE, "model: the sum leaves the range of float32")
        return GlobalModel(vector)
