"""Cloister's own simulation, as anybody calls it; ``settings`` says which engine and which of the opt-ins."""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.simulation.asked import Asked, Laps
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of
from benchmarks.simulation.work import norm, read_rows
from simulations.dataset import Dataset
from simulations.engine import Engine
from simulations.engines.in_process import InProcess
from simulations.engines.pool import Pool
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.tasks.descent import Descent
from simulations.tasks.torch import TorchRecipe

SEED = 0


def main(path: str) -> None:
    """All rounds."""
    asked = Asked.read(path)
    work, settings = asked.work, asked.settings
    features, labels = read_rows(asked.rows, work, "r")
    columns = {"x": features.reshape(-1, *features.shape[2:]), "y": labels.reshape(-1)}
    recipe = TorchRecipe(
        partial(module_of, work.model),
        partial(loss_of, work.model, reduction="none"),
        batch=work.batch,
        descent=Descent(LEARNING_RATE),
        shuffle=False,
        together=settings.get("together"),
        channels_last=settings.get("channels_last", False),
        bfloat16=settings.get("bfloat16", False),
    )
    engine: Engine = Pool(asked.processes) if settings["engine"] == "pool" else InProcess()
    partition = Partition.consecutive([work.rows] * work.sites)
    simulation = Simulation(
        recipe,
        Dataset(columns, "y"),
        partition,
        rounds=work.rounds,
        cohort=work.cohort,
        seed=SEED,
        engine=engine,
    )
    laps = Laps()
    result = simulation.run(on_round=lambda _: laps.mark())
    places = {name: place for place, name in enumerate(partition.names)}
    drawn = tuple(tuple(places[name] for name in row.drawn) for row in result.rounds)
    if drawn != asked.cohorts:
        raise RuntimeError("other cohorts than the other tools have")
    laps.found(norm([result.model])).write(path)


if __name__ == "__main__":
    main(sys.argv[1])
