"""The same federation where nothing stands against anybody: a mean that checks nothing. Zone: the developer's machine.

An attack that does no harm here is no attack, and a rule under which it does none has defended against nothing: so
this is run first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulations.behaviour import Behaviour
from simulations.cast import Cast
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.site_data import SiteData
from simulations.task import Job, Recipe


def undefended(
    trains: Recipe,
    dataset: Dataset,
    partition: Partition,
    *,
    rounds: int,
    held_out: Dataset,
    behaviours: Sequence[Behaviour] = (),
    seed: int = 0,
) -> Mapping[str, float]:
    """What the task says of the model after ``rounds`` of all sites, their updates averaged by the rows they claim.

    Any number is believed: of an update, and of rows. Sites, rows, dice and forgeries are those of a ``Simulation`` of
    the same seed.

    Raises:
        ValueError: as ``Simulation``.
    """
    data, sites = SiteData.of(dataset, partition, held_out, seed, behaviours), range(len(partition))
    task, cast = trains.prepare(data), Cast(behaviours, partition.names, seed)
    model = task.initial().copy()
    step, updates = np.zeros_like(model), np.empty((len(partition), len(model)), dtype=np.float32)
    for number in range(1, rounds + 1):
        trained = task.train(model, [Job(site, number) for site in sites], updates)
        cast.forge(number, sites, list(updates), step)
        weights = [cast.claimed(site, each.num_examples) for site, each in zip(sites, trained, strict=True)]
        with np.errstate(all="ignore"):
            step = np.average(updates, axis=0, weights=weights).astype(np.float32)
            model = model + step
    return task.evaluate(model)
