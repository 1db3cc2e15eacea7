"""AUC, calibration and confusion of binned scores, against scikit-learn on the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score

from coordinator.enclave.scoring import Auc, Confusion, calibration_error
from trusted.tables import bin_of, counted


def drawn(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    y[:2] = 0, 1
    logit = rng.normal(y * rng.uniform(0, 3), rng.uniform(0.2, 3))
    return y, 1 / (1 + np.exp(-logit))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 3000), st.sampled_from([2, 10, 100, 1000]))
def test_auc_is_that_of_scikit_learn_within_the_bound_that_is_told(seed, rows, bins):
    y, scores = drawn(seed, rows)
    found = Auc.of(counted(bin_of(scores, bins), y, bins))
    assert abs(found.value - roc_auc_score(y, scores)) <= found.bound + 1e-12
    told = found.to_json(3)
    assert abs(told["auc"] - roc_auc_score(y, scores)) <= told["auc_binning_error_at_most"] + 0.0005 + 1e-12


def test_the_bound_is_small_with_a_hundred_bins():
    y, scores = drawn(3, 5000)
    assert Auc.of(counted(bin_of(scores, 100), y, 100)).bound < 0.01


def test_auc_of_scores_that_are_bins_is_exact_with_ties():
    y = np.array([0, 0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.4, 0.1])
    assert Auc.of(counted(bin_of(scores, 10), y, 10)).value == pytest.approx(roc_auc_score(y, scores))


def test_auc_of_one_class_is_no_number():
    with pytest.raises(ValueError, match="one class"):
        Auc.of(np.array([[3, 0], [4, 0]]))


def test_the_standard_error_is_that_of_resampling():
    y, scores = drawn(1, 600)
    found = Auc.of(counted(bin_of(scores, 1000), y, 1000))
    rng = np.random.default_rng(0)
    again = []
    for _ in range(300):
        rows = rng.integers(0, 600, 600)
        again.append(roc_auc_score(y[rows], scores[rows]))
    assert found.standard_error == pytest.approx(np.std(again), rel=0.2)


def test_confusion_is_that_of_scikit_learn():
    y, scores = drawn(2, 500)
    found = Confusion.of(counted(bin_of(scores, 100), y, 100), 40)
    tn, fp, fn, tp = confusion_matrix(y, bin_of(scores, 100) >= 40).ravel()
    assert found.counts == (tp, fp, tn, fn)


def test_calibration_error_is_within_half_a_bin():
    y, scores = drawn(4, 4000)
    table = counted(bin_of(scores, 50), y, 50)
    exact = 0.0
    places = bin_of(scores, 50)
    for tenth in range(10):
        rows = places // 5 == tenth
        exact += rows.mean() * abs(y[rows].mean() - scores[rows].mean())
    assert abs(calibration_error(table) - exact) <= 1 / 100


def test_the_last_bin_holds_its_upper_edge():
    assert bin_of(np.array([0.0, 0.999, 1.0]), 10).tolist() == [0, 9, 9]
