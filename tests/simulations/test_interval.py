"""Intervals are Student's, and say from how many figures they are."""

from __future__ import annotations

import math

import pytest

from simulations.interval import Interval


def test_the_interval_is_students() -> None:
    """Five figures 1 to 5: mean 3, s = √2.5, t(0.975; 4) = 2.776."""
    found = Interval.of([1, 2, 3, 4, 5])
    assert (found.mean, found.count) == (3.0, 5)
    assert found.half == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6)
    assert str(found) == "3.0 ± 2.0"


def test_one_figure_has_no_interval() -> None:
    assert Interval.of([0.25]) == Interval(0.25, None, 1)
    assert str(Interval.of([0.25])) == "0.250"


def test_equal_figures_have_an_interval_of_nothing() -> None:
    assert str(Interval.of([0.5, 0.5])) == "0.500 ± 0"


def test_no_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Interval.of([])


def test_a_figure_that_is_not_a_number_has_no_interval() -> None:
    assert Interval.of([1.0, math.nan]).half is None
