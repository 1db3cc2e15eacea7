"""A clock that jumps by years, in either direction, is not followed at once; one that is corrected is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trusted.clock import SteadyClock

START = datetime(2026, 3, 1, tzinfo=UTC)
YEARS = timedelta(days=3650)


class Machine:
    """Its clock, and its uptime."""

    def __init__(self) -> None:
        self.wrong = timedelta()
        self.lived_s = 1000.0
        self.told: list[float] = []
        self.clock = SteadyClock(self.told.append, self.wall, lambda: self.lived_s)

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.lived_s - 1000) + self.wrong

    def after(self, seconds: float) -> timedelta:
        """What the clock gives so much later, less what is true."""
        self.lived_s += seconds
        return self.clock() - (START + timedelta(seconds=self.lived_s - 1000))


@pytest.mark.parametrize("by", [YEARS, -YEARS, timedelta(seconds=31), timedelta(seconds=-31)])
def test_a_jump_that_is_set_right_again_was_never_there_and_is_told_once(by):
    machine = Machine()
    machine.wrong = by
    assert [machine.after(1), machine.after(200)] == [timedelta(), timedelta()]
    machine.wrong = timedelta()
    assert machine.after(1) == timedelta()
    assert machine.told == [by.total_seconds()]


@pytest.mark.parametrize("by", [YEARS, -YEARS])
def test_a_jump_that_lasts_is_believed(by):
    machine = Machine()
    machine.wrong = by
    assert machine.after(1) == timedelta()
    assert machine.after(299) == timedelta()
    assert machine.after(1) == by
    assert machine.after(1000) == by
    assert len(machine.told) == 1


@pytest.mark.parametrize("by", [timedelta(seconds=30), timedelta(seconds=-30)])
def test_a_step_of_everyday_life_is_followed_at_once(by):
    machine = Machine()
    machine.wrong = by
    assert machine.after(1) == by
    assert machine.told == []


def test_a_second_jump_while_the_first_lasts_starts_no_new_wait():
    machine = Machine()
    machine.wrong = YEARS
    machine.after(1)
    machine.wrong = 2 * YEARS
    assert machine.after(299) == timedelta()
    assert machine.after(1) == 2 * YEARS


def test_time_that_the_machine_slept_through_has_passed():
    machine = Machine()
    machine.lived_s += 36_000
    assert machine.after(0) == timedelta()
    assert machine.told == []
