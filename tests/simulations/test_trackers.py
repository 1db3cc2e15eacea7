"""Trackers, against the real TensorBoard and MLflow: what they kept is read back with their own readers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from console.output import UserError
from simulations.trackers import figures_of, flat, mlflow, tensorboard, together
from tests.simulations.results import row

SETTINGS = {"seed": 7, "terms": {"rounds": 3, "cohort": {"size": 2}}, "behaviours": [{"name": "dropout"}]}


def test_figures_are_grouped_by_what_they_are_about() -> None:
    figures = figures_of(row(2))
    assert figures["evaluated/accuracy"] == 0.75
    assert figures["cohort/counted"] == 2
    assert figures["traffic/down_mb"] == 3.0
    assert figures["privacy/epsilon"] == 0.2
    assert "privacy/epsilon" not in figures_of(row(2, epsilon=None))


def test_nested_settings_become_flat_text() -> None:
    assert flat(SETTINGS) == {
        "seed": "7",
        "terms.rounds": "3",
        "terms.cohort.size": "2",
        "behaviours": '[{"name": "dropout"}]',
    }


def test_several_listeners_hear_each_round() -> None:
    heard: list[tuple[str, int]] = []
    told = together(lambda row: heard.append(("a", row.number)), lambda row: heard.append(("b", row.number)))
    told(row(1))
    told(row(2))
    assert heard == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_tensorboard_reads_every_round_back(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard(tmp_path, SETTINGS) as told:
        for number in (1, 2, 3):
            told(row(number))
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars("evaluated/accuracy")
    assert [(event.step, event.value) for event in scalars] == [(1, 0.5), (2, 0.75), (3, pytest.approx(5 / 6))]
    assert "privacy/epsilon" in events.Tags()["scalars"]


def test_mlflow_reads_settings_and_every_round_back(tmp_path: Path) -> None:
    library = pytest.importorskip("mlflow")
    uri = (tmp_path / "mlruns").as_uri()
    with mlflow(uri, "trial", SETTINGS) as told:
        told(row(1))
        told(row(2, evaluated={"accuracy": 0.75, "loss": float("nan")}))
    client = library.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["terms.cohort.size"] == "2"
    history = client.get_metric_history(run.info.run_id, "evaluated/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.75)]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "evaluated/loss")] == [1]


def test_an_mlflow_run_that_fails_is_told_as_failed(tmp_path: Path) -> None:
    library = pytest.importorskip("mlflow")
    uri = (tmp_path / "mlruns").as_uri()
    with pytest.raises(KeyboardInterrupt), mlflow(uri, "trial", SETTINGS):
        raise KeyboardInterrupt
    client = library.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("library", ["torch.utils.tensorboard", "mlflow"])
def test_without_the_library_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    tracker = tensorboard(tmp_path, {}) if "tensorboard" in library else mlflow(tmp_path.as_uri(), "x", {})
    with pytest.raises(UserError, match=r"pip install 'cloister\[simulate-trackers\]'"), tracker:
        pass
