"""Flower's mods run where the app put them, told by the plan what a strategy's wrapper would tell them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import write_app
from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.errors import AppError, Reason
from worker.flower import FlowerApp, Scalar
from worker.trainer import Call, Trainer

# Without a tensor of whole numbers: Flower's mods scale in place, which NumPy does not do to those.
LAYOUT = Layout((TensorSpec("w", Dtype.FLOAT32, (2, 3)), TensorSpec("scale", Dtype.FLOAT32, ())))
MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
FAR = """\
arrays["w"] = arrays["w"] + np.float32(100)
return answered(message, arrays, {"num-examples": 10, "train-loss": 0.5})
"""


@pytest.fixture(autouse=True)
def clean_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def app_with(tmp_path: Path, mods: str, **train_config: Scalar) -> Trainer:
    """The app of the tests with ``mods`` on its train function."""
    source = write_app(tmp_path / "source", train=FAR)
    (client,) = source.glob("*/client_app.py")
    imported = "from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod, message_size_mod\n"
    imported += "from flwr.clientapp.mod import adaptiveclipping_mod\n"
    client.write_text(imported + client.read_text().replace("@app.train()", f"@app.train(mods=[{mods}])"))
    bundle = build_bundle(source)
    folder = unpack_bundle(bundle, expected=bundle_digest(bundle), into=tmp_path / "app")
    messages = {Call.TRAIN: train_config}
    return Trainer(FlowerApp.load(folder, config={}, node_config={}, log=print, messages=messages), LAYOUT, print)


def moved(trainer: Trainer) -> np.ndarray:
    return trainer.train(MODEL, 1).delta


def test_the_mods_that_measure_change_nothing(tmp_path: Path) -> None:
    delta = moved(app_with(tmp_path, "arrays_size_mod, message_size_mod"))
    np.testing.assert_array_equal(delta, [100] * 6 + [0])


def test_fixed_clipping_clips_to_the_norm_that_the_plan_says_with_each_message(tmp_path: Path) -> None:
    """``DifferentialPrivacyClientSideFixedClipping`` says it under Flower."""
    delta = moved(app_with(tmp_path, "fixedclipping_mod", clipping_norm=2))
    assert np.linalg.norm(delta) == pytest.approx(2, rel=1e-5)


def test_a_mod_that_is_told_no_norm_fails_by_a_reason(tmp_path: Path) -> None:
    with pytest.raises(AppError) as error:
        moved(app_with(tmp_path, "fixedclipping_mod"))
    assert error.value.reason is Reason.APP_FAILED


def test_adaptive_clipping_adds_its_bit_as_a_metric_that_a_plan_need_not_list(tmp_path: Path) -> None:
    trainer = app_with(tmp_path, "adaptiveclipping_mod", clipping_norm=2)
    result = trainer.train(MODEL, 1)
    assert np.linalg.norm(result.delta) == pytest.approx(2, rel=1e-5)
    assert result.metrics["train-loss"] == 0.5


def test_local_dp_adds_noise_after_it_clipped(tmp_path: Path) -> None:
    trainer = app_with(tmp_path, "LocalDpMod(2.0, 0.1, 1.0, 1e-5)")
    first, second = moved(trainer), moved(trainer)
    assert not np.array_equal(first, second)
    assert np.linalg.norm(first) < 30
