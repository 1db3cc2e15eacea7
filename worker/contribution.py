"""One round's work at a site: fetch, open, train, seal, upload. Trust zone: worker TEE.

The transport is the host's: whatever it delivers must open under the announced key and header, or the round fails here.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob import BlobHeader, ContentKey, SealedVector, open_vector
from trusted.documents.terms import Mechanism, Privacy
from trusted.errors import AppError, BlobError, LedgerError, Reason
from trusted.exchange import Exchanged
from trusted.lattice import squared_norm
from trusted.wire import sha256
from worker.evaluation import Evaluator
from worker.participant import AnnouncedBlob, Evaluate, Respond, SendInitial, Train

Vector = npt.NDArray[np.float32]
Progress = Callable[[str, int], None]


@dataclass(slots=True)
class SealedStream:
    """A blob that is sealed while the transport takes it. ``seconds`` is what sealing took of that, so far."""

    sealed: SealedVector = field(repr=False)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.sealed)

    def __bytes__(self) -> bytes:
        return bytes(self.sealed)

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        """As :meth:`SealedVector.stretches`."""
        stretches = self.sealed.stretches(offset)
        while True:
            begun = time.monotonic()
            stretch = next(stretches, None)
            self.seconds += time.monotonic() - begun
            if stretch is None:
                return
            yield stretch


_NOT_PRIVATE = Privacy(Mechanism.NONE)


class BlobTransport(Protocol):
    """Carries sealed blobs to and from the host, resuming where it was cut."""

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        """The stored bytes, cut where the pieces of ``header`` begin."""

    def put_blob(self, blob: bytes, sealed: SealedStream, progress: Callable[[int], None]) -> None:
        """Store all of ``sealed`` under ``blob``; repeating it is harmless."""


class Trains(Protocol):
    """Trains once on the site's data: the trainer process, or a test's own."""

    def train(self, model: Vector, round_number: int, *, timeout_s: float) -> Any:
        """A result with ``delta`` (float32[elements]), ``num_examples`` and ``metrics``."""

    def respond(self, content: bytes, node: int, number: int, timeout_s: float) -> bytes:
        """What the app answers to a message, of the same size."""


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """An update that is ready to be sent, or sent again: the same bytes under the same key."""

    round: int
    blob: bytes
    sealed: SealedVector = field(repr=False)
    key: ContentKey = field(repr=False)
    weight: int
    metrics: Mapping[str, float]
    seconds: dict[str, float]
    private_steps: int | None = None

    @property
    def prefix_sha256(self) -> bytes:
        """By what the log names it."""
        return sha256(self.sealed.prefix)

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
            **({} if self.private_steps is None else {"private_steps": self.private_steps}),
        }


@dataclass(frozen=True, slots=True)
class SealedReply:
    """An answer to a message of the app's own server, ready to be sent, or sent again."""

    round: int
    blob: bytes
    sealed: SealedVector = field(repr=False)
    key: ContentKey = field(repr=False)

    @property
    def prefix_sha256(self) -> bytes:
        """By what the log names it."""
        return sha256(self.sealed.prefix)

    def message(self) -> dict[str, Any]:
        """The ``reply`` document."""
        return {
            "type": "reply",
            "round": self.round,
            "blob": self.blob.hex(),
            "key": self.key.secret.hex(),
            "prefix_sha256": self.prefix_sha256.hex(),
        }


