"""What ``flwr new`` writes runs as it is: by ``flwr run`` and by Cloister to the same model, but for rounding.

The templates are downloaded by ``flwr new`` from Flower's Hub and are in no wheel: those of ``quickstart`` are ours, in
their structure and with their calls, and differ in how a site's data are found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trusted.apps.bundle import build_bundle

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "quickstart"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites of different size; the label is a rule of the features, with noise."""
    folder = tmp_path_factory.mktemp("sites")
    random = np.random.default_rng(7)
    for name, rows in (("site-1", 60), ("site-2", 110)):
        features = random.normal(size=(rows, 4))
        labels = features @ [1.0, -2.0, 0.5, 0.0] + random.normal(scale=0.3, size=rows) > 0
        (folder / name).mkdir()
        table = np.column_stack([features, labels])
        np.savetxt(folder / name / "site.csv", table, delimiter=",", header="a,b,c,d,label", comments="", fmt="%.6f")
    return folder


def run(half: str, app: Path, sites: Path, out: Path) -> None:
    given = [str(path) for path in (app, sites, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_HOME": str(out), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-m", "tests.worker.quickstart_runs", half, *given]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch", "sklearn", "numpy"])
def test_a_quickstart_app_comes_to_the_same_model_under_flower_and_under_cloister(
    name: str, sites: Path, tmp_path: Path
) -> None:
    for half in ("flower", "cloister"):
        run(half, APPS / name, sites, tmp_path)
    initial, theirs, ours = (dict(np.load(tmp_path / f"{which}.npz")) for which in ("initial", "flower", "cloister"))
    assert list(ours) == list(theirs) == list(initial)
    moved = max(np.abs(theirs[key] - initial[key]).max() for key in theirs)
    assert moved > 0.1  # three rounds did something
    for key in theirs:
        assert ours[key].dtype == initial[key].dtype
        np.testing.assert_allclose(ours[key], theirs[key], rtol=2e-5, atol=2e-6)
    said, mean = (json.loads((tmp_path / f"{which}.json").read_text()) for which in ("flower", "cloister"))
    trained = {key.removeprefix("train "): value for key, value in said.items() if key.startswith("train ")}
    for key, value in trained.items():
        assert mean[key] == pytest.approx(value, rel=1e-4)
    judged = {key for key, value in said.items() if key.startswith("eval ") and not isinstance(value, list)}
    assert len(mean) == len(trained) + len(judged)


@pytest.mark.parametrize("name", ["pytorch", "sklearn", "numpy"])
def test_its_bundle_is_the_same_wherever_it_is_built(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    for path in sorted(APPS.joinpath(name).rglob("*"), reverse=True):
        if path.is_file() and "__pycache__" not in path.parts:
            target = copy / path.relative_to(APPS / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            os.utime(target, (1, 1))
            target.chmod(0o700)
    assert build_bundle(copy) == build_bundle(APPS / name)
