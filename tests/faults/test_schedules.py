"""Whatever dies, is cut, fills up or jumps: a run ends with the model of the undisturbed run, bit for bit."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

import pytest

from coordinator.enclave.rounds import TABLE, RoundState
from tests.faults.conftest import SAMPLE, SAMPLE_S
from tests.faults.crash_points import Moment
from tests.faults.relay import Link, Way
from tests.faults.schedules import ClockJump, Counted, Crash, DiskFull, draw
from trusted.channel.states import AGGREGATOR_TABLE, WORKER_TABLE, State

# What an undisturbed run does not pass: refusals, and what follows from them.
_ONLY_IN_TROUBLE = {RoundState.ABANDONED}


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(0)
def test_every_schedule_ends_with_the_model_of_the_undisturbed_run(request: pytest.FixtureRequest, run_module) -> None:
    asked, seed = request.config.getoption("--schedules"), request.config.getoption("--seed")
    limit = () if asked else ("--until-s", str(SAMPLE_S))
    outcomes = list(run_module("", "--seed", seed, "--schedules", str(asked or SAMPLE), *limit))
    counted, schedules = outcomes[0], outcomes[1:]
    assert schedules
    if asked:
        assert len(schedules) == asked
    failed = [outcome for outcome in schedules if not outcome["passed"]]
    for outcome in failed:
        print(f"python -m tests.faults --seed {seed} --first {outcome['number']} --schedules 1 --keep: {outcome}")
    if failed:
        print(
            f"--counted takes a file of this line, where the numbers of moments must be the same: {json.dumps(counted)}"
        )
    print(
        f"{len(schedules) - len(failed)} of {len(schedules)} schedules passed; undisturbed {counted}", file=sys.stderr
    )
    assert not failed, "; ".join(f"{one['number']}: {one['why']}, {one['faults']}" for one in failed)


@pytest.mark.slow
@pytest.mark.faults
def test_an_undisturbed_run_passes_every_transition_that_no_refusal_causes(run_module) -> None:
    (counted,) = run_module("", "--schedules", "0")
    passed = {process: set(points) for process, points in counted["points"].items()}
    rounds = [(state, event) for (state, event), after in TABLE.items() if after not in _ONLY_IN_TROUBLE]
    for state, event in rounds:
        if (state.name, event.name) != ("CLOSED", "LOST"):
            assert f"after round {state.name}+{event.name}" in passed["aggregator"]
    for process, table in (("aggregator", AGGREGATOR_TABLE), ("site-1", WORKER_TABLE)):
        for state, kind in table:
            assert f"before admission {state.name}+{kind.name}" in passed[process]
    assert State.OPEN in AGGREGATOR_TABLE.values()


def _counted() -> Counted:
    points: dict[str, Any] = {
        "host": {"before row append_event": 40, "after file write": 9},
        "aggregator": {"before round COLLECTING+ENOUGH": 2, "after journal certify": 7},
        "site-1": {"before admission OPEN+RECORD": 12},
        "site-2": {"before vault write": 6},
    }
    return Counted(points, {(link, way): 50 for link in Link for way in Way}, 30)


def test_the_same_seed_draws_the_same_schedules_and_another_one_others() -> None:
    first = [draw("a", number, _counted()) for number in range(50)]
    assert first == [draw("a", number, _counted()) for number in range(50)]
    assert [s.faults for s in first] != [draw("b", number, _counted()).faults for number in range(50)]


def test_so_many_schedules_as_there_are_moments_draw_every_kind_of_fault() -> None:
    counted = _counted()
    drawn = [draw("a", number, counted) for number in range(500)]
    assert {schedule.kind for schedule in drawn} == {"one", "pair", "all", "again", "cut", "frames", "disk", "clock"}
    crashes = [fault for schedule in drawn for fault in schedule.faults if isinstance(fault, Crash)]
    assert {(crash.process, crash.moment) for crash in crashes if crash.life == 1} == set(counted.moments())
    assert any(isinstance(fault, DiskFull) for schedule in drawn for fault in schedule.faults)
    jumps = [fault.jump.by for schedule in drawn for fault in schedule.faults if isinstance(fault, ClockJump)]
    assert min(jumps) < timedelta() < max(jumps)


def test_moments_of_a_point_that_is_passed_often_are_spread_over_all_of_it() -> None:
    chosen = [moment.nth for process, moment in _counted().moments() if moment.point == "before row append_event"]
    assert (chosen[0], chosen[-1]) == (1, 40)
    assert len(chosen) == 12
    assert Moment("before vault write", 6) in [moment for _, moment in _counted().moments()]
