"""Judging at a site: labels and groups are the worker's, only counts leave, and the audit finds memory where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.scoring import Auc
from tests.enclave.evaluations import terms
from trusted.documents.terms import Evaluation
from trusted.errors import AppError, Reason
from trusted.tables import Tables
from worker.evaluation import Evaluator
from worker.rows import RECORD_BYTES, RowScores, kept_rows
from worker.strata import UNLABELLED, Strata, rows_of, without_columns, write_part
from worker.trainer import Judged

ROWS, FEATURES = 240, 120


def csv_of(folder: Path, rows: list[tuple[Any, ...]], name: str = "a.csv") -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["visits,sex,age", *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


# --- strata ----------------------------------------------------------------------------------------------------------


def test_rows_are_named_by_their_place_over_all_files_in_the_order_of_names(tmp_path):
    csv_of(tmp_path / "data", [(9, 0, 70)], "b.csv")
    csv_of(tmp_path / "data", [(1, 1, 17), (5, 1, 18)], "a.csv")
    found = Strata.read(tmp_path / "data", terms())
    assert found.labels.tolist() == [0, 1, 1]
    assert found.cells.tolist() == [[1, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("row", "label", "cells"),
    [
        ((5, 0, 18), 1, (0, 1)),
        ((4.999, "1.0", 17.999), 0, (1, 0)),
        ((5, "01", 64.9), 1, (1, 1)),
        ((5, 2, 65), 1, (2, 2)),
        (("", "", ""), UNLABELLED, (2, 3)),
        (("nan", "female", "nan"), UNLABELLED, (2, 3)),
        (("inf", "inf", "inf"), 1, (2, 3)),
    ],
)
def test_each_row_is_in_one_cell_of_each_subgroup(tmp_path, row, label, cells):
    found = Strata.read(csv_of(tmp_path / "data", [row]), terms())
    assert found.labels.tolist() == [label]
    assert tuple(found.cells[:, 0]) == cells


def test_words_are_values_too(tmp_path):
    given = terms(subgroups=[{"column": "sex", "values": ["f", "m"]}])
    found = Strata.read(csv_of(tmp_path / "data", [(1, "m", 3), (1, "f", 3), (1, "F", 3)]), given)
    assert found.cells.tolist() == [[1, 0, 2]]


def test_a_half_of_the_data_has_the_rows_that_its_seed_keeps(tmp_path):
    data = csv_of(tmp_path / "data", [(at, 0, '"a ""quoted"", one"') for at in range(40)])
    csv_of(data, [(at, 1, 7) for at in range(40, 60)], "b.csv")
    chosen = kept_rows(12345, 60)
    write_part(data, tmp_path / "half", chosen)
    kept = [int(row["visits"]) for row in rows_of(tmp_path / "half")]
    assert kept == np.flatnonzero(chosen).tolist()
    assert 10 < len(kept) < 50


def test_the_app_does_not_see_what_it_is_not_to_see(tmp_path):
    data = csv_of(tmp_path / "data", [(1, "f", '"7, or ""so"""'), (2, "m", 8)])
    csv_of(data, [(3, "f", 9)], "b.csv")
    assert without_columns(data, (), tmp_path / "same") == data
    seen = without_columns(data, ("sex",), tmp_path / "seen")
    assert list(rows_of(seen)) == [{key: row[key] for key in ("visits", "age")} for row in rows_of(data)]


# --- scores by row ---------------------------------------------------------------------------------------------------


