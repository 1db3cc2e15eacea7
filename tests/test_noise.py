"""Noise from a cryptographic generator, and the lattice it lies on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest, norm

from trusted.lattice import Lattice, squared_norm, squared_steps
from trusted.noise import NoiseKey, add_gaussian, coins, normals

KEY = NoiseKey(bytes(range(32)))
# With a key drawn at random a right sampler fails each of these tests once in a million times. The key is fixed.
FALSE_ALARM = 1e-6


def noise(count: int, deviation: float, start: int = 0) -> np.ndarray:
    total = np.zeros(count, np.int64)
    add_gaussian(total, KEY, deviation, start=start)
    return total


def test_deviates_are_normal() -> None:
    """Kolmogorov and Smirnov, 2^20 deviates: finds a difference of 0.3 % in the distribution function."""
    assert kstest(normals(KEY, 0, 1 << 20), norm.cdf).pvalue > FALSE_ALARM


def test_integers_are_as_likely_as_the_rounded_gaussian_says() -> None:
    """Chi-square over every integer within three standard deviations of a narrow Gaussian, 2^20 draws."""
    deviation, drawn = 10.0, noise(1 << 20, 10.0)
    edges = np.arange(-30, 32) - 0.5
    expected = np.diff(norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / deviation)) * len(drawn)
    found = np.histogram(drawn, np.concatenate([[-(1 << 40)], edges, [1 << 40]]))[0]
    assert ((found - expected) ** 2 / expected).sum() < chi2.isf(FALSE_ALARM, len(expected) - 1)


def test_neighbours_in_a_pair_and_beyond_know_nothing_of_each_other() -> None:
    drawn = normals(KEY, 0, 1 << 20)
    bound = norm.isf(FALSE_ALARM / 8) / math.sqrt(len(drawn) / 2)
    for distance in (1, 2):
        left, right = drawn[:-distance:2], drawn[distance::2]
        size = min(len(left), len(right))
        for one, other in ((left, right), (left**2 - 1, right**2 - 1)):
            scale = one[:size].std() * other[:size].std()
            assert abs((one[:size] * other[:size]).mean()) / scale < bound


def test_the_tails_are_there() -> None:
    """Of 2^20 deviates some lie beyond 4.2 deviations: 28 on average, and not fewer than 6 or more than 62 (1e-6)."""
    assert 6 <= int((np.abs(normals(KEY, 0, 1 << 20)) > 4.2).sum()) <= 62


def test_noise_follows_from_key_and_place_alone() -> None:
    whole = noise(100_000, 12345.0)
    for start, count in ((0, 3), (2, 1), (32_768, 70), (50_000, 50_000)):
        assert (noise(count, 12345.0, start) == whole[start : start + count]).all()
    other = np.zeros(100, np.int64)
    add_gaussian(other, NoiseKey(bytes(32)), 12345.0)
    assert (other != whole[:100]).all()


def test_noise_is_the_same_bits_everywhere() -> None:
    """Of IEEE 754 operations alone: these are the first integers on any processor."""
    assert noise(8, 1e6).tolist() == FIRST


FIRST = [103090, 631409, 742991, -222286, -1425569, 2290678, -457191, 193569]


@pytest.mark.parametrize(("start", "deviation"), [(1, 1.0), (0, 0.0), (0, 2.0**48)])
def test_what_would_not_be_exact_is_a_callers_bug(start: int, deviation: float) -> None:
    with pytest.raises(ValueError):
        add_gaussian(np.zeros(2, np.int64), KEY, deviation, start=start)


def test_coins_fall_as_often_as_they_should() -> None:
    for probability in (0.001, 0.3, 0.999):
        count = int(coins(KEY, probability, 1 << 20).sum())
        spread = math.sqrt((1 << 20) * probability * (1 - probability))
        assert abs(count - (1 << 20) * probability) < norm.isf(FALSE_ALARM / 2) * spread
    assert coins(KEY, 1.0, 5).all()


vectors = st.integers(1, 300).flatmap(
    lambda size: st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=size, max_size=size)
)


@settings(max_examples=100, deadline=None)
@given(vectors, st.floats(1e-6, 1e6))
def test_no_vector_is_longer_than_the_clip_once_it_is_rounded(values: list[float], clip: float) -> None:
    """In exact integers: the sensitivity of a sum is the clip norm, and not a bit more."""
    vector = np.array(values, dtype="f4")
    lattice = Lattice(clip, len(vector))
    out, room = np.empty(len(vector), np.int64), np.empty(len(vector))
    lattice.round_into(vector, lattice.factor(math.sqrt(squared_norm(vector))), out, room)
    squared = sum(int(value) ** 2 for value in out)
    assert squared <= lattice.most_squared
    assert squared * lattice.step**2 <= clip**2
    assert squared_steps(out) == squared


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(1, 1 << 31))
def test_the_lattice_costs_less_than_a_thousandth_of_the_clip(clip: float, elements: int) -> None:
    lattice = Lattice(clip, elements)
    assert math.frexp(lattice.step)[0] == 0.5  # a power of two
    assert math.sqrt(elements) * lattice.step <= clip / 1024 < 2 * math.sqrt(elements) * lattice.step
    assert 0.999 * clip < lattice.limit < clip
    assert lattice.most_squared < 1 << 55


def test_squares_that_no_rounded_vector_has_do_not_wrap_round() -> None:
    lattice = Lattice(1.0, 4)
    out, room = np.empty(4, np.int64), np.empty(4)
    lattice.round_into(np.full(4, 3e38, "f4"), 1 / lattice.step, out, room)
    assert squared_steps(out) > lattice.most_squared
    assert squared_steps(np.full(4, 1 << 32, np.int64)) > lattice.most_squared
