"""Vectors and named arrays, and what is refused of an app's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.flower_apps import LAYOUT
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.errors import AppError, Reason
from worker.trainer import MAX_METRICS, Arrays, Call, Reply, Trainer, join_arrays, split_vector

MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
GOOD: dict[str, object] = {"num-examples": 5, "loss": 0.25}


class Answers:
    """An app that gives a prepared answer to training, and another to evaluation where it has one."""

    def __init__(
        self, metrics: Mapping[str, object], judged: Mapping[str, object] | None = None, **arrays: Any
    ) -> None:
        self.metrics, self.judged, self.arrays = metrics, judged, arrays

    def offers(self, call: Call) -> bool:
        return call is Call.TRAIN or self.judged is not None

    def ask(self, call: Call, arrays: Arrays, *, round_number: int) -> Reply:
        if call is Call.EVALUATE:
            return Reply({}, self.judged or {})
        return Reply({**arrays, **self.arrays}, self.metrics)


def train(app: Answers, said: list[str] | None = None):
    return Trainer(app, LAYOUT, (said if said is not None else []).append).train(MODEL, 1)


def refused(app: Answers) -> str:
    with pytest.raises(AppError) as error:
        train(app)
    assert error.value.reason is Reason.APP_REPLY
    return error.value.detail


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(Dtype), shapes), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_any_layout_and_any_whole_numbers_come_back_as_they_were(tensors, seed: int) -> None:
    layout = Layout(tuple(TensorSpec(f"t{i}", dtype, shape) for i, (dtype, shape) in enumerate(tensors)))
    vector = np.random.default_rng(seed).integers(-(2**24), 2**24, layout.elements).astype(np.float32)
    arrays = split_vector(layout, vector)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())  # a scalar too: Flower takes nothing else
    assert [array.dtype.name for array in arrays.values()] == [dtype.value for dtype, _ in tensors]
    assert [array.shape for array in arrays.values()] == [shape for _, shape in tensors]
    np.testing.assert_array_equal(join_arrays(layout, arrays), vector)


def test_a_float_comes_back_bit_for_bit_and_an_integer_is_rounded() -> None:
    vector = MODEL + np.float32(0.1)
    back = join_arrays(LAYOUT, split_vector(LAYOUT, vector))
    np.testing.assert_array_equal(back[:7].view(np.uint32), vector[:7].view(np.uint32))
    np.testing.assert_array_equal(back[7:], np.rint(vector[7:]))


def test_a_double_keeps_24_bits_and_what_float32_cannot_hold_is_refused() -> None:
    layout = Layout((TensorSpec("w", Dtype.FLOAT64, (3,)),))
    given = np.array([1 / 3, -1e-30, 3e38])
    back = join_arrays(layout, {"w": given})
    assert np.abs(back / given - 1).max() <= 2**-24
    assert split_vector(layout, back)["w"].dtype == np.float64
    for wrong in (given * 2, given * np.nan, given.astype(np.float32)):
        with pytest.raises(AppError) as error:
            join_arrays(layout, {"w": wrong})
        assert error.value.reason is Reason.APP_REPLY


def test_the_app_cannot_write_into_the_model_it_was_given() -> None:
    vector = MODEL.copy()
    split_vector(LAYOUT, vector)["w"][:] = 99
    np.testing.assert_array_equal(vector, MODEL)


@pytest.mark.parametrize(
    "wrong", [MODEL[:-1], np.append(MODEL, np.float32(0)), MODEL.astype(np.float64), MODEL.reshape(3, 3)]
)
def test_a_model_of_another_form_is_the_callers_error(wrong) -> None:
    with pytest.raises(ValueError, match="float32"):
        split_vector(LAYOUT, wrong)


def test_the_delta_is_trained_minus_given() -> None:
    result = train(Answers(GOOD, w=np.full((2, 3), 10, np.float32)))
    np.testing.assert_array_equal(result.delta, np.append(10 - MODEL[:6], [0, 0, 0]))
    assert result.delta.dtype == np.float32
    assert (result.num_examples, result.metrics) == (5, {"loss": 0.25})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2), np.float32), np.zeros(6, np.float32), np.zeros((2, 3, 1), np.float32),
        np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float64), np.zeros((2, 3), np.int64), np.zeros((2, 3), bool),
        np.full((2, 3), np.nan, np.float32), np.full((2, 3), -np.inf, np.float32),
    ],
)  # fmt: skip
def test_another_shape_dtype_or_a_number_that_is_not_finite_is_refused(array) -> None:
    assert "expected" in refused(Answers(GOOD, w=array))


def test_a_name_missing_or_too_many_is_refused() -> None:
    assert "names" in refused(Answers(GOOD, extra=np.zeros(1, np.float32)))
    arrays = split_vector(LAYOUT, MODEL)
    del arrays["scale"]
    with pytest.raises(AppError):
        join_arrays(LAYOUT, arrays)


def test_a_difference_that_overflows_is_refused() -> None:
    most = np.finfo(np.float32).max
    app = Answers(GOOD, w=np.full((2, 3), most, np.float32))
    with pytest.raises(AppError) as error:
        Trainer(app, LAYOUT, print).train(
            np.full(LAYOUT.elements, -most, np.float32) * np.r_[np.ones(6), 0, 0, 0].astype("f4"), 1
        )
    assert error.value.reason is Reason.APP_REPLY


@pytest.mark.parametrize("count", [None, 0, -1, 1.5, math.nan, math.inf, 2**53 + 2, [5], True, "5"])
def test_a_number_of_examples_that_is_no_count_is_refused(count: object) -> None:
    metrics = {"loss": 0.1} if count is None else {"num-examples": count}
    refused(Answers(metrics))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "Ada", None, True, 10**400])
def test_a_metric_that_is_not_a_finite_number_is_refused_without_its_value(value: object) -> None:
    assert "Ada" not in refused(Answers({**GOOD, "loss": value}))


def test_a_list_of_numbers_could_carry_rows_and_stays_at_the_site() -> None:
    said: list[str] = []
    assert train(Answers({**GOOD, "losses": [0.1, 0.2]}), said).metrics == {"loss": 0.25}
    assert "losses" in said[0]


def test_too_many_metrics_or_too_long_a_name_is_refused() -> None:
    refused(Answers({**GOOD, **{f"m{i}": 1.0 for i in range(MAX_METRICS)}}))
    refused(Answers({**GOOD, "x" * 65: 1.0}))
    refused(Answers({**GOOD, "": 1.0}))


def test_held_out_metrics_join_those_of_training_without_hiding_them() -> None:
    result = train(Answers(GOOD, judged={"num-examples": 3, "auc": 0.7, "loss": 0.9}))
    assert result.metrics == {"loss": 0.25, "auc": 0.7, "eval-loss": 0.9}
    assert result.num_examples == 5


def test_a_held_out_metric_that_is_not_finite_is_refused() -> None:
    refused(Answers(GOOD, judged={"num-examples": 3, "auc": math.nan}))
