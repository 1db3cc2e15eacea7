"""Twenty sites read digits together. Each has mostly a few of them: what does federating give? Zone: public data."""

from __future__ import annotations

import numpy as np

from simulations import partitions
from simulations.dataset import Dataset
from simulations.drawing import Picture, colour, draw, marker, whole_numbers
from simulations.partition import Partition
from simulations.result import Result
from simulations.scenarios.digits_net import DIGIT, recipe, split
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.table import Table

SITES = 20
ALPHA = 0.3
ROUNDS = 30
_ALONE, _MIXED, _SKEWED, _POOLED = (
    "each site alone",
    "federated, mixed rows",
    "federated, skewed rows",
    "one site has all",
)


def run(wishes: Wishes) -> Outcome:
    """Four ways to train with the same number of passes over the data, judged on the same rows that no site has."""
    rounds, seed = wishes.rounds or ROUNDS, wishes.seed
    dataset, held_out = split(seed)
    skewed = partitions.dirichlet(dataset, SITES, alpha=ALPHA, seed=seed, least=8)
    parts = {
        _MIXED: partitions.iid(dataset, SITES, seed=seed),
        _SKEWED: skewed,
        _POOLED: partitions.iid(dataset, 1, seed=seed),
    }
    results: dict[str, Result] = {}
    for done, (name, partition) in enumerate(parts.items()):
        wishes.told(done, len(parts) + 1, name)
        results[name] = _simulation(partition, dataset, held_out, rounds, seed).run()
    wishes.told(len(parts), len(parts) + 1, _ALONE)
    alone = [
        _simulation(Partition.of([skewed.rows(site)]), dataset, held_out, rounds, seed, judged_last=True).run().final
        for site in range(SITES)
    ]
    mean, best = float(np.mean([one["accuracy"] for one in alone])), max(one["accuracy"] for one in alone)
    finals = {_ALONE: mean, **{name: result.final["accuracy"] for name, result in results.items()}}
    rows = tuple((name, finals[name]) for name in (_ALONE, _SKEWED, _MIXED, _POOLED))
    table = Table(f"Digits, {SITES} sites, {rounds} rounds, seed {seed}", ("trained", "accuracy"), rows)
    says = (
        f"Sites of which each has mostly a few digits reach {mean:.3f} alone (the best {best:.3f}) and "
        f"{finals[_SKEWED]:.3f} together; with rows well mixed it would be {finals[_MIXED]:.3f}.",
    )
    settings = _simulation(skewed, dataset, held_out, rounds, seed).settings
    return Outcome(table, lambda: _picture(results, mean, skewed, dataset), says, settings)


def _simulation(
    partition: Partition, dataset: Dataset, held_out: Dataset, rounds: int, seed: int, *, judged_last: bool = False
) -> Simulation:
    return Simulation(
        recipe(seed),
        dataset,
        partition,
        held_out=held_out,
        rounds=rounds,
        seed=seed,
        engine="in-process",
        evaluate_every=0 if judged_last else 1,
    )


def _picture(results: dict[str, Result], alone: float, skewed: Partition, dataset: Dataset) -> Picture:
    picture, (curves, owners) = draw(2, width=4.8, height=3.4)
    for place, (name, result) in enumerate(results.items()):
        numbers = [row.number for row in result.rounds]
        accuracies = [row.evaluated["accuracy"] for row in result.rounds]
        curves.plot(numbers, accuracies, color=colour(place), marker=marker(place), markevery=3, label=name)
    curves.axhline(alone, color="black", linestyle=":", label=f"{_ALONE} (mean)")
    curves.set_ylim(0, 1.02)
    curves.legend(loc="lower right", frameon=False, fontsize=8)
    curves.set_xlabel("round")
    whole_numbers(curves.xaxis)
    curves.set_title("accuracy on digits of no site")
    counts = partitions.holdings(skewed, dataset).counts
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    image = owners.imshow(counts[order], aspect="auto", interpolation="nearest", cmap="Blues")
    owners.set_xticks(range(counts.shape[1]))
    owners.set_yticks([])
    owners.grid(visible=False)
    owners.set_xlabel(DIGIT)
    owners.set_ylabel(f"{len(skewed)} sites, the largest first")
    owners.set_title(f"who has what, skewed (Dirichlet, α = {ALPHA})")
    picture.figure.colorbar(image, ax=owners, label="rows")
    return picture


SCENARIO = Scenario("digits", "Twenty sites with a few digits each: what does federating give?", "20 seconds", run)
