"""How many sites may drop out, and how many must answer? Dropouts × the plan's minimum. Trust zone: public data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulations import behaviours, partitions
from simulations.drawing import Picture
from simulations.scenarios.digits_net import recipe, split
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.sweep import Sweep
from simulations.sweep_shown import plot, table_of

SITES, ROUNDS = 20, 30
CHANCES = (0.0, 0.2, 0.4, 0.6)
MINIMA = (2, 10, 14, 18)
_COMMITTED = "rounds committed"


def measure(settings: Mapping[str, Any]) -> dict[str, float]:
    """The share of rounds that were committed, and the accuracy that was reached with them."""
    seed, chance = int(settings["seed"]), float(settings["dropout"])
    dataset, held_out = split(seed)
    result = Simulation(
        recipe(seed, epochs=2),
        dataset,
        partitions.dirichlet(dataset, SITES, alpha=0.3, seed=seed, least=8),
        held_out=held_out,
        rounds=settings["rounds"],
        minimum=settings["minimum"],
        behaviours=[behaviours.dropouts(1.0, chance=chance)] if chance else [],
        engine="in-process",
        seed=seed,
    ).run()
    committed = sum(row.abandoned is None for row in result.rounds)
    accuracy = result.final.get("accuracy", 0.1)  # of no round: of a model that nobody trained
    return {_COMMITTED: committed / len(result.rounds), "accuracy": accuracy}


def run(wishes: Wishes) -> Outcome:
    """Every chance of dropping out with every minimum."""
    rounds = wishes.rounds or ROUNDS
    sweep = Sweep(measure, {"dropout": CHANCES, "minimum": MINIMA}, wishes.all_seeds, {"rounds": rounds})
    swept = wishes.sweep(sweep)
    table = table_of(swept, title=f"Digits, {SITES} skewed sites, at most {rounds} rounds")
    says = (
        "Dropout: the chance that a site misses a round. Minimum: with fewer answers nothing is folded, and the round "
        "comes to nothing; after several such rounds in a row the run ends, as in production.",
    )

    def picture() -> Picture:
        return plot(swept, along="dropout")

    return Outcome(table, picture, says, {"sites": SITES, "rounds": rounds})


SCENARIO = Scenario("dropouts_quorum", "How many may drop out, and how many must answer?", "2 minutes", run)
