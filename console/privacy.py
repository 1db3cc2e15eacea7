"""Privacy from the command line: reading a mechanism, and what it will cost. Trust zone: the member's own machine."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from console.output import UserError
from trusted.documents.explain_privacy import most_right
from trusted.documents.plan import Plan
from trusted.documents.terms import Budget, DpSgd, MemberClipping, Privacy
from trusted.documents.terms.privacy import MAX_NOISE_MULTIPLIER

if TYPE_CHECKING:
    from coordinator.enclave.privacy.accountant import Accountant

_MOST_ROUNDS = 10_000
_HINT = (
    "Write 'member-clipping,clip_norm=1,noise_multiplier=4,epsilon=8,delta=1e-5', or "
    "'dp-sgd,unit=person,person_column=id,max_grad_norm=1,noise_multiplier=2,sample_rate=0.1,max_steps=20,epsilon=1,"
    "delta=1e-5'."
)


def read_mechanism(mechanism: str, no_privacy_reason: str) -> dict[str, Any]:
    """``plan.privacy`` of ``mechanism`` (``NAME,field=value,…``), or of the reason why there is none.

    Raises:
        UserError: both were given, or neither, or a field does not read.
    """
    if bool(mechanism) == bool(no_privacy_reason):
        raise UserError("exactly one of --privacy and --no-privacy-because is needed", _HINT)
    if not mechanism:
        return {"mechanism": "none", "reason": no_privacy_reason}
    name, *settings = mechanism.split(",")
    document: dict[str, Any] = {"mechanism": name.strip()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.strip() in document:
            raise UserError(f"--privacy: field=value, each once, expected; not {setting!r:.40}", _HINT)
        document[key.strip()] = value.strip() if key.strip() in ("unit", "person_column") else _number(setting, value)
    return document


def _number(setting: str, value: str) -> Any:
    try:
        number = json.loads(value)
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"--privacy: a number expected in {setting!r:.40}", _HINT)
    return number


def accountant(terms: MemberClipping | DpSgd, delta: float) -> Accountant:
    """The accountant that the aggregator will use.

    Raises:
        UserError: its library is not installed here.
    """
    if importlib.util.find_spec("dp_accounting") is None:
        raise UserError(
            "the privacy accountant is not installed here", "Install it: pip install 'cloister[aggregator]'"
        )
    from coordinator.enclave.privacy.accountant import Accountant

    return Accountant(terms, delta)


def forecast(plan: Plan) -> list[str]:
    """What a plan's rounds will cost, for its signers; nothing where there is no mechanism, or no accountant here."""
    terms, budget = plan.privacy.terms, plan.privacy.budget
    if terms is None or budget is None:
        return []
    try:
        costs = accountant(terms, budget.delta)
    except UserError as error:
        return [f"What its rounds cost was not computed: {error.message}."]
    whole = costs.epsilon(plan.rounds)
    if whole <= budget.epsilon:
        spare = budget.epsilon - whole
        return [
            f"All {plan.rounds} round(s), if none has to be repeated, cost ε = {whole:.3f}: {spare:.3f} stay unspent."
        ]
    pays = costs.most_rounds(budget.epsilon, limit=plan.rounds)
    if not pays:
        return [
            f"WARNING: the budget pays for NO round: one costs ε = {costs.epsilon(1):.3f}. The run would end at once."
        ]
    return [
        f"WARNING: the budget pays for {pays} of {plan.rounds} round(s), and the run will end after them: "
        f"all would cost ε = {whole:.3f}."
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What rounds under a mechanism cost, and what would fit its budget.

    Attributes:
        spent: ε after each round, the first first; only so many as were asked to be listed.
        whole: ε of all rounds.
        fits: how many rounds the budget pays for, at most 10,000.
        least_noise: the smallest noise multiplier with which all rounds fit; None where none does.
    """

    terms: MemberClipping | DpSgd
    budget: Budget
    rounds: int
    spent: tuple[tuple[int, float], ...]
    whole: float
    fits: int
    least_noise: float | None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "unit": self.terms.unit.value,
            "privacy": Privacy.read(_document(self.terms, self.budget)).to_json(),
            "rounds": self.rounds,
            "epsilon_after": [{"round": number, "epsilon": epsilon} for number, epsilon in self.spent],
            "epsilon": self.whole,
            "fits": self.whole <= self.budget.epsilon,
            "most_rounds": self.fits,
            "least_noise_multiplier": self.least_noise,
            "best_guess_right": most_right(Budget(min(self.whole, 700.0), self.budget.delta)),
        }


def estimate(privacy: Privacy, rounds: int) -> Estimate:
    """What ``rounds`` cost under ``privacy``, before a run.

    Raises:
        UserError: it has no mechanism, or there is no accountant here.
    """
    terms, budget = privacy.terms, privacy.budget
    if terms is None or budget is None:
        raise UserError("this plan has no privacy mechanism: nothing to estimate", _HINT)
    costs = accountant(terms, budget.delta)
    listed = sorted({max(1, round(rounds * part / 10)) for part in range(1, 11)})
    spent = tuple((number, costs.epsilon(number)) for number in listed)
    fits = costs.most_rounds(budget.epsilon, limit=_MOST_ROUNDS)
    return Estimate(terms, budget, rounds, spent, spent[-1][1], fits, _least_noise(terms, budget, rounds))


def _least_noise(terms: MemberClipping | DpSgd, budget: Budget, rounds: int) -> float | None:
    """To half a percent, rounded up: with it ``rounds`` fit."""
    if not _fits(replace(terms, noise_multiplier=MAX_NOISE_MULTIPLIER), budget, rounds):
        return None
    low, high = 0.1, MAX_NOISE_MULTIPLIER
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _fits(replace(terms, noise_multiplier=middle), budget, rounds) else (middle, high)
    return high


def _fits(terms: MemberClipping | DpSgd, budget: Budget, rounds: int) -> bool:
    return accountant(terms, budget.delta).epsilon(rounds) <= budget.epsilon


def _document(terms: MemberClipping | DpSgd, budget: Budget) -> dict[str, Any]:
    name = "dp-sgd" if isinstance(terms, DpSgd) else "member-clipping"
    return {"mechanism": name, **terms.to_json(), "epsilon": budget.epsilon, "delta": budget.delta}


def verdict(found: Estimate) -> list[str]:
    """Whether it fits, and what would."""
    within = "within" if found.whole <= found.budget.epsilon else "MORE THAN"
    budget = f"the budget of ε = {found.budget.epsilon:g} at δ = {found.budget.delta:g}"
    least = "no noise multiplier up to 1000 would make all fit"
    if found.least_noise is not None:
        least = f"with a noise multiplier of {found.least_noise:.3f} or more all {found.rounds} round(s) fit"
    most = f"{found.fits} round(s)" if found.fits < _MOST_ROUNDS else f"{_MOST_ROUNDS} rounds and more"
    return [f"{found.rounds} round(s) cost ε = {found.whole:.3f}, {within} {budget}. It pays for {most}; {least}."]
