"""Every attack hurts where nothing stands against it, before a rule is credited with standing it; and which do not."""

from __future__ import annotations

import numpy as np
import pytest

from simulations import behaviours as act
from simulations.simulation import Simulation
from simulations.undefended import undefended
from tests.simulations import attacked
from tests.simulations.attacked import ATTACKS, NOTHING, RARELY, TOLERANCE, Attack, accuracy, ended, success
from tests.simulations.digits import FUNCTION, LIARS, ROUNDS, SITES, baseline, data, under
from trusted.errors import Reason

HELD = [(attack, rule) for attack in ATTACKS for rule in attack.holds]
FAILED = [(attack, rule) for attack in ATTACKS for rule in attack.fails]


def named(value: object) -> str:
    return value.name if isinstance(value, Attack) else str(value)


def test_without_an_attack_digits_are_learnt_under_every_rule() -> None:
    for rule in (NOTHING, *attacked.RULES):
        assert ended(rule, (), ROUNDS)["accuracy"] > 0.87, rule


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_every_attack_hurts_where_nothing_is_made_against_it(attack: Attack) -> None:
    quiet, hurt = accuracy(attack, attack.made_for)
    if attack.aims:
        assert success(attack, attack.made_for) > attack.least
        assert ended(attack.made_for, attack.behaviours, attack.rounds)["accuracy"] > quiet - 0.06  # nobody notices
    else:
        assert hurt < quiet - attack.least


@pytest.mark.parametrize(("attack", "rule"), HELD, ids=named)
def test_a_rule_that_is_said_to_hold_holds(attack: Attack, rule: str) -> None:
    quiet, still = accuracy(attack, rule)
    assert still > quiet - TOLERANCE
    if attack.aims:
        assert success(attack, rule) <= RARELY


@pytest.mark.parametrize(("attack", "rule"), FAILED, ids=named)
def test_a_rule_that_is_said_not_to_hold_does_not(attack: Attack, rule: str) -> None:
    if attack.aims:
        assert success(attack, rule) > RARELY
    else:
        quiet, hurt = accuracy(attack, rule)
        assert hurt < quiet - TOLERANCE


def test_the_mean_that_checks_nothing_is_the_aggregators_where_there_is_nothing_to_check() -> None:
    """What an attack costs there is the attack's doing, and not the baseline's."""
    assert baseline()["accuracy"] == pytest.approx(under(attacked.RULES["weighted-mean"])["accuracy"], abs=0.01)


def test_the_same_seed_gives_the_same_harm() -> None:
    attack = ATTACKS[4]
    assert attack.name == "noise"
    assert baseline(attack.behaviours, 3) == baseline(attack.behaviours, 3)
    assert under(attacked.RULES["median"], attack.behaviours, 3) == under(
        attacked.RULES["median"], attack.behaviours, 3
    )


def test_more_free_riders_than_krum_was_told_of_are_all_that_it_keeps() -> None:
    """Updates of zeros lie in the middle of all others: a rule that looks for the middle finds them."""
    four = tuple(f"site-{place:04d}" for place in range(SITES - 4, SITES))
    riders = (act.idle(four),)
    assert baseline(riders)["accuracy"] > baseline()["accuracy"] - 0.1
    for rule in ("krum", "multi-krum"):
        assert under(attacked.RULES[rule], riders)["accuracy"] < 0.3


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [(act.nan(LIARS), Reason.NON_FINITE), (act.overweight(LIARS, times=20), Reason.WEIGHT)],
    ids=["NaN", "overweight"],
)
def test_what_is_refused_is_refused_by_its_reason_and_costs_its_sender_alone(behaviour, reason) -> None:
    known, partition, held_out = data()
    result = Simulation(
        FUNCTION, known, partition, rounds=1, aggregation={"rule": "weighted-mean", "max_weight": 300},
        held_out=held_out, behaviours=(behaviour,), engine="in-process",
    ).run()  # fmt: skip
    (row,) = result.rounds
    assert dict(row.lost) == dict.fromkeys(LIARS, reason)
    assert set(row.counted) == set(partition.names) - set(LIARS)


def test_nothing_is_checked_where_nothing_is_checked() -> None:
    known, partition, held_out = data()
    found = undefended(
        FUNCTION, known, partition, rounds=1, held_out=held_out, behaviours=(act.nan(LIARS[:1]),)
    )  # fmt: skip
    assert found["accuracy"] == pytest.approx(np.mean(held_out.column("digit") == 0))  # NaN scores: the first digit
