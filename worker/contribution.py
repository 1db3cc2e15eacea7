"""One round's work at a site: fetch, open, train, seal, upload. Trust zone: worker TEE.

The transport is the host's: whatever it delivers must open under the announced key and header, or the round fails here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob import PIECE_BYTES, BlobHeader, ContentKey, open_blob, seal
from trusted.errors import AppError, BlobError, Reason
from worker.participant import SendInitial, Train

Vector = npt.NDArray[np.float32]
Progress = Callable[[str, int], None]


class BlobTransport(Protocol):
    """Carries sealed blobs to and from the host, resuming where it was cut."""

    def get_blob(self, blob: bytes) -> Iterator[bytes]:
        """The stored bytes, in pieces."""

    def put_blob(self, blob: bytes, pieces: bytes | memoryview, progress: Callable[[int], None]) -> None:
        """Store all of ``pieces`` under ``blob``; repeating it is harmless."""


class Trains(Protocol):
    """Trains once on the site's data: the trainer process, or a test's own."""

    def train(self, model: Vector, round_number: int, *, timeout_s: float) -> Any:
        """A result with ``delta`` (float32[elements]), ``num_examples`` and ``metrics``."""


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """An update that is ready to be sent, or sent again: the same bytes under the same key."""

    round: int
    blob: bytes
    sealed: bytearray = field(repr=False)
    key: ContentKey = field(repr=False)
    weight: int
    metrics: Mapping[str, float]

    def message(self) -> dict[str, Any]:
        """The ``update`` document."""
        return {
            "type": "update",
            "round": self.round,
            "blob": self.blob.hex(),
            "key": self.key.secret.hex(),
            "weight": self.weight,
            "metrics": dict(self.metrics),
        }


@dataclass(slots=True)
class Contributor:
    """Does the work of a round; keeps the last sealed update, so that a broken session costs no second training."""

    transport: BlobTransport
    trainer: Trains
    signing_key: Ed25519PrivateKey
    allowed_metrics: frozenset[str]
    train_timeout_s: float
    _last: SealedUpdate | None = None
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def contribute(self, task: Train, aggregator_key: bytes, progress: Progress) -> SealedUpdate:
        """The update of ``task``, uploaded.

        Raises:
            BlobError: the model does not open. AppError: training failed. RunError: the host cannot be reached.
        """
        with self._one_at_a_time:  # a session that broke may still be at work on the very same task
            if self._last is None or (self._last.round, self._last.blob) != (task.round, task.upload):
                progress("download", 0)
                model = self._fetch(task, aggregator_key)
                progress("train", 0)
                self._last = self._train(task, model)
            update = self._last
        progress("upload", 0)
        self._put(update.blob, update.sealed, progress)
        return update

    def send_initial(self, order: SendInitial, vector: Vector) -> dict[str, Any]:
        """Seal and upload the initial model; the ``initial`` document that gives its key."""
        key = ContentKey.generate()
        self._put(order.blob, self._seal(order.header, vector, key), lambda stage, percent: None)
        return {"type": "initial", "blob": order.blob.hex(), "key": key.secret.hex()}

    def _fetch(self, task: Train, aggregator_key: bytes) -> Vector:
        model = np.empty(task.model_header.elements, dtype="<f4")
        target, position = model.data.cast("B"), 0
        stored = self.transport.get_blob(task.model_blob)
        opened = open_blob(stored, expected=task.model_header, key=task.model_key, verify_key=aggregator_key)
        for piece in opened:
            target[position : position + len(piece)] = piece
            position += len(piece)
        return model

    def _train(self, task: Train, model: Vector) -> SealedUpdate:
        result = self.trainer.train(model, task.round, timeout_s=self.train_timeout_s)
        if result.delta.shape != model.shape or not np.isfinite(result.delta).all():
            raise AppError(Reason.APP_REPLY, "update: not a finite vector of the plan's layout")
        key = ContentKey.generate()
        metrics = {name: value for name, value in result.metrics.items() if name in self.allowed_metrics}
        sealed = self._seal(task.upload_header, result.delta, key)
        return SealedUpdate(task.round, task.upload, sealed, key, result.num_examples, metrics)

    def _seal(self, header: BlobHeader, vector: Vector, key: ContentKey) -> bytearray:
        data = np.ascontiguousarray(vector, dtype="<f4").data.cast("B")
        pieces: Iterable[memoryview] = (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))
        sealed = bytearray()
        for piece in seal(header, pieces, key=key, signing_key=self.signing_key):
            sealed += piece
        if len(sealed) != header.sealed_bytes:
            raise BlobError(Reason.BLOB_LAYOUT, "update: sealed to another size than announced")
        return sealed

    def _put(self, blob: bytes, sealed: bytearray, progress: Progress) -> None:
        def sent(count: int) -> None:
            progress("upload", 100 * count // len(sealed))

        self.transport.put_blob(blob, memoryview(sealed), sent)
