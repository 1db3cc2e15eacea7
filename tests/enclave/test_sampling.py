"""Cohorts and upload names are drawn from the seed: the same again for who has it, and nothing for who has not."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise, product

import pytest

from coordinator.enclave.sampling import upload_name
from trusted.ledger.sampling import commitment, drawn
from trusted.wire import pack, sha256

SEED = sha256(b"a seed")
MEMBERS = tuple(f"site-{number}" for number in range(1, 7))


def test_a_cohort_is_drawn_again_from_the_same_seed_whatever_the_order_of_members():
    cohort = drawn(SEED, 1, MEMBERS, 3)
    assert drawn(SEED, 1, MEMBERS[::-1], 3) == drawn(SEED, 1, frozenset(MEMBERS), 3) == cohort
    assert len(set(cohort)) == 3
    assert list(cohort) == sorted(cohort)
    assert set(cohort) <= set(MEMBERS)


def test_this_draw_never_changes():
    """Auditors draw again what an earlier version drew: known answers, made once."""
    known = [drawn(bytes(32), number, MEMBERS, 2) for number in (1, 2, 3)]
    assert known == [("site-1", "site-6"), ("site-1", "site-6"), ("site-1", "site-3")]


@pytest.mark.parametrize("size", [6, 7, 100])
def test_everybody_is_drawn_where_as_many_are_wanted(size):
    assert drawn(SEED, 1, MEMBERS, size) == MEMBERS


def test_nobody_is_drawn_from_nobody():
    assert drawn(SEED, 1, (), 3) == ()


def test_who_is_drawn_from_more_is_drawn_from_fewer():
    """A lot is a member's own: that another one is away moves nobody out."""
    cohort = drawn(SEED, 1, MEMBERS, 3)
    for away in set(MEMBERS) - set(cohort):
        assert drawn(SEED, 1, set(MEMBERS) - {away}, 3) == cohort


def test_the_draw_depends_on_seed_and_round():
    by_round = {drawn(SEED, number, MEMBERS, 3) for number in range(1, 60)}
    by_seed = {drawn(sha256(bytes([number])), 1, MEMBERS, 3) for number in range(60)}
    assert min(len(by_round), len(by_seed)) > 10  # of 20; fewer once in 10^8 seeds, and these never change


def test_every_cohort_is_drawn_equally_often():
    """χ² over the 20 cohorts of 3 of 6, 19 degrees of freedom: above 43.8 once in 1000 seeds; this seed is fixed."""
    rounds = 4000
    found = Counter(drawn(SEED, number, MEMBERS, 3) for number in range(1, rounds + 1))
    cohorts = list(combinations(MEMBERS, 3))
    expected = rounds / len(cohorts)
    assert sum((found[cohort] - expected) ** 2 / expected for cohort in cohorts) < 43.8


def test_rounds_are_drawn_independently():
    """χ² over pairs of cohorts of 1 of 6 that follow each other, 35 degrees: above 66.6 once in 1000 seeds."""
    winners = [drawn(SEED, number, MEMBERS, 1)[0] for number in range(1, 3602)]
    found = Counter(pairwise(winners))
    pairs = list(product(MEMBERS, MEMBERS))
    assert sum((found[pair] - 100) ** 2 / 100 for pair in pairs) < 66.6


def test_the_check_of_uniformity_can_fail():
    """Positive control: one member favoured by a twentieth is found by the same figures."""
    rounds = 4000
    found = Counter(
        drawn(SEED, number, MEMBERS[:-1] if number % 20 == 0 else MEMBERS, 3) for number in range(1, rounds + 1)
    )
    cohorts = list(combinations(MEMBERS, 3))
    skewed = Counter({cohort: found[cohort] * (1.2 if MEMBERS[0] in cohort else 0.8) for cohort in cohorts})
    assert sum((skewed[cohort] - 200) ** 2 / 200 for cohort in cohorts) > 43.8


def test_upload_names_differ_by_round_member_start_and_seed_and_are_the_same_again():
    def name(seed=SEED, number=1, member="site-1", key=bytes(32)) -> bytes:
        return upload_name(seed, number, member, key)

    names = [name(), name(seed=bytes(32)), name(number=2), name(member="site-2"), name(key=b"\1" * 32)]
    assert len(set(names)) == len(names)
    assert {len(each) for each in names} == {16}
    assert name() == name()


def test_no_two_fields_run_into_each_other():
    assert upload_name(SEED, 1, "site-1", b"1" * 32) != upload_name(SEED, 1, "site-11", b"1" * 31)


def test_a_commitment_binds_the_seed_and_is_no_lot():
    assert commitment(SEED) == sha256(pack("cloister/sampling-seed/v1", SEED))
    assert commitment(SEED) != commitment(bytes(32))
    assert SEED not in commitment(SEED)
