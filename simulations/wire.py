"""What the wire does to models and updates, without the sealing. Trust zone: the developer's machine.

A model and an update arrive as the plan's encodings and its exchanged tensors leave them, clipped by an honest worker
where the plan clips. Sealing changes no number and is left out; how many bytes it makes is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.jobs import Jobs
from trusted.blob import BlobHeader, BlobKind
from trusted.documents.layout import Layout
from trusted.documents.terms import Privacy
from trusted.encoding import Encoding, Vector
from trusted.exchange import AGGREGATOR, Exchanged
from worker.contribution import clipped

_BLOCK = 1 << 15  # elements: whole blocks of every encoding, and what is made of them stays in the cache


@dataclass(slots=True)
class Wire:
    """The road between aggregator and sites, with room that is used again."""

    exchanged: Exchanged
    privacy: Privacy
    whole: Vector = field(repr=False)
    _seen: Vector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.whole = self.whole.copy()
        self._seen = np.empty(self.part.elements, np.float32)

    @property
    def part(self) -> Layout:
        """The tensors that travel each round."""
        return self.exchanged.part

    def down(self, model: Vector) -> Vector:
        """The whole model as a site has it when the aggregator's is ``model``, float32[part.elements]."""
        encoding = self.exchanged.terms.model
        if encoding is not Encoding.FLOAT32:
            self._seen[:] = model
            _respell(self._seen, encoding)
            model = self._seen
        if not self.exchanged.is_partial:
            return model
        self.exchanged.put_into(self.whole, model)
        return self.whole

    def whole_with(self, part: Vector) -> Vector:
        """The whole model where the exchanged part is ``part``."""
        if not self.exchanged.is_partial:
            return part
        whole = self.whole.copy()
        self.exchanged.put_into(whole, part)
        return whole

    def taken(self, update: Vector) -> Vector:
        """What of an ``update``, float32[elements], travels, and may be written to."""
        return self.exchanged.taken_from(update)

    def up(self, updates: Sequence[Vector], jobs: Jobs, *, forged: Collection[int]) -> None:
        """Make of ``updates``, float32[part.elements] each, what arrives of them; false sites clip nothing.

        ``forged`` are the places of theirs.
        """
        if self.privacy.member_clipping is None and self.exchanged.terms.update is Encoding.FLOAT32:
            return

        def carry(lane: int, lanes: int) -> None:
            for place in range(lane, len(updates), lanes):
                update = updates[place]
                shorter = update if place in forged else clipped(update, self.privacy)
                if shorter is not update:
                    update[:] = shorter
                _respell(update, self.exchanged.terms.update)

        jobs.each_lane(carry)

    def header(self, number: int, member: str) -> BlobHeader:
        """Of the update of ``member``."""
        return self.exchanged.header(BlobKind.UPDATE, number, member)

    def down_bytes(self, number: int) -> int:
        """Of a round's model, sealed."""
        return self.exchanged.header(BlobKind.MODEL, number, AGGREGATOR).sealed_bytes


def _respell(vector: Vector, encoding: Encoding) -> None:
    """Write ``vector`` in ``encoding``, and read it again."""
    if encoding is Encoding.FLOAT32:
        return
    room = np.empty(encoding.size_bytes(_BLOCK), np.uint8)
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        spelled = room[: encoding.size_bytes(len(block))]
        encoding.encode_into(block, spelled)
        encoding.decode_into(spelled, block)
