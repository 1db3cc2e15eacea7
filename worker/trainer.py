"""One round of training over a flat float32 vector, whatever framework the app uses. Trust zone: worker.

The app is the member's approved code on the member's data; its answer may still be wrong in any way, so it is held
against the plan's layout before it becomes an update. What the app says in words (exceptions, prints) goes to ``log``,
which stays at the site: an error that leaves names a field and a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trusted.apps.arrays import Arrays, split_vector
from trusted.apps.messages import AppMessage
from trusted.documents.layout import Layout
from trusted.errors import AppError, Reason
from worker.rows import RowScores

Vector = NDArray[np.float32]
Log = Callable[[str], None]

EXAMPLES = "num-examples"  # Flower's default weight
MAX_METRICS = 64
_MAX_NAME = 64
_MAX_EXAMPLES = 1 << 53


class Call(Enum):
    """What an app is asked to do, in Flower's spelling."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True)
class Reply:
    """What an app answered, unchecked: arrays by name (none from an evaluation) and metrics by name."""

    arrays: Arrays
    metrics: Mapping[str, object]


class TrainingApp(Protocol):
    """A loaded app (``worker.flower`` has the one there is)."""

    def offers(self, call: Call) -> bool:
        """Whether the app can be asked this."""

    def ask(self, call: Call, arrays: Arrays, *, round_number: int, rows: bool = False) -> Reply:
        """Ask it. Raises AppError when it fails or answers in another form.

        ``rows``: of an evaluation, whether its answer may hold scores by row (:mod:`worker.rows`) as its arrays.
        """

    def respond(self, message: AppMessage, node: int, number: int) -> AppMessage:
        """What it answers to a message of its own server, as ``node``. Raises AppError when it fails."""

    def elsewhere(self, data: Path) -> TrainingApp:
        """The same app on other data, remembering nothing."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A site's contribution to a round.

    Attributes:
        delta: trained minus given model, float32[elements], finite.
        num_examples: rows it was trained on, 1 to 2^53; the weight before the plan's cap.
        metrics: finite numbers by name, of the training and of the given model on held-out rows; not yet filtered.
        private_steps: steps of DP-SGD that were made; 0 where the plan asks for none.
    """

    delta: Vector
    num_examples: int
    metrics: Mapping[str, float]
    private_steps: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """What an app says of a model on its site's rows.

    Attributes:
        num_examples: held-out rows by its own word; 0: it does not say.
        metrics: finite numbers by name; not yet filtered.
        rows: scores by row, where the app offers them.
    """

    num_examples: int
    metrics: Mapping[str, float]
    rows: RowScores | None


