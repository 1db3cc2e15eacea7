"""Five invented banks hunt fraud, and one of them lies. As ``cloister demo bank``, simulated. All data is SYNTHETIC.

The app is ``examples/bank_fraud``, unmodified. It judges by the last 27 of 90 days, which nobody trains on. The lying
bank's rows are those of the demonstration: labels turned around, and each row three times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from console.demo.fraud.banks import BANKS, COLUMNS, LABEL, Books, make_books, poisoned
from simulations import partitions
from simulations.dataset import Dataset
from simulations.drawing import Picture, colour, draw, marker
from simulations.partition import Partition
from simulations.result import Result
from simulations.scenarios.hospitals import found
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.table import Table
from simulations.tasks.app import App

ROUNDS = 12
APP = Path("examples") / "bank_fraud"
POISONER = BANKS[-1]
_BANK, _PRECISION = "bank", "average-precision"
_MEAN: Mapping[str, Any] = {"rule": "weighted-mean"}
_KRUM: Mapping[str, Any] = {"rule": "multi-krum", "byzantine": 1, "kept": 2}
_HONEST, _POISONED, _DEFENDED = "five honest banks, mean", f"{POISONER} lies, mean", f"{POISONER} lies, Multi-Krum"


def run(wishes: Wishes) -> Outcome:
    """Three federations, each bank alone, and all rows in one place; average precision on everybody's later days."""
    rounds, seed = wishes.rounds or ROUNDS, wishes.seed
    books = {name: make_books(name, seed) for name in BANKS}
    honest, false = _dataset(list(books.values())), _dataset([*list(books.values())[:-1], poisoned(books[POISONER])])
    runs = {_HONEST: (honest, _MEAN), _POISONED: (false, _MEAN), _DEFENDED: (false, _KRUM)}
    steps = len(runs) + len(BANKS) + 1
    results: dict[str, Result] = {}
    for place, (name, (dataset, rule)) in enumerate(runs.items()):
        wishes.told(place, steps, name)
        results[name] = _simulation(dataset, partitions.by_column(dataset, _BANK), honest, rounds, seed, rule).run()
    alone = {}
    by_bank = partitions.by_column(honest, _BANK)
    for place, name in enumerate(by_bank.names):
        wishes.told(len(runs) + place, steps, f"{name} alone")
        only = Partition.of([by_bank.rows(place)], [name])
        alone[name] = _simulation(honest, only, honest, rounds, seed, _MEAN, judged_last=True).run().final[_PRECISION]
    wishes.told(steps - 1, steps, "all rows in one place")
    whole = partitions.iid(honest, 1, seed=seed)
    pooled = _simulation(honest, whole, honest, rounds, seed, _MEAN, judged_last=True).run().final[_PRECISION]
    mean = float(np.mean(list(alone.values())))
    rows = (
        *((f"{name} alone", value) for name, value in alone.items()),
        *((name, result.final[_PRECISION]) for name, result in results.items()),
        ("all rows in one place", pooled),
    )
    table = Table(f"SYNTHETIC: average precision on later days, {rounds} rounds, seed {seed}", ("trained", "AP"), rows)
    lost = results[_HONEST].final[_PRECISION] - results[_POISONED].final[_PRECISION]
    says = (
        f"The lie {'worked' if lost > 0.05 else 'did not work'} on the undefended mean: it cost {lost:.3f}; "
        f"Multi-Krum reached {results[_DEFENDED].final[_PRECISION]:.3f}. Alone: {mean:.3f} on average.",
    )
    settings = _simulation(honest, by_bank, honest, rounds, seed, _MEAN).settings
    return Outcome(table, lambda: _picture(results, mean, pooled), says, settings)


def _dataset(books: Sequence[Books]) -> Dataset:
    columns = {name: np.concatenate([each.columns[name] for each in books]) for name in COLUMNS}
    owners = np.repeat(BANKS, [len(each) for each in books])
    return Dataset({**columns, _BANK: owners}, LABEL)


def _simulation(
    dataset: Dataset,
    partition: Partition,
    judged: Dataset,
    rounds: int,
    seed: int,
    rule: Mapping[str, Any],
    *,
    judged_last: bool = False,
) -> Simulation:
    return Simulation(
        App(found(APP), config={"seed": seed}),
        dataset,
        partition,
        held_out=judged,  # the app itself judges by its later days alone
        rounds=rounds,
        aggregation=rule,
        engine="in-process",
        seed=seed,
        evaluate_every=0 if judged_last else 1,
    )


def _picture(results: Mapping[str, Result], alone: float, pooled: float) -> Picture:
    picture, (axis,) = draw(1, width=5.8, height=3.5)
    for place, (name, result) in enumerate(results.items()):
        numbers = [row.number for row in result.rounds]
        values = [row.evaluated[_PRECISION] for row in result.rounds]
        axis.plot(numbers, values, color=colour(place), marker=marker(place), label=name)
    axis.axhline(alone, color="black", linestyle=":", label="each bank alone (mean)")
    axis.axhline(pooled, color="#999999", linestyle="--", label="all rows in one place")
    axis.set_ylim(0, 1)
    axis.set_xlabel("round")
    axis.set_title("SYNTHETIC data: average precision on later days")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return picture


SCENARIO = Scenario("bank_fraud", "Five invented banks hunt fraud, and one lies: who notices?", "3 minutes", run)
