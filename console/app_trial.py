"""Loading an app, and training one round of it, in the same confined process that a worker has. Trust zone: its author.

What the app says is sealed for a key that is made here and thrown away: there is no other way to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from console.initial_model import InitialModel
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.terms import Scalar
from trusted.errors import AppError, ProtocolError
from trusted.hpke import SealingKey
from worker.app_log import Reader, open_log
from worker.trainer import Call
from worker.trainer_process import TrainerProcess, TrainerSpec

_NO_MODEL = Layout((TensorSpec("none", Dtype.FLOAT32, (1,)),))
_ROUND_S = 600.0


@dataclass(frozen=True, slots=True)
class Given:
    """What an app is tried with; without ``model`` and ``data`` (a folder of CSV files) it is loaded and no more."""

    model: InitialModel | None
    data: Path | None
    messages: Mapping[Call, Mapping[str, Scalar]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of it.

    Attributes:
        offers: what it can be asked; empty: it could not be loaded.
        features: which limits held for its process.
        error: what stopped it.
        metrics: of the one round, with ``num-examples``; empty: none was trained.
        words: the app's own, line by line.
    """

    offers: tuple[Call, ...]
    features: tuple[str, ...]
    error: ProtocolError | None
    metrics: Mapping[str, float]
    words: tuple[str, ...]


def try_app(app_dir: Path, given: Given, work: Path) -> Trial:
    """Load the app in ``app_dir``, and train one round where there is a model and data; ``work`` is an empty folder."""
    key = SealingKey.generate()
    (work / "scratch").mkdir()
    (work / "no-data").mkdir()
    model = given.model if given.data is not None else None
    spec = TrainerSpec(
        app_dir=app_dir,
        data=given.data or work / "no-data",
        layout=_NO_MODEL if model is None else model.layout,
        config={},
        log_file=work / "app.log",
        scratch=work / "scratch",
        log_reader=Reader("author", bytes(32), key.public),
        train_config=given.messages.get(Call.TRAIN, {}),
        evaluate_config=given.messages.get(Call.EVALUATE, {}),
    )
    offers: tuple[Call, ...] = ()
    features: tuple[str, ...] = ()
    metrics: dict[str, float] = {}
    error: ProtocolError | None = None
    try:
        process = TrainerProcess.start(spec)
        try:
            offers, features = process.offers, tuple(feature.value for feature in process.features)
            if model is not None:
                result = process.train(model.vector, 1, _ROUND_S)
                metrics = {"num-examples": float(result.num_examples), **result.metrics}
        finally:
            process.stop()
    except AppError as stopped:
        error = stopped
    with spec.log_file.open("rb") as log:
        words = b"".join(start.words for start in open_log(log, key)).decode("utf-8", "replace")
    return Trial(offers, features, error, metrics, tuple(words.splitlines()))
