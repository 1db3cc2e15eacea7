"""Folds in memory: really sealed updates, the rules of plans, and Flower's own strategies on the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from coordinator.enclave.fold import Contribution, fold
from coordinator.enclave.jobs import Inline, Jobs
from coordinator.enclave.model import GlobalModel
from tests.world import MemoryStore
from trusted.blob import BlobHeader, BlobKind, ContentKey, seal_vector
from trusted.documents.terms import Aggregation
from trusted.encoding import Encoding

SIGNER = Ed25519PrivateKey.generate()
ADAM = {"optimizer": "adam", "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
RULES: dict[str, dict[str, Any]] = {
    "weighted-mean": {},
    "median": {},
    "trimmed-mean": {"trim": 2},
    "krum": {"byzantine": 2},
    "multi-krum": {"byzantine": 2, "kept": 3},
    "geometric-median": {"iterations": 100, "smoothing": 1e-6},
}


def terms(rule: str, **more: Any) -> Aggregation:
    """``plan.aggregation`` of ``rule`` with its usual parameters."""
    return Aggregation.read({"rule": rule, "max_weight": 1000} | RULES[rule] | more)


class Sealed:
    """Updates of one round, sealed into a store of their own, by members m00, m01 and so on."""

    def __init__(
        self,
        updates: Sequence[np.ndarray],
        weights: Sequence[int] | None = None,
        *,
        encoding: Encoding = Encoding.FLOAT32,
        store: MemoryStore | None = None,
    ) -> None:
        self.store = store or MemoryStore()
        weights = weights or [1] * len(updates)
        self.contributions = [
            self._seal(f"m{place:02}", update, weight, encoding)
            for place, (update, weight) in enumerate(zip(updates, weights, strict=True))
        ]

    def _seal(self, member: str, update: np.ndarray, weight: int, encoding: Encoding) -> Contribution:
        header = BlobHeader(BlobKind.UPDATE, bytes(32), 1, member, bytes(32), len(update), encoding)
        key, name = ContentKey.generate(), member.encode().ljust(16, b".")
        parts = seal_vector(header, np.asarray(update, "<f4"), key=key, signing_key=SIGNER)
        self.store.write(name, header.sealed_bytes, [bytes(part) for part in parts])
        return Contribution(member, weight, name, header, key, SIGNER.public_key().public_bytes_raw())

    def fold_into(
        self, model: GlobalModel, rule: Aggregation, number: int = 1, jobs: Jobs | None = None
    ) -> GlobalModel:
        """The model after the round."""
        advance = model.advance(rule.server, number)
        fold(self.contributions, self.store, terms=rule, advance=advance, jobs=jobs or Inline())
        return model.advanced()


def step_of(updates: Sequence[np.ndarray], rule: Aggregation, weights: Sequence[int] | None = None) -> np.ndarray:
    """What one round adds to a model of zeros."""
    model = GlobalModel.first(np.zeros(len(updates[0]), "f4"), rule.moments)
    return Sealed(updates, weights).fold_into(model, rule).vector


class Flower:
    """The models that one of Flower's own strategies makes, round by round, of the same updates."""

    def __init__(self, strategy: FedAvg, model: np.ndarray) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # who speaks; Flower asks of any message
        strategy.fraction_train = 0.0  # no grid is there to send anything to
        self.strategy, self.model = strategy, model

    def fold(self, updates: Sequence[np.ndarray], weights: Sequence[int], number: int) -> np.ndarray:
        """The model after round ``number``."""
        self.strategy.configure_train(number, ArrayRecord({"w": Array(self.model)}), ConfigRecord(), None)
        replies = [
            Message(
                RecordDict(
                    {
                        "arrays": ArrayRecord({"w": Array(self.model + update)}),
                        "metrics": MetricRecord({"num-examples": weight}),
                    }
                ),
                1,
                "train",
            )
            for update, weight in zip(updates, weights, strict=True)
        ]
        arrays, _ = self.strategy.aggregate_train(number, replies)
        self.model = arrays["w"].numpy()
        return self.model