def answer(**changes: Any) -> dict[str, Any]:
    arrays = {"row": np.array([2, 0]), "score": np.array([0.25, 1.0]), "held-out": np.array([1, 0], np.uint8)}
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_scores_by_row_are_read_and_shared():
    found = RowScores.read(answer(), admitted=3)
    memory = bytearray(3 * RECORD_BYTES)
    again = RowScores.copied(memory, found.write(memory), admitted=3)
    assert again.rows.tolist() == [2, 0]
    assert again.scores.tolist() == [0.25, 1.0]
    assert again.held_out.tolist() == [True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"row": np.array([2, 2])},
        {"row": np.array([3, 0])},
        {"row": np.array([-1, 0])},
        {"row": np.array([2.0, 0.0])},
        {"row": np.array([2])},
        {"row": np.array([[2], [0]])},
        {"row": np.array([], dtype=np.int64), "score": np.array([]), "held-out": np.array([], dtype=np.uint8)},
        {"row": np.arange(4), "score": np.zeros(4), "held-out": np.ones(4, dtype=np.uint8)},
        {"score": np.array([0.25, 1.0001])},
        {"score": np.array([-0.1, 1.0])},
        {"score": np.array([np.nan, 1.0])},
        {"score": np.array([0, 1])},
        {"held-out": np.array([2, 0])},
        {"held-out": None},
        {"more": np.array([1, 2])},
    ],
)
def test_scores_that_cannot_be_right_are_refused(changes):
    with pytest.raises(AppError) as refused:
        RowScores.read(answer(**changes), admitted=3)
    assert refused.value.reason is Reason.APP_ROWS


# --- the audit -------------------------------------------------------------------------------------------------------


class Sites:
    """A site whose labels are noise: a model that fits them remembers rows. It trains a real logistic regression.

    ``strength`` 0: the model is the one it began with.
    """

    def __init__(self, *, strength: float, seed: int = 0, rows: int = ROWS) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(rows, FEATURES))
        self.y = rng.integers(0, 2, rows)
        self.held_out = np.arange(rows) % 2 == 0
        self.strength = strength
        self.shadows: list[int] = []
        self.fail_after: int | None = None

    @property
    def strata(self) -> Strata:
        sexes = np.arange(len(self.y)) % 2
        return Strata(self.y.astype(np.uint8), np.stack([sexes, np.zeros_like(sexes)]).astype(np.uint8))

    def fit(self, rows: np.ndarray) -> np.ndarray:
        weights = np.zeros(FEATURES)
        for _ in range(int(60 * self.strength)):
            chances = 1 / (1 + np.exp(-self.x[rows] @ weights))
            weights += 0.5 * self.x[rows].T @ (self.y[rows] - chances) / max(1, rows.sum())
        return weights.astype(np.float32)

    def scores(self, model: np.ndarray) -> RowScores:
        chances = 1 / (1 + np.exp(-self.x @ model))
        return RowScores(np.arange(len(self.y), dtype=np.uint32), chances.astype(np.float32), self.held_out)

    def judge(self, model: np.ndarray, round: int, timeout_s: float) -> Judged:
        return Judged(int(self.held_out.sum()), {"auc": 0.5, "secret": 1.0}, self.scores(model))

    def shadow(self, initial: np.ndarray, seed: int, calls: int, timeout_s: float) -> RowScores:
        self.shadows.append(seed)
        if self.fail_after is not None and len(self.shadows) > self.fail_after:
            raise AppError(Reason.AUDIT_SHADOWS, "x")
        return self.scores(self.fit(kept_rows(seed, len(self.y)) & ~self.held_out))


GIVEN = terms(audit={"shadows": 8, "calls": 1})


def evaluated(site: Sites, given: Evaluation = GIVEN, **changes: Any) -> tuple[dict[str, Any], Tables | None]:
    evaluator = Evaluator(given, site.strata, site, frozenset({"auc"}), changes.pop("timeout_s", 60.0))
    model = changes.pop("model", site.fit(~site.held_out))
    initial = changes.pop("initial", np.zeros(FEATURES, np.float32))
    message = evaluator.evaluate(model, 3, initial, lambda stage, percent: None)
    text = message["tables"]
    return message, None if text is None else Tables.decode(bytes.fromhex(text), given, max_rows=10_000)


def test_an_overfitted_model_is_found_out_by_both_attacks():
    message, tables = evaluated(Sites(strength=3))
    assert message["reasons"] == {}
    for audit in tables.audits:
        found = Auc.of(audit)
        assert found.value - found.bound - 2 * found.standard_error > 0.6


def test_a_model_that_has_learnt_nothing_is_not_found_to_remember():
    for seed in range(3):
        site = Sites(strength=0, seed=seed)
        noise = np.random.default_rng(99).normal(size=FEATURES).astype(np.float32) * 0.3
        _, tables = evaluated(site, model=noise)
        for audit in tables.audits:
            found = Auc.of(audit)
            assert abs(found.value - 0.5) <= 3 * found.standard_error + found.bound


