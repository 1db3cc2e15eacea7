"""What does member-level privacy cost in accuracy? Noise × how many sites are in a round. Trust zone: public data.

ε is the aggregator's own accountant's, for the whole run, at the plan's δ. The same noise spread over more sites hurts
each of them less: that is why the cohort's size is the other axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulations import partitions
from simulations.drawing import Picture, colour, draw, marker
from simulations.scenarios.digits_net import recipe, split
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.sweep import Sweep, Swept
from simulations.sweep_shown import interval, table_of

ROUNDS = 20
CLIP, DELTA = 1.0, 1e-5
NOISES = (0.0, 2.0, 4.0, 8.0, 16.0)
SITES = (30, 100, 300)
_BUDGET = 20.0  # the most that a plan takes; a run that has spent it ends, here as in production


def measure(settings: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and ε after the last round; without noise there is clipping alone, and no ε."""
    seed, sites, noise = int(settings["seed"]), int(settings["sites"]), float(settings["noise multiplier"])
    dataset, held_out = split(seed)
    privacy = {
        "mechanism": "member-clipping",
        "clip_norm": CLIP,
        "noise_multiplier": noise,
        "epsilon": _BUDGET,
        "delta": DELTA,
    }
    result = Simulation(
        recipe(seed, epochs=5),
        dataset,
        partitions.iid(dataset, sites, seed=seed),
        held_out=held_out,
        rounds=settings["rounds"],
        privacy=privacy if noise else None,
        engine="in-process",
        seed=seed,
        evaluate_every=0,
    ).run()
    found = {"accuracy": result.final["accuracy"]}
    epsilon = result.rounds[-1].epsilon
    return found if epsilon is None else found | {"ε": epsilon}


def run(wishes: Wishes) -> Outcome:
    """Every noise with every number of sites."""
    rounds = wishes.rounds or ROUNDS
    sweep = Sweep(measure, {"sites": SITES, "noise multiplier": NOISES}, wishes.all_seeds, {"rounds": rounds})
    swept = wishes.sweep(sweep)
    table = table_of(swept, title=f"Digits, member-level privacy over {rounds} rounds, clip {CLIP:g}, δ = {DELTA:g}")
    says = (
        "Noise multiplier 0: neither clipped nor noised. An ε above 10 promises little: whoever guesses whether a "
        "member took part may then be right nearly always.",
    )
    return Outcome(table, lambda: _picture(swept), says, {"clip_norm": CLIP, "delta": DELTA, "rounds": rounds})


def _picture(swept: Swept) -> Picture:
    picture, (axis,) = draw(1, width=5.6, height=3.6)
    for place, sites in enumerate(SITES):
        groups = {key: points for key, points in swept.groups().items() if key[0] == sites}
        pairs = [(interval(points, "ε"), interval(points, "accuracy")) for points in groups.values()]
        told = sorted(
            ((epsilon.mean, accuracy) for epsilon, accuracy in pairs if epsilon is not None and accuracy is not None),
            key=lambda pair: pair[0],
        )
        axis.errorbar(
            [epsilon for epsilon, _ in told],
            [accuracy.mean for _, accuracy in told],
            [accuracy.half or 0.0 for _, accuracy in told],
            color=colour(place),
            marker=marker(place),
            capsize=2,
            label=f"{sites} sites",
        )
        without = next(accuracy for epsilon, accuracy in pairs if epsilon is None and accuracy is not None)
        axis.axhline(without.mean, color=colour(place), linestyle=":", linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks((1, 2, 5, 10, 20), ("1", "2", "5", "10", "20"))
    axis.minorticks_off()
    axis.set_ylim(0, 1.02)
    axis.set_xlabel(f"ε of the whole run, δ = {DELTA:g}")
    axis.set_title("accuracy (dotted: without privacy)")
    axis.legend(frameon=False, loc="lower right", fontsize=8)
    return picture


SCENARIO = Scenario("privacy_utility", "What does member-level privacy cost in accuracy?", "3 minutes", run)
