"""An app's process that is judged by rows and shadows, and one that trains under DP-SGD."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import WELL_BEHAVED, unpacked
from tests.worker.trainer_processes import MODEL, refused, spec_of
from trusted.documents.terms import DpSgd, Unit
from trusted.errors import AppError, Reason
from worker.trainer_process import TrainerProcess

pytestmark = pytest.mark.usefixtures("alone")


SEES = """\
import csv, pathlib
files = sorted(pathlib.Path(context.node_config["data-path"]).glob("*.csv"))
values = [float(row["a"]) for file in files for row in csv.DictReader(file.open())]
"""
TRAINS_ON_ALL = SEES + WELL_BEHAVED.replace('"num-examples": 10', '"num-examples": len(values)')
SCORES = (
    SEES
    + """\
reply = answered(message, None, {"num-examples": len(values), "auc": 0.6})
if message.content["config"].get("cloister-rows"):
    arrays = {"row": np.arange(len(values)), "score": np.array(values) / 100, "held-out": np.arange(len(values)) % 2}
    reply.content["cloister-rows"] = ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})
return reply
"""
)


@contextlib.contextmanager
def judging(tmp_path: Path, evaluate: str, train: str = TRAINS_ON_ALL) -> Iterator[TrainerProcess]:
    spec = spec_of(tmp_path, train)
    (tmp_path / "data" / "site.csv").write_text("a,b\n" + "".join(f"{at},2\n" for at in range(100)))
    app_dir = unpacked(tmp_path, train=train, evaluate=evaluate)
    process = TrainerProcess.start(replace(spec, app_dir=app_dir, rows=100), timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def test_an_app_that_offers_it_scores_rows_and_trains_shadows_on_halves(tmp_path: Path) -> None:
    with judging(tmp_path, SCORES) as process:
        plain = process.train(MODEL, 1, 30)
        assert plain.metrics["auc"] == 0.6, "in a round nobody asks for rows"
        judged = process.judge(MODEL, 2, 30)
        assert judged.num_examples == 100
        assert judged.rows is not None
        np.testing.assert_allclose(judged.rows.scores, np.arange(100, dtype=np.float32) / 100)
        shadow = process.shadow(MODEL, 7, 2, 30)
        assert len(shadow.rows) == 100, "a shadow scores all rows"
        assert not (tmp_path / "scratch" / "shadow-data").exists()
        assert process.train(MODEL, 3, 30).num_examples == 100


def test_an_app_that_keeps_what_it_read_makes_no_shadow(tmp_path: Path) -> None:
    kept = 'len(globals().setdefault("kept", values))'
    caching = TRAINS_ON_ALL.replace("len(values)", kept)
    with judging(tmp_path, SCORES, caching) as process:
        process.train(MODEL, 1, 30)
        with pytest.raises(AppError) as error:
            process.shadow(MODEL, 7, 1, 30)
        assert error.value.reason is Reason.AUDIT_SHADOWS
        assert process.judge(MODEL, 2, 30).rows is not None, "and goes on"


def test_scores_that_cannot_be_right_are_a_reason_and_the_child_goes_on(tmp_path: Path) -> None:
    with judging(tmp_path, SCORES.replace("np.array(values) / 100", "np.array(values)")) as process:
        with pytest.raises(AppError) as error:
            process.judge(MODEL, 2, 30)
        assert error.value.reason is Reason.APP_ROWS
        assert process.train(MODEL, 3, 30).num_examples == 100


def test_an_app_without_the_hook_is_judged_by_its_metrics(tmp_path: Path) -> None:
    with judging(tmp_path, 'return answered(message, None, {"num-examples": 4, "auc": 0.5})') as process:
        judged = process.judge(MODEL, 2, 30)
        assert (judged.num_examples, judged.metrics, judged.rows) == (4, {"auc": 0.5}, None)


PRIVATE = DpSgd(Unit.RECORD, 1.0, 2.0, 0.5, 3)
PRIVATE_STEPS = """
import torch
from worker import dp_sgd

assert dp_sgd.terms().max_steps == 3
net = torch.nn.Linear(2, 1)
rows = torch.utils.data.TensorDataset(torch.ones((8, 2)))
private, optimizer, loader = dp_sgd.make_private(net, torch.optim.SGD(net.parameters(), lr=0.1), rows)
for (batch,) in loader:
    optimizer.zero_grad()
    private(batch).mean().backward()
    optimizer.step()
return answered(message, arrays, {"num-examples": 8})
"""


@contextlib.contextmanager
def private_trainer(tmp_path: Path, body: str) -> Iterator[TrainerProcess]:
    process = TrainerProcess.start(replace(spec_of(tmp_path, body), private=PRIVATE), timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def test_an_app_that_makes_no_private_step_under_dp_sgd_is_refused(tmp_path: Path) -> None:
    with private_trainer(tmp_path, WELL_BEHAVED) as process:
        assert refused(process).reason is Reason.APP_NOT_PRIVATE
        assert refused(process).reason is Reason.APP_NOT_PRIVATE  # this round failed, and the process lives


@pytest.mark.slow
def test_an_app_that_trains_privately_is_counted_round_by_round(tmp_path: Path) -> None:
    with private_trainer(tmp_path, PRIVATE_STEPS) as process:
        assert [process.train(MODEL, number, 120).private_steps for number in (1, 2)] == [3, 3]
