"""How skewed may sites' labels be, and what helps? Dirichlet α × how updates are folded. Trust zone: public data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulations import partitions
from simulations.scenarios.digits_net import recipe, split
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.sweep import Sweep
from simulations.sweep_shown import plot, table_of

SITES, COHORT, ROUNDS = 30, 10, 30
ALPHAS = (0.05, 0.1, 0.3, 1.0, 10.0)
_MOMENTUM = {"optimizer": "momentum", "learning_rate": 1.0, "beta_1": 0.6}
_AGGREGATIONS: Mapping[str, Mapping[str, Any]] = {
    "weighted mean": {"rule": "weighted-mean"},
    "with server momentum": {"rule": "weighted-mean", "server": _MOMENTUM},
    "median": {"rule": "median"},
}


def measure(settings: Mapping[str, Any]) -> dict[str, float]:
    """The final accuracy under one α and one rule."""
    seed = int(settings["seed"])
    dataset, held_out = split(seed)
    result = Simulation(
        recipe(seed),
        dataset,
        partitions.dirichlet(dataset, SITES, alpha=settings["alpha"], seed=seed, least=8),
        held_out=held_out,
        rounds=settings["rounds"],
        cohort=COHORT,
        aggregation=_AGGREGATIONS[settings["folded by"]],
        engine="in-process",
        seed=seed,
        evaluate_every=0,
    ).run()
    return {"accuracy": result.final["accuracy"]}


def run(wishes: Wishes) -> Outcome:
    """Every α with every rule."""
    grid = {"alpha": ALPHAS, "folded by": tuple(_AGGREGATIONS)}
    sweep = Sweep(measure, grid, wishes.all_seeds, {"rounds": wishes.rounds or ROUNDS})
    swept = wishes.sweep(sweep)
    table = table_of(swept, title=f"Digits, {SITES} sites, {COHORT} drawn in each of {wishes.rounds or ROUNDS} rounds")
    says = ("Small α: each site has one or two digits; large α: all have the same mixture.",)
    return Outcome(table, lambda: plot(swept, along="alpha"), says, {"grid": {k: list(v) for k, v in grid.items()}})


SCENARIO = Scenario("non_iid", "How skewed may sites' labels be, and what helps?", "2 minutes", run)
