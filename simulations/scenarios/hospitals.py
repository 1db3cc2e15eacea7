"""Six clinical sites, real public data: who sees a doctor often? As ``cloister demo``, simulated. Zone: public data.

The app is ``examples/rand_hie``, unmodified; it holds out 30 % of the persons by itself, the same ones everywhere, so
every model here is judged on the same people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from console.demo.cast import REPOSITORY
from console.output import UserError
from simulations import partitions
from simulations.dataset import Dataset
from simulations.drawing import Picture, colour, draw
from simulations.partition import Partition
from simulations.result import Result
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.table import Table
from simulations.tasks.app import App

ROUNDS = 12
APP, DATA = Path("examples") / "rand_hie", Path("data") / "rand_hie"
_SITE, _AUC = "site", "auc"


def run(wishes: Wishes) -> Outcome:
    """The federation, each site alone, and all rows in one place; AUC on everybody's held-out persons."""
    rounds, seed = wishes.rounds or ROUNDS, wishes.seed
    dataset = Dataset.from_csvs(sorted(found(DATA).glob("site-*.csv")), source=_SITE)
    by_site = partitions.by_column(dataset, _SITE)
    steps = len(by_site) + 2
    wishes.told(0, steps, "six sites together")
    federated = _simulation(dataset, by_site, rounds, seed)
    together = federated.run()
    wishes.told(1, steps, "all rows in one place")
    pooled = _simulation(dataset, partitions.iid(dataset, 1, seed=seed), rounds, seed).run()
    alone: dict[str, Result] = {}
    for place, name in enumerate(by_site.names):
        wishes.told(place + 2, steps, f"{name} alone")
        only = Partition.of([by_site.rows(place)], [name])
        alone[name] = _simulation(dataset, only, rounds, seed, judged_last=True).run()
    aucs = {name: result.final[_AUC] for name, result in alone.items()}
    mean = float(np.mean(list(aucs.values())))
    sizes = dict(zip(by_site.names, map(int, by_site.sizes), strict=True))
    rows = (
        *((f"{name} alone", sizes[name], auc) for name, auc in aucs.items()),
        ("six sites, federated", len(dataset), together.final[_AUC]),
        ("all rows in one place", len(dataset), pooled.final[_AUC]),
    )
    table = Table("AUC on everybody's held-out persons: five visits or more?", ("trained", "rows", "AUC"), rows)
    says = (
        f"Alone {mean:.3f} on average (best {max(aucs.values()):.3f}), federated {together.final[_AUC]:.3f}, "
        f"pooled {pooled.final[_AUC]:.3f}; {rounds} rounds, seed {seed}.",
    )
    return Outcome(table, lambda: _picture(aucs, together, pooled), says, federated.settings)


def found(path: Path) -> Path:
    """``path`` of the checkout, or below the folder in which the command was started.

    Raises:
        UserError: it is at neither place.
    """
    for folder in (Path.cwd(), REPOSITORY):
        if (folder / path).is_dir():
            return folder / path
    hint = "Start the command in a checkout of the repository: an installed package does not bring its examples."
    raise UserError(f"{path} is not here", hint)


def _simulation(
    dataset: Dataset, partition: Partition, rounds: int, seed: int, *, judged_last: bool = False
) -> Simulation:
    return Simulation(
        App(found(APP), config={"seed": seed}),
        dataset,
        partition,
        held_out=dataset,  # the app itself keeps the persons apart that models are judged by
        rounds=rounds,
        engine="in-process",
        seed=seed,
        evaluate_every=0 if judged_last else 1,
    )


def _picture(alone: dict[str, float], together: Result, pooled: Result) -> Picture:
    picture, (curves, bars) = draw(2, width=4.6, height=3.2)
    for place, (name, result) in enumerate((("federated", together), ("pooled", pooled))):
        numbers = [row.number for row in result.rounds]
        curves.plot(
            numbers, [row.evaluated[_AUC] for row in result.rounds], color=colour(place), marker="o", label=name
        )
    curves.axhline(float(np.mean(list(alone.values()))), color="black", linestyle=":", label="each site alone (mean)")
    curves.set_xlabel("round")
    curves.set_title("AUC on held-out persons")
    curves.legend(frameon=False, loc="center right", fontsize=8)
    names = [*alone, "federated", "pooled"]
    values = [*alone.values(), together.final[_AUC], pooled.final[_AUC]]
    bars.barh(range(len(names)), values, color=[*["#999999"] * len(alone), colour(0), colour(1)])
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlim(0.5, max(values) + 0.03)
    bars.grid(visible=False, axis="y")
    for place, value in enumerate(values):
        bars.text(value, place, f" {value:.3f}", va="center", fontsize=8)
    bars.set_title("after the last round")
    return picture


SCENARIO = Scenario("hospitals", "Six clinical sites: who sees a doctor five times or more?", "1 minute", run)
