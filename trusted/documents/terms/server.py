"""``plan.aggregation.server``: what makes the next model of a round's step. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.wire import Fields

_LARGEST_RATE = 1000.0
_LEAST = 1e-12  # of a learning rate, and of what stands in a denominator
_LARGEST_BETA = 0.999999  # at 1 a moment would take in nothing, and the correction of its start would divide by 0


class Optimizer(Enum):
    """The server optimisers: FedAvgM, FedAdam, FedYogi, FedAdagrad."""

    MOMENTUM = "momentum"
    ADAM = "adam"
    YOGI = "yogi"
    ADAGRAD = "adagrad"


# What each one asks for; the fields of others are unknown to it.
_FIELDS: Mapping[Optimizer, tuple[str, ...]] = {
    Optimizer.MOMENTUM: ("learning_rate", "beta_1"),
    Optimizer.ADAM: ("learning_rate", "beta_1", "beta_2", "tau"),
    Optimizer.YOGI: ("learning_rate", "beta_1", "beta_2", "tau"),
    Optimizer.ADAGRAD: ("learning_rate", "tau"),
}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "learning_rate": (_LEAST, _LARGEST_RATE),
    "beta_1": (0.0, _LARGEST_BETA),
    "beta_2": (0.0, _LARGEST_BETA),
    "tau": (_LEAST, _LARGEST_RATE),
}


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """A server optimiser with the names of Reddi et al. 2021, as Flower has them.

    Attributes:
        learning_rate: Flower's ``eta``, or ``server_learning_rate``.
        beta_1: how much of the first moment is kept; MOMENTUM: Flower's ``server_momentum``.
        beta_2: how much of the second moment is kept.
        tau: added to the root of the second moment: the larger, the less adaptive.
    """

    optimizer: Optimizer
    learning_rate: float
    beta_1: float = 0.0
    beta_2: float = 0.0
    tau: float = 0.0

    @classmethod
    def read(cls, value: Any) -> ServerOptimizer:
        """``plan.aggregation.server``."""
        with Fields(value, "plan.aggregation.server") as fields:
            kind = Optimizer(fields.choice("optimizer", [kind.value for kind in Optimizer]))
            bounds = {name: _BOUNDS[name] for name in _FIELDS[kind]}
            return cls(kind, **{name: fields.number(name, low=low, high=high) for name, (low, high) in bounds.items()})

    def to_json(self) -> dict[str, Any]:
        """``plan.aggregation.server``."""
        own = {name: getattr(self, name) for name in _FIELDS[self.optimizer]}
        return {"optimizer": self.optimizer.value, **own}

    @property
    def moments(self) -> int:
        """How many vectors of the model's size it remembers: the first moment, the second, or both."""
        return 2 if self.optimizer in (Optimizer.ADAM, Optimizer.YOGI) else 1
