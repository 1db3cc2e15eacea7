"""``plan.aggregation``: how updates become the next model. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.wire import Fields

MAX_WEIGHT = 1e9


class Rule(Enum):
    """How updates become the next model."""

    WEIGHTED_MEAN = "weighted-mean"


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule of the fold; no update weighs more than ``max_weight``, so that no site drowns the others."""

    rule: Rule
    max_weight: float

    @classmethod
    def read(cls, value: Any) -> Aggregation:
        """``plan.aggregation``."""
        with Fields(value, "plan.aggregation") as fields:
            kind = Rule(fields.choice("rule", [kind.value for kind in Rule]))
            return cls(kind, fields.number("max_weight", low=1, high=MAX_WEIGHT))

    def to_json(self) -> dict[str, Any]:
        """``plan.aggregation``."""
        return {"rule": self.rule.value, "max_weight": self.max_weight}
