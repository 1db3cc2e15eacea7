"""What privacy costs: against dp-accounting's own accountant, a published value, and a closed form."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from coordinator.enclave.privacy.accountant import Accountant
from trusted.documents.terms import DpSgd, MemberClipping, Unit


def sampled(sigma: float, rate: float, steps: int, delta: float) -> Accountant:
    return Accountant(DpSgd(Unit.RECORD, 1.0, sigma, rate, steps), delta)


def analytic_gaussian(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8: the exact ε of one Gaussian mechanism of sensitivity 1."""

    def excess(epsilon: float) -> float:
        low = norm.cdf(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * norm.cdf(
            -1 / (2 * sigma) - epsilon * sigma
        )
        return float(low - delta)

    return float(brentq(excess, 0, 100))


def test_a_published_value() -> None:
    """q = 0.01, σ = 1, T = 1000, δ = 1e-6: 2.12 by privacy loss distributions, where Rényi's bound says 2.44."""
    assert sampled(1.0, 0.01, 1000, 1e-6).epsilon(1) == pytest.approx(2.12, abs=0.005)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "rounds"), [(1.0, 0.01, 100, 10), (2.0, 0.2, 5, 4), (8.0, 0.9, 10, 3)]
)
def test_rounds_of_steps_cost_what_dp_accounting_says(sigma: float, rate: float, steps: int, rounds: int) -> None:
    theirs = PLDAccountant()
    theirs.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)), steps * rounds)
    assert sampled(sigma, rate, steps, 1e-5).epsilon(rounds) == pytest.approx(theirs.get_epsilon(1e-5), abs=1e-3)


@pytest.mark.parametrize(("sigma", "rounds", "delta"), [(1.0, 1, 1e-5), (4.0, 30, 1e-5), (20.0, 1000, 1e-8)])
def test_noisy_sums_cost_what_the_closed_form_says(sigma: float, rounds: int, delta: float) -> None:
    """Gaussians compose to one Gaussian, for which the exact answer is known; ours is never below it."""
    exact = analytic_gaussian(sigma / math.sqrt(rounds), delta)
    cost = Accountant(MemberClipping(1.0, sigma), delta).epsilon(rounds)
    assert exact <= cost + 1e-9
    assert cost == pytest.approx(exact, abs=1e-3)


def test_sampling_of_everybody_is_no_sampling() -> None:
    assert sampled(3.0, 1.0, 7, 1e-5).epsilon(2) == Accountant(MemberClipping(1.0, 3.0), 1e-5).epsilon(14)


def test_more_rounds_cost_more_and_none_cost_nothing() -> None:
    accountant = Accountant(MemberClipping(1.0, 4.0), 1e-5)
    costs = [accountant.epsilon(rounds) for rounds in range(6)]
    assert costs[0] == 0.0
    assert costs == sorted(set(costs))


def test_the_most_rounds_fit_and_one_more_does_not() -> None:
    accountant = Accountant(MemberClipping(1.0, 4.0), 1e-5)
    most = accountant.most_rounds(3.0, limit=1000)
    assert accountant.epsilon(most) <= 3.0 < accountant.epsilon(most + 1)
    assert accountant.most_rounds(3.0, limit=most - 1) == most - 1
    assert accountant.most_rounds(0.1, limit=10) == 0


def test_a_plan_that_no_budget_pays_for_is_found_out_without_the_memory_it_would_take() -> None:
    """By convolution this one would take terabytes."""
    assert sampled(0.1, 0.5, 100_000, 1e-5).epsilon(10_000) > 1e6
