"""What one run's blobs carry: the header of each, and which part of the model is exchanged. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trusted.blob import BlobHeader, BlobKind
from trusted.documents.layout import Layout
from trusted.documents.plan import VerifiedPlan
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding, Vector
from trusted.wire import Fields

AGGREGATOR = "aggregator"
_MESSAGES = frozenset({BlobKind.MESSAGE, BlobKind.REPLY})
_IN_PART = frozenset({BlobKind.MODEL, BlobKind.UPDATE, BlobKind.STATE, BlobKind.FINAL})


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The whole model of a plan, and the part of it that travels each round; the same unless the plan names tensors.

    ``message_bytes``: of every message to and from an app, where the plan has the app's own server; else 0.
    """

    plan: bytes
    whole: Layout
    part: Layout
    terms: Exchange
    message_bytes: int = 0

    @classmethod
    def of(cls, plan: VerifiedPlan) -> Exchanged:
        """What ``plan`` says."""
        whole, terms = plan.document.layout, plan.document.exchange
        named = frozenset(terms.tensors)
        part = Layout(tuple(tensor for tensor in whole.tensors if tensor.name in named)) if named else whole
        return cls(plan.digest, whole, part, terms, plan.document.aggregation.message_bytes)

    @property
    def is_partial(self) -> bool:
        """Whether some tensors stay as they are."""
        return self.part is not self.whole

    def header(self, kind: BlobKind, number: int, sender: str) -> BlobHeader:
        """The one header that a blob of this kind, round and sender may have."""
        if kind in _MESSAGES:  # all of one size, whatever they hold
            return BlobHeader(kind, self.plan, number, sender, self.whole.digest, self.message_bytes // 4)
        layout = self.part if kind in _IN_PART else self.whole
        encodings = {BlobKind.MODEL: self.terms.model, BlobKind.UPDATE: self.terms.update}
        encoding = encodings.get(kind, Encoding.FLOAT32)
        return BlobHeader(kind, self.plan, number, sender, layout.digest, layout.elements, encoding)

    def taken_from(self, whole: Vector) -> Vector:
        """The exchanged part of ``whole``, float32[part.elements]; a copy only where tensors are left out."""
        if not self.is_partial:
            return whole
        part = np.empty(self.part.elements, dtype=np.float32)
        for at, start, count in self._runs():
            part[at : at + count] = whole[start : start + count]
        return part

    def put_into(self, whole: Vector, part: Vector) -> None:
        """Write the exchanged ``part`` over its places in ``whole``."""
        for at, start, count in self._runs():
            whole[start : start + count] = part[at : at + count]

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """(start in the part, start in the whole, elements) of each exchanged tensor."""
        named = frozenset(tensor.name for tensor in self.part.tensors)
        at = start = 0
        for tensor in self.whole.tensors:
            if tensor.name in named:
                yield at, start, tensor.elements
                at += tensor.elements
            start += tensor.elements


@dataclass(frozen=True, slots=True)
class Announcement:
    """How an aggregator names a blob that an aggregator of the run sealed: an earlier one may have died since.

    ``signer`` is the Ed25519 key (32 bytes) whose signature the blob carries.
    """

    blob: bytes
    key: bytes = field(repr=False)
    header_sha256: bytes
    signer: bytes

    def to_json(self) -> dict[str, Any]:
        """For a task."""
        return {
            "blob": self.blob.hex(),
            "key": self.key.hex(),
            "header_sha256": self.header_sha256.hex(),
            "signer": self.signer.hex(),
        }

    @classmethod
    def read(cls, value: Any, name: str) -> Announcement:
        """What a task says.

        Raises:
            WireError: a field is missing, unknown or of another form.
        """
        with Fields(value, name) as fields:
            return cls(
                fields.octets("blob", 16),
                fields.octets("key", 32),
                fields.octets("header_sha256", 32),
                fields.octets("signer", 32),
            )
