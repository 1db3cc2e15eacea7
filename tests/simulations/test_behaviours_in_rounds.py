"""Behaviours in whole simulations: who is lost and why, what time passes, and the same bits in every engine."""

from __future__ import annotations

import numpy as np
import pytest

from simulations import behaviours as act
from simulations.result import Ending
from tests.simulations.linear import SITES, simulation
from trusted.errors import Reason

NAMES = tuple(f"site-{place:04d}" for place in range(SITES))


def test_who_drops_out_is_missed_for_a_lease_and_costs_its_own_contribution_only() -> None:
    result = simulation(behaviours=[act.dropouts(NAMES[:3], chance=1.0)]).run()
    assert all(row.counted == NAMES[3:] for row in result.rounds)
    assert all(dict(row.lost) == dict.fromkeys(NAMES[:3], Reason.MEMBER_SILENT) for row in result.rounds)
    assert all(row.virtual_s == 120 for row in result.rounds)
    assert result.rounds[-1].evaluated["accuracy"] > 0.9


def test_an_outage_of_most_sites_brings_a_round_to_nothing_and_others_go_on() -> None:
    (outage,) = act.outages({"north": NAMES[:6]}, chance=0.4, seed=1)
    result = simulation(behaviours=[outage], minimum=5, rounds=20).run()
    kinds = {len(row.counted) for row in result.rounds}
    assert kinds == {0, SITES}
    assert {row.abandoned for row in result.rounds if not row.counted} == {Reason.COHORT_MINIMUM}


def test_an_outage_without_end_ends_the_run() -> None:
    (outage,) = act.outages({"north": NAMES[:6]}, chance=1.0)
    assert simulation(behaviours=[outage], minimum=5).run().ending is Ending.ABANDONED


def test_a_slow_link_is_waited_for_until_the_deadline_and_no_longer() -> None:
    deadlines = {"round_s": 60, "lease_s": 50, "reattest_s": 25}
    quick = simulation(behaviours=[act.slow_links(NAMES[:1], up_mbit_s=1, latency_s=30)], deadlines=deadlines).run()
    assert all(len(row.counted) == SITES and 30 < row.virtual_s < 60 for row in quick.rounds)
    slow = simulation(behaviours=[act.slow_links(NAMES[:1], up_mbit_s=1e-6)], deadlines=deadlines).run()
    assert all(row.counted == NAMES[1:] and row.virtual_s == 60 for row in slow.rounds)
    assert {reason for row in slow.rounds for reason in row.lost.values()} == {Reason.ROUND_DEADLINE}


def test_stragglers_make_a_round_as_long_as_the_slowest() -> None:
    usual, slowed = (
        simulation(behaviours=given).run().rounds[0].virtual_s for given in ([], [act.stragglers(0.1, times=7)])
    )
    assert slowed == pytest.approx(7 * usual, rel=0.01)


def test_sites_that_come_late_and_leave_are_not_drawn_while_they_are_not_there() -> None:
    told = [act.joining(NAMES[:4], first_round=3), act.leaving(NAMES[8:], last_round=1)]
    result = simulation(behaviours=told).run()
    assert [row.present for row in result.rounds] == [6, 4, 8, 8, 8]
    assert result.rounds[0].counted == NAMES[4:]


def test_churn_is_the_same_for_the_same_seed() -> None:
    first, again = (simulation(behaviours=act.churn(NAMES, within=3, stays=30)).run() for _ in range(2))
    assert [row.counted for row in first.rounds] == [row.counted for row in again.rounds]
    assert first.rounds[0].present < first.rounds[3].present


@pytest.mark.parametrize("engine", ["in-process", "pool"])
def test_poisons_forgeries_and_probes_are_the_same_in_every_engine(engine: str) -> None:
    door = act.backdoor(NAMES[:2], trigger=act.Patch("x", (0, 1), 9.0), label="y", target=1)
    told = [door, act.scaled(NAMES[:2], times=3), act.noise(NAMES[2:3], deviation=0.1)]
    one, other = simulation(behaviours=told).run(), simulation(behaviours=told, engine=engine).run()
    assert one.model.tobytes() == other.model.tobytes()
    assert [row.evaluated for row in one.rounds] == [row.evaluated for row in other.rounds]
    quiet = simulation(behaviours=[act.backdoor((), trigger=act.Patch("x", (0, 1), 9.0), label="y", target=1)]).run()
    assert other.rounds[-1].evaluated["backdoor-accuracy"] > 0.7
    assert quiet.rounds[-1].evaluated["backdoor-accuracy"] < 0.5
    assert not np.array_equal(quiet.model, other.model)