def test_a_model_of_other_people_is_not_found_to_remember():
    other = Sites(strength=3, seed=1)
    _, tables = evaluated(Sites(strength=3, seed=2), model=other.fit(~other.held_out))
    for audit in tables.audits:
        found = Auc.of(audit)
        assert abs(found.value - 0.5) <= 3 * found.standard_error + found.bound


def test_only_counts_of_held_out_rows_are_scores_and_the_audit_counts_the_others():
    site = Sites(strength=1)
    message, tables = evaluated(site)
    assert set(message) == {"type", "round", "rows", "metrics", "tables", "reasons"}
    assert message["metrics"] == {"auc": 0.5}, "a metric that the plan does not list stays here"
    assert tables.rows == ROWS // 2
    assert tables.audits[0].sum(axis=0).tolist() == [ROWS // 2, ROWS // 2]
    assert len(message["tables"]) == 8 * GIVEN.counts


def test_the_answer_has_one_length_whatever_the_data():
    sizes = {len(evaluated(Sites(strength=1, seed=seed, rows=rows))[0]["tables"]) for seed, rows in ((1, 40), (2, 900))}
    assert len(sizes) == 1


def test_asked_again_for_the_same_model_it_says_the_same():
    site = Sites(strength=1)
    evaluator = Evaluator(GIVEN, site.strata, site, frozenset(), 60.0)
    model, initial = site.fit(~site.held_out), np.zeros(FEATURES, np.float32)
    first = evaluator.evaluate(model, 3, initial, lambda stage, percent: None)
    assert evaluator.evaluate(model, 3, initial, lambda stage, percent: None) is first
    assert len(site.shadows) == 8
    evaluator.evaluate(model + 1, 3, initial, lambda stage, percent: None)
    assert len(site.shadows) == 16


def test_rows_without_a_label_are_judged_by_nobody():
    site = Sites(strength=1)
    evaluator = Evaluator(GIVEN, site.strata, site, frozenset(), 60.0)
    labels = evaluator.strata.labels.copy()
    labels[:40] = UNLABELLED
    evaluator.strata = replace(evaluator.strata, labels=labels)
    text = evaluator.evaluate(site.fit(~site.held_out), 3, None, lambda stage, percent: None)["tables"]
    assert Tables.decode(bytes.fromhex(text), GIVEN, max_rows=1000).rows == ROWS // 2 - 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"initial": None}, Reason.AUDIT_INITIAL),
        ({"timeout_s": 0.0}, Reason.APP_TIMEOUT),
        ({"given": terms()}, Reason.AUDIT_SHADOWS),
    ],
)
def test_a_shadow_attack_that_did_not_run_says_why_and_the_threshold_is_told(changes, reason):
    message, tables = evaluated(Sites(strength=1), **changes)
    assert message["reasons"] == {"shadow": int(reason)}
    assert tables.audits[0].any()
    assert not tables.audits[1].any()


def test_an_app_that_trains_on_other_data_than_it_is_given_makes_no_shadow():
    site = Sites(strength=1)
    site.fail_after = 0
    message, tables = evaluated(site)
    assert message["reasons"] == {"shadow": int(Reason.AUDIT_SHADOWS)}
    assert not tables.audits[1].any()


def test_an_app_that_names_no_row_it_trained_on_cannot_be_audited():
    site = Sites(strength=1)
    model = site.fit(~site.held_out)
    site.held_out = np.ones(ROWS, dtype=bool)
    message, tables = evaluated(site, model=model)
    assert message["reasons"] == {name: int(Reason.APP_ROWS) for name in ("loss_threshold", "shadow")}
    assert not any(audit.any() for audit in tables.audits)
    assert tables.rows == ROWS


def test_an_app_without_the_hook_answers_with_metrics_alone():
    site = Sites(strength=1)
    site.judge = lambda model, round, timeout_s: Judged(7, {"auc": 0.7}, None)
    message, tables = evaluated(site)
    assert tables is None
    assert message["metrics"] == {"auc": 0.7}
    assert message["rows"] == 7
    assert message["reasons"] == {"scores": int(Reason.APP_ROWS)}