class Trainer:
    """Asks one app, round by round; the app may keep state between rounds, as under Flower."""

    def __init__(self, app: TrainingApp, layout: Layout, log: Log) -> None:
        self._app = app
        self._layout = layout
        self._log = log

    def offers(self, call: Call) -> bool:
        """Whether the app can be asked this."""
        return self._app.offers(call)

    def train(self, model: Vector, round: int) -> TrainResult:
        """Judge ``model``, float32[elements], on held-out rows where the app offers that, then train from it.

        Raises:
            ValueError: ``model`` is not float32[elements].
            AppError: APP_FAILED: the app raised. APP_REPLY: it answered what the plan's layout does not allow.
        """
        judged = self.evaluate(model, round) if self._app.offers(Call.EVALUATE) else {}
        reply = self._app.ask(Call.TRAIN, split_vector(self._layout, model), round_number=round)
        trained = join_arrays(self._layout, reply.arrays)
        metrics = self._numbers(reply.metrics)
        if EXAMPLES not in metrics:
            raise _wrong(f"metrics: {EXAMPLES!r} expected, the number of rows trained on")
        examples = metrics.pop(EXAMPLES)
        if not (1 <= examples <= _MAX_EXAMPLES and float(examples).is_integer()):
            raise _wrong(f"metrics: {EXAMPLES!r} must be a whole number from 1 to 2^53")
        with np.errstate(over="ignore"):
            delta = trained - model
        if not np.isfinite(delta).all():
            raise _wrong("arrays: finite numbers expected")
        for name, value in judged.items():
            metrics[name if name not in metrics else f"eval-{name}"] = value
        return TrainResult(delta, int(examples), metrics)

    def evaluate(self, model: Vector, round: int) -> dict[str, float]:
        """The app's metrics for ``model`` on the site's held-out rows, without their number.

        Raises:
            ValueError, AppError: as :meth:`train`.
        """
        reply = self._app.ask(Call.EVALUATE, split_vector(self._layout, model), round_number=round)
        metrics = self._numbers(reply.metrics)
        metrics.pop(EXAMPLES, None)
        return metrics

    def respond(self, content: bytes, node: int, number: int) -> bytes:
        """What the app answers to the message in ``content``, padded to the same size.

        Raises:
            AppError: APP_FAILED: the app raised, or answered with an error. MESSAGE_FORM, MESSAGE_SIZE: one of both is
                none, or does not fit.
        """
        return self._app.respond(AppMessage.parse(content), node, number).encode(len(content))

    def elsewhere(self, data: Path) -> Trainer:
        """The same app as it would find itself on the data in the folder ``data``: without what it remembers."""
        return Trainer(self._app.elsewhere(data), self._layout, self._log)

    def judge(self, model: Vector, round: int, admitted: int) -> Judged:
        """Have the app judge ``model``, row by row where it offers that, on data of ``admitted`` rows.

        Raises:
            ValueError: as :meth:`train`. AppError: as :meth:`train`; APP_ROWS: its scores cannot be right.
        """
        if not self._app.offers(Call.EVALUATE):
            return Judged(0, {}, None)
        reply = self._app.ask(Call.EVALUATE, split_vector(self._layout, model), round_number=round, rows=True)
        metrics = self._numbers(reply.metrics)
        examples = metrics.pop(EXAMPLES, 0.0)
        if not (0 <= examples <= _MAX_EXAMPLES and float(examples).is_integer()):
            raise _wrong(f"metrics: {EXAMPLES!r} must be a whole number from 1 to 2^53")
        rows = RowScores.read(reply.arrays, admitted=admitted) if reply.arrays else None
        return Judged(int(examples), metrics, rows)

    def _numbers(self, metrics: Mapping[str, object]) -> dict[str, float]:
        """The scalar metrics; lists are dropped, because they could carry rows out of the site."""
        if len(metrics) > MAX_METRICS:
            raise _wrong(f"metrics: at most {MAX_METRICS} expected")
        numbers: dict[str, float] = {}
        for name, value in metrics.items():
            if not 0 < len(name) <= _MAX_NAME:
                raise _wrong(f"metrics: names of 1 to {_MAX_NAME} characters expected")
            if isinstance(value, list):
                self._log(f"metric {name!r} is a list: it stays here")
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
                self._log(f"metric {name!r} is not a finite number")
                raise _wrong("metrics: finite numbers expected")
            numbers[name] = float(value)
        return numbers


def join_arrays(layout: Layout, arrays: Arrays) -> Vector:
    """The flat float32[elements] of ``arrays``, whose writer may have got anything wrong; ``float64`` is rounded.

    Raises:
        AppError: APP_REPLY: names, shapes or dtypes are not exactly those of ``layout``, or a number is not finite.
    """
    if set(arrays) != {spec.name for spec in layout.tensors}:
        raise _wrong("arrays: exactly the names of the plan's layout expected")
    vector = np.empty(layout.elements, dtype=np.float32)
    start = 0
    for spec in layout.tensors:
        array = arrays[spec.name]
        if array.shape != spec.shape:
            raise _wrong("arrays: the shapes of the plan's layout expected")
        if array.dtype.name != spec.dtype.value:
            raise _wrong("arrays: the dtypes of the plan's layout expected")
        with np.errstate(over="ignore"):  # what is too large becomes infinity, and is refused below
            vector[start : start + spec.elements] = array.reshape(-1)
        start += spec.elements
    if not np.isfinite(vector).all():
        raise _wrong("arrays: finite numbers expected")
    return vector


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of float
        return False


def _wrong(rule: str) -> AppError:
    return AppError(Reason.APP_REPLY, f"app's reply: {rule}")
