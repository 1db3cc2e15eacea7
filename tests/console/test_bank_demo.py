"""``cloister demo bank``: its command line, its figures, and one of its federations on real processes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from console.demo.bank_verdict import Comparison, Worth, compare
from console.demo.banks import CAST, POISONED_KRUM, POISONER, prepare, write_books
from console.demo.cast import Folder, Wishes
from console.demo.fraud.banks import BANKS
from console.demo.fraud.transactions import FRAUDS
from console.demo.papers import agree
from console.demo.playing import play, search_host
from console.initial_model import read_initial_model
from console.main import build_app
from console.output import Report
from coordinator.enclave.fold import weighing
from trusted.documents.terms import Rule
from worker.flower import FlowerApp
from worker.trainer import Trainer, Vector

WAYS = ["local_mean", "federated", "pooled", "poisoned_mean", "poisoned_krum"]
ROUNDS, SEED, SIZE = 2, 7, 0.05


def comparison() -> Comparison:
    """Five ways, each a tenth better than the one before."""

    def worth(figure: float) -> Worth:
        metrics = {"average-precision": figure, "recall-at-fpr-0.005": figure / 2}
        return Worth(metrics, dict.fromkeys(FRAUDS, metrics))

    ways = {way: worth(0.1 * place) for place, way in enumerate(WAYS, start=1)}
    return Comparison(ways, dict.fromkeys(BANKS, ways["local_mean"].everyone))


def test_figures_stand_in_json_under_the_five_ways() -> None:
    data = comparison().to_json()
    assert data["average_precision"] == dict(zip(WAYS, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    assert data["recall_at_fpr_0_005"] == dict(zip(WAYS, (0.05, 0.1, 0.15, 0.2, 0.25), strict=True))
    assert sorted(data["recall_by_typology"]["pooled"]) == ["abroad", "card_testing", "mule", "scam", "takeover"]
    assert sorted(data["local_by_bank"]) == sorted(BANKS)


def test_every_table_and_the_last_sentence_say_that_the_data_is_synthetic() -> None:
    for table in comparison().tables():
        shown = Console(file=io.StringIO(), width=160)
        shown.print(table)
        assert isinstance(shown.file, io.StringIO)
        assert "SYNTHETIC" in shown.file.getvalue()
    assert "SYNTHETIC" in comparison().sentences(POISONER)[-1]


@pytest.mark.parametrize("options", [["--rounds", "3"], ["--json"], ["--keep", "somewhere"]])
def test_an_option_before_the_word_bank_is_refused_and_not_dropped(options: list[str]) -> None:
    result = CliRunner().invoke(build_app(), ["demo", *options, "bank"])
    assert result.exit_code == 2
    assert "an option stands before 'bank'" in result.output


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("kept")
    result = CliRunner().invoke(build_app(), ["demo", "bank", "--keep", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not empty" in result.output


def in_process(files: dict[str, Path], folder: Folder, app: Path) -> Vector:
    """The poisoned run without a federation: our trainer on the same files, the enclave's choice of updates."""
    initial = read_initial_model(folder.initial_model)
    trainers = [
        Trainer(
            FlowerApp.load(app, config={"seed": SEED}, node_config={"data-path": str(files[bank])}, log=print),
            initial.layout,
            print,
        )
        for bank in BANKS
    ]
    model = initial.vector
    for number in range(1, ROUNDS + 1):
        results = [each.train(model, number) for each in trainers]
        updates = np.stack([result.delta for result in results]).astype(np.float64)
        weights = [result.num_examples for result in results]
        shares = weighing.multi_krum(updates @ updates.T, 1, 2, weights)
        assert shares[BANKS.index(POISONER)] == 0
        model = (model + shares @ updates).astype(np.float32)
    return model


@pytest.mark.slow
def test_deployed_krum_folds_the_updates_of_honest_banks(tmp_path: Path) -> None:
    """Host, aggregator and five workers as real processes, on small books; what they make is reckoned again here."""
    folder = Folder.of(tmp_path.parent / "bank")  # a socket's path has 107 characters at most
    folder.path.mkdir()
    wishes = Wishes(ROUNDS, SEED, tpms=False)
    agree(folder, CAST, wishes)
    shelf = write_books(folder, SEED, size=SIZE)
    runs = prepare(folder, shelf, wishes)
    rules = [run.papers.plan.document.aggregation.rule for run in runs.values()]
    assert rules == [Rule.WEIGHTED_MEAN, Rule.WEIGHTED_MEAN, Rule.MULTI_KRUM]
    assert len({run.papers.plan.digest for run in runs.values()}) == 3

    report, console = Report(json_output=True), Console(stderr=True)
    played = play(report, console, runs[POISONED_KRUM])
    assert search_host(played).found == ()
    assert played.opened.release.rounds == ROUNDS
    assert played.prepared.folder.model.is_file()
    expected = in_process(shelf.with_poison, folder, CAST.app)
    assert np.allclose(played.opened.vector, expected, rtol=0, atol=1e-5)

    found = compare(shelf.books, dict.fromkeys(runs, played)).to_json()
    assert list(found["average_precision"]) == WAYS
    assert all(0 < found["average_precision"][way] <= 1 for way in WAYS)
    assert len({found["average_precision"][way] for way in ("federated", "poisoned_mean", "poisoned_krum")}) == 1
