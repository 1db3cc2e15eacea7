"""A wall clock against one that only counts: jumps are seen, once each, and drift adds up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.world import NOW
from trusted.clock import TOLERANCE, JumpDetector


@pytest.mark.parametrize("years", [-40, -1, 1, 40])
def test_a_jump_is_told_once_and_the_way_back_as_another(years: int) -> None:
    jumps, by = JumpDetector(NOW, 100.0), timedelta(days=365 * years)
    assert jumps.jump(NOW + timedelta(seconds=5), 105.0) is None
    assert jumps.jump(NOW + by + timedelta(seconds=6), 106.0) == by
    assert jumps.jump(NOW + by + timedelta(seconds=7), 107.0) is None
    assert jumps.jump(NOW + timedelta(seconds=8), 108.0) == -by


def test_time_that_both_clocks_count_is_no_jump() -> None:
    jumps = JumpDetector(NOW, 0.0)
    assert jumps.jump(NOW + timedelta(days=30), 30 * 86400.0) is None  # the machine slept


def test_small_steps_add_up() -> None:
    jumps, step = JumpDetector(NOW, 0.0), TOLERANCE / 4
    assert [jumps.jump(NOW + number * step, 0.0) for number in range(1, 5)] == [None] * 4
    assert jumps.jump(NOW + 5 * step, 0.0) == 5 * step
