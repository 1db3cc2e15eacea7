"""One round's work at a site: fetch, open, train, seal, upload. Trust zone: worker TEE.

The transport is the host's: whatever it delivers must open under the announced key and header, or the round fails here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob import BlobHeader, BlobSealer, ContentKey, open_vector
from trusted.errors import AppError, BlobError, Reason
from trusted.exchange import Exchanged
from trusted.wire import sha256
from worker.participant import AnnouncedBlob, SendInitial, Train

Vector = npt.NDArray[np.float32]
Progress = Callable[[str, int], None]


class BlobTransport(Protocol):
    """Carries sealed blobs to and from the host, resuming where it was cut."""

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        """The stored bytes, cut where the pieces of ``header`` begin."""

    def put_blob(self, blob: bytes, sealed: memoryview, progress: Callable[[int], None]) -> None:
        """Store all of ``sealed`` under ``blob``; repeating it is harmless."""


class Trains(Protocol):
    """Trains once on the site's data: the trainer process, or a test's own."""

    def train(self, model: Vector, round_number: int, *, timeout_s: float) -> Any:
        """A result with ``delta`` (float32[elements]), ``num_examples`` and ``metrics``."""


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """An update that is ready to be sent, or sent again: the same bytes under the same key."""

    round: int
    blob: bytes
    sealed: memoryview = field(repr=False)
    key: ContentKey = field(repr=False)
    prefix_sha256: bytes
    weight: int
    metrics: Mapping[str, float]
    seconds: dict[str, float]

    def message(self) -> dict[str, Any]:
        """The ``update`` document."""
        return {
            "type": "update",
            "round": self.round,
            "blob": self.blob.hex(),
            "key": self.key.secret.hex(),
            "prefix_sha256": self.prefix_sha256.hex(),
            "weight": self.weight,
            "metrics": dict(self.metrics),
            "seconds": dict(self.seconds),
        }


@dataclass(slots=True)
class Contributor:
    """Does the work of a round; keeps the last sealed update, so that a broken session costs no second training.

    Memory is the model and one sealed update, used again each round: fresh pages cost more than what is done to them.
    """

    exchanged: Exchanged
    transport: BlobTransport
    trainer: Trains
    signing_key: Ed25519PrivateKey
    allowed_metrics: frozenset[str]
    train_timeout_s: float
    _last: SealedUpdate | None = None
    _initial: tuple[bytes, ContentKey, memoryview] | None = field(default=None, repr=False)
    _model: Vector | None = field(default=None, repr=False)
    _base: tuple[bytes, Vector] | None = field(default=None, repr=False)
    _room: bytearray = field(default_factory=bytearray, repr=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def contribute(self, task: Train, progress: Progress) -> SealedUpdate:
        """The update of ``task``, uploaded.

        Raises:
            BlobError: the model does not open. AppError: training failed. RunError: the host cannot be reached.
        """
        self._initial = None  # a round opens: nobody asks for it any more
        with self._one_at_a_time:  # a session that broke may still be at work on the very same task
            if self._last is None or (self._last.round, self._last.blob) != (task.round, task.upload):
                self._last = None
                self._last = self._work(task, progress)
            update = self._last
        progress("upload", 0)
        begun = time.monotonic()
        self._put(update.blob, update.sealed, progress)
        update.seconds["upload"] = time.monotonic() - begun
        return update

    def send_initial(self, order: SendInitial, vector: Vector) -> dict[str, Any]:
        """Seal and upload the initial model; the ``initial`` document that gives its key.

        What is asked for again under the same name is the same bytes under the same key: a host keeps the first.
        """
        with self._one_at_a_time:
            if self._initial is None or self._initial[0] != order.blob:
                key, room = ContentKey.generate(), bytearray(order.header.sealed_bytes)
                self._initial = order.blob, key, self._seal(order.header, vector, key, room)
            _, key, sealed = self._initial
        self._put(order.blob, sealed, lambda stage, percent: None)
        return {"type": "initial", "blob": order.blob.hex(), "key": key.secret.hex()}

    def _work(self, task: Train, progress: Progress) -> SealedUpdate:
        """Download, train and seal, each timed for whoever asks why a round is slow."""
        marks = [time.monotonic()]
        progress("download", 0)
        model = self._fetch(task)
        marks.append(time.monotonic())
        progress("train", 0)
        result = self.trainer.train(model, task.round, timeout_s=self.train_timeout_s)
        if result.delta.shape != model.shape:
            raise AppError(Reason.APP_REPLY, "update: not a vector of the plan's layout")
        marks.append(time.monotonic())
        key, header = ContentKey.generate(), task.upload_header
        if len(self._room) != header.sealed_bytes:
            self._room = bytearray(header.sealed_bytes)
        sealed = self._seal(header, self.exchanged.taken_from(result.delta), key, self._room)
        marks.append(time.monotonic())
        spent = [later - earlier for earlier, later in pairwise(marks)]
        seconds = dict(zip(("download", "train", "seal"), spent, strict=True))
        metrics = {name: value for name, value in result.metrics.items() if name in self.allowed_metrics}
        prefix_sha256 = sha256(sealed[: header.prefix_bytes])
        return SealedUpdate(task.round, task.upload, sealed, key, prefix_sha256, result.num_examples, metrics, seconds)

    def _fetch(self, task: Train) -> Vector:
        """The whole model that the app sees: what is exchanged, over what stays as it was where the plan says so."""
        if self._model is None:
            self._model = np.empty(task.model.header.elements, dtype="<f4")
        self._open(task.model, self._model)
        if task.base is None:
            return self._model
        if self._base is None or self._base[0] != task.base.blob:
            whole = np.empty(task.base.header.elements, dtype="<f4")
            self._open(task.base, whole)
            self._base = task.base.blob, whole
        whole = self._base[1]
        self.exchanged.put_into(whole, self._model)
        return whole

    def _open(self, announced: AnnouncedBlob, vector: Vector) -> None:
        header = announced.header
        stored = self.transport.get_blob(announced.blob, header=header)
        open_vector(stored, vector, expected=header, key=announced.key, verify_key=announced.signer)

    def _seal(self, header: BlobHeader, vector: Vector, key: ContentKey, room: bytearray) -> memoryview:
        sealer, out = BlobSealer(header, key, self.signing_key), memoryview(room)
        if len(sealer.prefix) != header.prefix_bytes or vector.shape != (header.elements,):
            raise BlobError(Reason.BLOB_LAYOUT, "update: another size than announced")
        out[: header.prefix_bytes] = sealer.prefix
        for piece in header.pieces():
            if not np.isfinite(vector[piece.start : piece.start + piece.elements]).all():  # while it is in the cache
                raise AppError(Reason.APP_REPLY, "update: finite numbers expected")
            begin = header.prefix_bytes + piece.offset
            sealer.seal_into(piece, vector, out[begin : begin + piece.sealed_bytes])
        return out

    def _put(self, blob: bytes, sealed: memoryview, progress: Progress) -> None:
        def sent(count: int) -> None:
            progress("upload", 100 * count // len(sealed))

        self.transport.put_blob(blob, sealed, sent)