@dataclass(slots=True)
class Contributor:
    """Does the work of a round; keeps the last update, so that a broken session costs no second training.

    Memory is the model and one update; what is sealed of it is as much as is on its way.
    """

    exchanged: Exchanged
    transport: BlobTransport
    trainer: Trains
    signing_key: Ed25519PrivateKey
    allowed_metrics: frozenset[str]
    train_timeout_s: float
    privacy: Privacy = _NOT_PRIVATE
    note: Callable[..., None] = field(default=lambda event, **fields: None, repr=False)
    evaluator: Evaluator | None = None
    _last: SealedUpdate | SealedReply | None = None
    _initial: tuple[bytes, ContentKey, SealedVector] | None = field(default=None, repr=False)
    _model: Vector | None = field(default=None, repr=False)
    _base: tuple[bytes, Vector] | None = field(default=None, repr=False)
    _first: Vector | None = field(default=None, repr=False)  # the model of round 1, where shadows start from it
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    _progress: Progress = field(default=lambda stage, percent: None, repr=False)

    def contribute(self, task: Train, progress: Progress) -> SealedUpdate:
        """The update of ``task``, uploaded.

        Raises:
            BlobError: the model does not open. AppError: training failed. RunError: the host cannot be reached.
        """
        self._initial = None  # a round opens: nobody asks for it any more
        self._progress = progress  # also of what an earlier session began: this one is asked how far it is
        with self._one_at_a_time:  # a session that broke may still be at work on the very same task, or send its bytes
            update = self._last
            if not isinstance(update, SealedUpdate) or (update.round, update.blob) != (task.round, task.upload):
                self._last = None
                self._last = update = self._work(task)
            self._report("upload", 0)
            begun, stream = time.monotonic(), SealedStream(update.sealed)
            self._put(update.blob, stream, self._report)
            update.seconds["seal"] = stream.seconds
            update.seconds["upload"] = max(0.0, time.monotonic() - begun - stream.seconds)
            return update

    def respond(self, task: Respond, progress: Progress) -> SealedReply:
        """The app's answer to the message of ``task``, uploaded.

        Raises:
            BlobError: the message does not open. AppError: the app failed, or its answer is too large. RunError: the
                host cannot be reached.
        """
        self._initial, self._progress = None, progress
        with self._one_at_a_time:
            reply = self._last
            if not isinstance(reply, SealedReply) or (reply.round, reply.blob) != (task.round, task.upload):
                self._last = None
                self._last = reply = self._answer(task)
            self._report("upload", 0)
            self._put(reply.blob, SealedStream(reply.sealed), self._report)
            return reply

    def _answer(self, task: Respond) -> SealedReply:
        self._report("download", 0)
        words = np.empty(task.model.header.elements, dtype="<f4")  # four bytes each, of whatever the app says
        self._open(task.model, words)
        self._report("train", 0)
        answer = self.trainer.respond(words.tobytes(), task.node, task.round, self.train_timeout_s)
        key = ContentKey.generate()
        said = np.frombuffer(answer, dtype="<f4")
        sealed = SealedVector(task.upload_header, said, key=key, signing_key=self.signing_key)
        return SealedReply(task.round, task.upload, sealed, key)

    def evaluate(self, task: Evaluate, progress: Progress) -> dict[str, Any]:
        """The ``evaluated`` document: how the app judges the final model, in count tables.

        Raises:
            BlobError: the model does not open. AppError: the app failed. RunError: the host cannot be reached.
        """
        if self.evaluator is None:
            raise AppError(Reason.APP_ROWS, "evaluate: this worker was not made ready for it")
        self._progress = progress
        with self._one_at_a_time:
            self._report("download", 0)
            model = self._fetch(task)
            self._report("evaluate", 0)
            return self.evaluator.evaluate(model, task.round, self._first, self._report)

    def require_own(self, number: int, prefix_sha256: bytes) -> None:
        """Refuse a log that says of round ``number`` that another update of this site counts than the one it sent.

        Raises:
            LedgerError: LEDGER_LEAF.
        """
        last = self._last
        if last is not None and last.round == number and last.prefix_sha256 != prefix_sha256:
            raise LedgerError(Reason.LEDGER_LEAF, "included: not the update that this site sent")

    def send_initial(self, order: SendInitial, vector: Vector) -> dict[str, Any]:
        """Seal and upload the initial model; the ``initial`` document that gives its key.

        What is asked for again under the same name is the same bytes under the same key: a host keeps the first.
        """
        with self._one_at_a_time:
            if self._initial is None or self._initial[0] != order.blob:
                key = ContentKey.generate()
                sealed = SealedVector(order.header, vector, key=key, signing_key=self.signing_key)
                self._initial = order.blob, key, sealed
            _, key, sealed = self._initial
            self._put(order.blob, SealedStream(sealed), lambda stage, percent: None)
        return {"type": "initial", "blob": order.blob.hex(), "key": key.secret.hex()}

    def _report(self, stage: str, percent: int) -> None:
        self._progress(stage, percent)

    def _work(self, task: Train) -> SealedUpdate:
        """Download and train, each timed for whoever asks why a round is slow."""
        marks = [time.monotonic()]
        self._report("download", 0)
        model = self._fetch(task)
        if task.round == 1 and self.evaluator is not None and self.evaluator.trains_shadows:
            self._first = model.copy()
        marks.append(time.monotonic())
        self._report("train", 0)
        result = self.trainer.train(model, task.round, timeout_s=self.train_timeout_s)
        if result.delta.shape != model.shape:
            raise AppError(Reason.APP_REPLY, "update: not a vector of the plan's layout")
        marks.append(time.monotonic())
        key, delta = ContentKey.generate(), clipped(self.exchanged.taken_from(result.delta), self.privacy)
        sealed = SealedVector(task.upload_header, delta, key=key, signing_key=self.signing_key)
        spent = [later - earlier for earlier, later in pairwise(marks)]
        seconds = dict(zip(("download", "train"), spent, strict=True))
        metrics = {name: value for name, value in result.metrics.items() if name in self.allowed_metrics}
        if len(metrics) < len(result.metrics):  # how many: a name may be made of data as well as a value
            self.note("metrics-kept", round=task.round, count=len(result.metrics) - len(metrics))
        weight = result.num_examples if self.privacy.terms is None else 1  # how many rows there are would be told
        steps = None if self.privacy.dp_sgd is None else result.private_steps
        return SealedUpdate(task.round, task.upload, sealed, key, weight, metrics, seconds, steps)

    def _fetch(self, task: Train | Evaluate) -> Vector:
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
        open_vector(
            _counted(stored, header.sealed_bytes, self._report),
            vector,
            expected=header,
            key=announced.key,
            verify_key=announced.signer,
        )

    def _put(self, blob: bytes, stream: SealedStream, progress: Progress) -> None:
        def sent(count: int) -> None:
            progress("upload", 100 * count // len(stream))

        try:
            self.transport.put_blob(blob, stream, sent)
        except BlobError as error:
            if error.reason is not Reason.NON_FINITE:
                raise
            self._last = None  # of no use to anybody
            raise AppError(Reason.APP_REPLY, "update: finite numbers expected") from None


def clipped(delta: Vector, privacy: Privacy) -> Vector:
    """``delta``, no longer than the plan allows a member's update to be; the aggregator believes nobody this."""
    terms = privacy.member_clipping
    norm = 0.0 if terms is None else math.sqrt(squared_norm(delta))
    if terms is None or norm <= terms.clip_norm:
        return delta
    return (delta * (terms.clip_norm / norm)).astype("<f4")


def _counted(stored: Iterator[memoryview], size_bytes: int, progress: Progress) -> Iterator[memoryview]:
    """``stored``, telling how much of ``size_bytes`` has come; a host that sends more is never done more than 100 %."""
    arrived = 0
    for piece in stored:
        arrived += len(piece)
        progress("download", min(100, 100 * arrived // size_bytes))
        yield piece
