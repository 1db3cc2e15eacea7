"""``plan.privacy``: what keeps one contribution from being told from the result. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.schema import read_line
from trusted.wire import Fields


class Mechanism(Enum):
    """What keeps one contribution from being told from the result."""

    NONE = "none"


@dataclass(frozen=True, slots=True)
class Privacy:
    """The privacy mechanism. ``NONE`` is written out, with the reason that the signers accept."""

    mechanism: Mechanism
    reason: str

    @classmethod
    def read(cls, value: Any) -> Privacy:
        """``plan.privacy``."""
        with Fields(value, "plan.privacy") as fields:
            mechanism = Mechanism(fields.choice("mechanism", [kind.value for kind in Mechanism]))
            return cls(mechanism, read_line(fields, "reason", max_length=500))

    def to_json(self) -> dict[str, Any]:
        """``plan.privacy``."""
        return {"mechanism": self.mechanism.value, "reason": self.reason}
