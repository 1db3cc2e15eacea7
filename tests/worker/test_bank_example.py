"""The fraud app on SYNTHETIC books: its columns, its metrics, its training, and what one lying bank does to a fold."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from console.demo.fraud.banks import BANKS, COLUMNS, make_books, poisoned
from coordinator.enclave.fold import weighing
from trusted.documents.layout import Layout
from trusted.errors import AppError
from worker.flower import FlowerApp
from worker.trainer import Trainer, Vector, join_arrays

EXAMPLE = Path(__file__).parents[2] / "examples" / "bank_fraud"
SEED = 7
SIZE = 0.16  # of each bank


@pytest.fixture(scope="module")
def task() -> Iterator[ModuleType]:
    """``bank_fraud.task`` of the source tree, gone again afterwards."""
    sys.path.insert(0, str(EXAMPLE))
    yield importlib.import_module("bank_fraud.task")
    sys.path.remove(str(EXAMPLE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "bank_fraud"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small books of every bank, and the false ones of the last as ``poisoner``."""
    folder = tmp_path_factory.mktemp("synthetic")
    books = {bank: make_books(bank, SEED, size=SIZE) for bank in BANKS}
    books["poisoner"] = poisoned(books[BANKS[-1]])
    files = {name: folder / name / "synthetic.csv" for name in books}
    for name, each in books.items():
        files[name].parent.mkdir()
        each.write(files[name])
    return files


@pytest.fixture(scope="module")
def start(task: ModuleType) -> tuple[Layout, Vector]:
    initial = {name: tensor.numpy() for name, tensor in task.initial_arrays(SEED).items()}
    layout = Layout.parse([{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in initial.items()])
    return layout, join_arrays(layout, initial)


def trainer(layout: Layout, data: Path) -> Trainer:
    config = {"seed": SEED, "batch-size": 128}  # for small books
    app = FlowerApp.load(EXAMPLE, config=config, node_config={"data-path": str(data)}, log=print)
    return Trainer(app, layout, print)


def test_the_app_reads_exactly_the_columns_that_the_generator_makes(task: ModuleType) -> None:
    assert len(task.COLUMNS) == len(set(task.COLUMNS))
    assert set(task.COLUMNS) == set(COLUMNS)


def test_the_network_has_thirty_inputs_and_two_hidden_layers(task: ModuleType) -> None:
    shapes = [tuple(tensor.shape) for name, tensor in task.initial_arrays(SEED).items() if name.endswith("weight")]
    assert shapes == [(64, 30), (32, 64), (1, 32)]


def test_inputs_are_bounded_and_learnt_payments_come_before_those_that_judge(
    task: ModuleType, files: dict[str, Path]
) -> None:
    split = task.load_split(files["bank-1"], 63)
    everything = task.load_split(files["bank-1"], 1_000)
    assert split.train.x.shape[1] == split.held_out.x.shape[1] == 30
    assert float(split.train.x.abs().max()) <= 4.0
    assert len(split.train.y) + len(split.held_out.y) == len(everything.train.y)
    assert len(everything.held_out.y) == 0


def test_average_precision_and_recall_agree_with_scikit_learn_ties_included(task: ModuleType) -> None:
    draw = np.random.default_rng(3)
    for digits in (1, 2, 6):
        y = draw.random(4_000) < 0.03
        scores = np.round(draw.normal(size=4_000) + y, digits)
        assert task.average_precision(y, scores) == pytest.approx(average_precision_score(y, scores), abs=1e-12)
        false, true, _ = roc_curve(y, scores, drop_intermediate=False)
        assert task.recall_at(y, scores, 0.005) == pytest.approx(true[false <= 0.005].max(), abs=1e-12)


def test_where_there_is_no_fraud_the_metrics_are_zero(task: ModuleType) -> None:
    assert task.average_precision(np.zeros(5, bool), np.arange(5.0)) == 0
    assert task.recall_at(np.zeros(5, bool), np.arange(5.0), 0.005) == 0


def test_training_through_the_worker_finds_fraud_and_is_the_same_twice(
    start: tuple[Layout, Vector], files: dict[str, Path]
) -> None:
    layout, model = start
    worker = trainer(layout, files["bank-1"])
    first, again = worker.train(model, 1), trainer(layout, files["bank-1"]).train(model, 1)
    assert (first.delta == again.delta).all()
    before = worker.evaluate(model, 1)
    for number in range(1, 5):
        model = (model + worker.train(model, number).delta).astype(np.float32)
    after = worker.evaluate(model, 5)
    assert sorted(after) == ["average-precision", "recall-at-fpr-0.005", "val-loss"]
    assert after["average-precision"] > before["average-precision"] + 0.2


def test_a_file_without_one_of_its_columns_fails_and_says_so_only_at_the_site(
    start: tuple[Layout, Vector], files: dict[str, Path], tmp_path: Path
) -> None:
    header, *rows = files["bank-1"].read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join([header.replace("is_abroad", "was_abroad"), *rows[:50]]))
    with pytest.raises(AppError, match="raised"):
        trainer(start[0], tmp_path / "short.csv").train(start[1], 1)


def test_multi_krum_keeps_no_update_of_the_bank_that_lies_and_a_mean_is_turned_by_it(
    task: ModuleType, start: tuple[Layout, Vector], files: dict[str, Path]
) -> None:
    layout, model = start
    names = (*BANKS[:-1], "poisoner")
    trainers = [trainer(layout, files[name]) for name in names]
    judges = [trainer(layout, files[bank]) for bank in BANKS]
    ends: dict[str, float] = {}
    for rule in ("mean", "multi-krum"):
        current = model
        for number in range(1, 5):
            results = [each.train(current, number) for each in trainers]
            weights = [result.num_examples for result in results]
            updates = np.stack([result.delta for result in results])
            gram = updates.astype(np.float64) @ updates.T.astype(np.float64)
            by_weight = np.array(weights) / sum(weights)
            shares = by_weight if rule == "mean" else weighing.multi_krum(gram, 1, 2, weights)
            assert rule == "mean" or (shares[-1] == 0 and np.count_nonzero(shares) == 2)
            current = (current + shares @ updates).astype(np.float32)
        ends[rule] = float(np.mean([judge.evaluate(current, 5)["average-precision"] for judge in judges]))
    assert ends["multi-krum"] > ends["mean"] + 0.1
