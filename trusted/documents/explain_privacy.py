"""What a plan's privacy mechanism means, in sentences for its signers. Trust zone: every TEE. Pure.

Of (ε, δ)-differential privacy: whoever guesses which of two neighbouring runs took place, both as likely beforehand,
is right with probability (e^ε + δ) / (e^ε + 1) at most, whatever else they know (Kairouz, Oh, Viswanath 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from trusted.documents.terms import Budget, DpSgd, MemberClipping, Privacy


def explain_privacy(privacy: Privacy) -> Iterator[str]:
    """Who is protected, how, from what and how far; and what is not protected."""
    terms, budget = privacy.terms, privacy.budget
    if terms is None or budget is None:
        yield (
            f"Privacy mechanism: {privacy.mechanism.value}. "
            f'The released model may disclose training data; accepted because "{privacy.reason}".'
        )
        return
    if isinstance(terms, MemberClipping):
        yield from _member(terms)
    else:
        yield from _dp_sgd(terms)
    yield from _budget(terms, budget)
    yield "Metrics, evaluation results and the number of rounds are not covered: they leave as they are."


def most_right(budget: Budget) -> float:
    """How often the best possible guess is right, at most; between 0.5, a coin, and 1."""
    return min(1.0, (math.exp(budget.epsilon) + budget.delta) / (math.exp(budget.epsilon) + 1.0))


def _member(terms: MemberClipping) -> Iterator[str]:
    yield (
        f"Privacy unit: the member. Each site's update is cut to length {terms.clip_norm:g}, all count alike, and the "
        f"aggregator adds noise of {terms.noise_multiplier:g} times that length to their sum, once a round."
    )
    yield (
        "That a site took part is public. What is protected is whether its data went in: its updates, or zeros in "
        "their place. A single patient's or customer's record is protected as part of its site."
    )


def _dp_sgd(terms: DpSgd) -> Iterator[str]:
    whose = "one record" if terms.person_column is None else f"one person (all rows of one {terms.person_column})"
    yield (
        f"Privacy unit: {whose} at a site. Each site trains by DP-SGD: at most {terms.max_steps} step(s) a round, each "
        f"on a random {terms.sample_rate:.4g} of its {terms.unit.value}s, their gradients cut to length "
        f"{terms.max_grad_norm:g}, with noise of {terms.noise_multiplier:g} times that."
    )
    yield (
        f"Protected is whether that {terms.unit.value}'s data went in. How many there are is taken to be public, and "
        "the protection holds also against all other sites together. It rests on the app, which must train in no "
        "other way; a whole site's data is not hidden."
    )


def _budget(terms: MemberClipping | DpSgd, budget: Budget) -> Iterator[str]:
    unit = terms.unit.value
    yield (
        f"Budget: ε = {budget.epsilon:g} at δ = {budget.delta:g} for each {unit}, over all rounds together. Each round "
        "is paid for in the witnessed log before anything of it leaves; when the rest does not pay for another, the "
        "run ends with the model it has."
    )
    right = math.ceil(1e4 * most_right(budget)) / 100
    yield (
        f"In words: whoever sees every model of the run and guesses whether a given {unit}'s data was used, even "
        f"knowing all the other data, is right at most {right:g} % of the time, where a coin is right 50 %."
    )
    if budget.epsilon > 8:
        yield f"ε above 8 promises little: a guess may be almost always right about some {unit}."
