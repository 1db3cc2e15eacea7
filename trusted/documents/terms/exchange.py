"""``plan.exchange``: what travels each round, and how it is spelled. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trusted.documents.layout import MAX_TENSORS
from trusted.documents.schema import rule
from trusted.encoding import Encoding
from trusted.wire import Fields

_UPDATE_ENCODINGS = [encoding.name.lower() for encoding in Encoding]
_MODEL_ENCODINGS = [encoding.name.lower() for encoding in (Encoding.FLOAT32, Encoding.BFLOAT16)]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What travels each round, and how it is spelled (:mod:`trusted.encoding` states the errors).

    Attributes:
        model: of the round's model, FLOAT32 or BFLOAT16. The aggregator's own model stays in float32.
        update: of the updates, which are differences from the model that the worker was given.
        tensors: the names that are trained and exchanged, in the layout's order; empty: all of them. The others stay
            as the initial model has them, and travel once.
    """

    model: Encoding = Encoding.FLOAT32
    update: Encoding = Encoding.FLOAT32
    tensors: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any) -> Exchange:
        """``plan.exchange``."""
        with Fields(value, "plan.exchange") as fields:
            model = fields.choice("model", _MODEL_ENCODINGS)
            update = fields.choice("update", _UPDATE_ENCODINGS)
            tensors = fields.items("tensors", max_items=MAX_TENSORS)
        rule(all(isinstance(name, str) for name in tensors), "plan.exchange.tensors", "names of the layout expected")
        return cls(Encoding[model.upper()], Encoding[update.upper()], tuple(tensors))

    def to_json(self) -> dict[str, Any]:
        """``plan.exchange``."""
        return {"model": self.model.name.lower(), "update": self.update.name.lower(), "tensors": list(self.tensors)}
