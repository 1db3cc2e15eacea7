"""All that is looked at when an app is checked, in the order in which a worker meets it. Trust zone: its author."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from console import app_checks
from console.app_reading import AppSource, Strategy
from console.app_trial import Given
from console.diagnosis import Finding
from console.initial_model import read_initial_model
from console.output import UserError
from console.plans import read_bundle
from trusted.apps.bundle import bundle_digest, unpack_bundle
from trusted.documents.terms import Scalar
from worker.trainer import Call


@dataclass(frozen=True, slots=True)
class Tried:
    """What one round is trained on and from; None: it is not trained."""

    data: Path | None
    initial_model: Path | None


def findings(app_path: Path, tried: Tried, work: Path) -> Iterator[Finding]:
    """Every finding, as soon as it is there; ``work`` is an empty folder.

    Raises:
        UserError, AppError, OSError: there is no app there that could be checked.
    """
    if importlib.util.find_spec("flwr") is None:
        raise UserError("flwr is not installed here", "Install what a worker has: pip install 'cloister[worker]'.")
    bundle = read_bundle(app_path)
    unpacked = unpack_bundle(bundle, expected=bundle_digest(bundle), into=work / "app")
    model = None if tried.initial_model is None else read_initial_model(tried.initial_model)
    data = None if tried.data is None else _folder(tried.data, work)
    yield from app_checks.bundle(app_path, unpacked, bundle)
    yield from app_checks.dependencies(unpacked)
    app = AppSource.read(unpacked)
    yield from app_checks.source(app)
    strategy = app.strategy()
    yield from app_checks.strategy(strategy)
    yield app_checks.initial_model(strategy)
    given = Given(model, data, messages(strategy))
    yield from app_checks.trial(unpacked, given, work)


def _folder(data: Path, work: Path) -> Path:
    if data.is_dir():
        return data.resolve()
    folder = work / "data"
    folder.mkdir()
    shutil.copy(data, folder)
    return folder


def messages(strategy: Strategy) -> Mapping[Call, Mapping[str, Scalar]]:
    """What the app's own ServerApp says with every message, as far as it can be read."""
    return {Call.TRAIN: strategy.train_config or {}, Call.EVALUATE: strategy.evaluate_config or {}}
