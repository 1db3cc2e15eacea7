"""What is told stands on enough, and nothing that is hidden can be computed from it (docs/evaluation.md)."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.enclave.cells import Bounds, groups, rounded, told_cells

BOUNDS = Bounds(min_cell=10, min_sites=2)
ALONE = Bounds(min_cell=10, min_sites=1, from_insiders=False)


def counts(*by_site: tuple[int, int]) -> np.ndarray:
    return np.array(by_site, dtype=np.int64)


def test_enough_of_each_class_at_enough_sites_is_told():
    assert BOUNDS.allow(counts((10, 10), (10, 10)))


@pytest.mark.parametrize(
    "by_site",
    [
        counts((9, 50), (50, 50)),  # the second site subtracts its own and is left with nine
        counts((50, 9), (50, 50)),
        counts((50, 50), (0, 0)),  # one site alone
        counts((10, 10)),
        counts((4, 50), (5, 50), (0, 50)),  # nine in all
        counts((0, 0), (0, 0)),
    ],
)
def test_one_row_too_few_is_not_told(by_site):
    assert not BOUNDS.allow(by_site)


def cells(*rows: tuple[int, int]) -> np.ndarray:
    """One site's cells, so that sums can be read off."""
    return np.array([[row] for row in rows], dtype=np.int64)


def test_a_small_cell_takes_the_next_smallest_with_it():
    """Else it is the whole minus the others."""
    assert told_cells(cells((3, 3), (20, 20), (30, 30)), ALONE) == {2}


def test_two_small_cells_that_together_are_enough_take_no_other():
    assert told_cells(cells((6, 6), (7, 7), (30, 30)), ALONE) == {2}


def test_two_small_cells_that_together_are_too_few_take_a_third():
    """Their sum can be computed, and is itself too small."""
    assert told_cells(cells((2, 2), (3, 3), (30, 30), (40, 40)), ALONE) == {3}


def test_if_the_whole_is_too_small_nothing_is_told():
    assert told_cells(cells((4, 4), (5, 5)), ALONE) == frozenset()


def test_cells_that_are_all_large_are_all_told():
    assert told_cells(cells((10, 10), (10, 10)), ALONE) == {0, 1}


def test_what_is_hidden_for_another_reason_stays_hidden_and_is_covered():
    assert told_cells(cells((20, 20), (30, 30), (40, 40)), ALONE, hidden=frozenset({0})) == {1, 2}
    assert told_cells(cells((20, 9), (30, 30), (40, 40)), ALONE, hidden=frozenset({0})) == {2}


TABLES = st.integers(1, 4).flatmap(
    lambda sites: st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=sites, max_size=sites),
        min_size=1,
        max_size=7,
    )
)


@settings(max_examples=300, deadline=None)
@given(TABLES, st.integers(1, 3), st.booleans())
def test_no_hidden_cell_and_no_small_sum_can_be_derived(table, min_sites, from_insiders):
    """Everything that anybody can compute by adding and subtracting what is told is large enough itself.

    What is told are cells and their whole; a site also knows its own. Of the sums of hidden cells only that of all
    of them lies in the span of that, and it may be told; any other one does not.
    """
    bounds = Bounds(10, min_sites, from_insiders)
    array = np.array(table, dtype=np.int64)
    told = told_cells(array, bounds)
    hidden = [place for place in range(len(array)) if place not in told]
    if not bounds.allow(array.sum(axis=0)):
        assert not told
        return
    assert all(bounds.allow(array[place]) for place in told)
    span = [np.eye(len(array))[place] for place in sorted(told)] + [np.ones(len(array))]
    rank = np.linalg.matrix_rank(span)
    for size in range(1, len(hidden) + 1):
        for some in combinations(hidden, size):
            wanted = np.zeros(len(array))
            wanted[list(some)] = 1
            derivable = np.linalg.matrix_rank([*span, wanted]) == rank
            assert derivable == (size == len(hidden))
            if derivable:
                assert bounds.allow(array[list(some)].sum(axis=0))


def test_bins_are_joined_until_each_group_is_enough():
    by_bin = np.array([[[1, 1]]] * 40 + [[[20, 20]]] * 2, dtype=np.int64)
    found = groups(by_bin, ALONE, wanted=10)
    assert found[0].start == 0
    assert found[-1].stop == 42
    assert all(low.stop == high.start for low, high in pairwise(found))
    assert all(ALONE.allow(by_bin[group].sum(axis=0)) for group in found)
    assert len(found) > 1


def test_bins_that_all_together_are_too_few_give_no_group():
    assert groups(np.array([[[4, 4]], [[5, 20]]], dtype=np.int64), ALONE, wanted=10) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=30), st.integers(1, 12))
def test_every_group_is_enough_and_every_bin_in_one(bins, wanted):
    by_bin = np.array([[pair] for pair in bins], dtype=np.int64)
    found = groups(by_bin, ALONE, wanted=wanted)
    if ALONE.allow(by_bin.sum(axis=0)):
        assert [place for group in found for place in range(group.start, group.stop)] == list(range(len(bins)))
        assert all(ALONE.allow(by_bin[group].sum(axis=0)) for group in found)
    else:
        assert found == []


def test_counts_are_rounded_to_the_plans_multiple():
    assert [rounded(count, 5) for count in (0, 2, 3, 12, 13)] == [0, 0, 5, 10, 15]
    assert rounded(7, 1) == 7
