"""Sites that differ in how much they have, and in nothing else. Trust zone: the developer's machine."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.partitions.least import require_room, with_least


def iid(dataset: Dataset, sites: int, *, seed: int = 0, least: int = 1) -> Partition:
    """Every site a random part of the same size, give or take one row.

    Raises:
        ValueError: fewer rows than ``sites`` of ``least`` need.
    """
    require_room(len(dataset), sites, least)
    return _by_weight(len(dataset), np.ones(sites), least, np.random.default_rng(seed))


def log_normal(dataset: Dataset, sites: int, *, sigma: float = 1.0, seed: int = 0, least: int = 1) -> Partition:
    """Random parts whose sizes follow a log-normal distribution: of 0 all are alike, of 1 some have ten times others'.

    Raises:
        ValueError: as :func:`iid`; or ``sigma`` is below 0 or above 10.
    """
    if not 0 <= sigma <= 10:
        raise ValueError(f"partition log_normal: sigma from 0 to 10 expected, not {sigma}")
    require_room(len(dataset), sites, least)
    rng = np.random.default_rng(seed)
    return _by_weight(len(dataset), rng.lognormal(0.0, sigma, sites), least, rng)


def power_law(dataset: Dataset, sites: int, *, exponent: float = 1.0, seed: int = 0, least: int = 1) -> Partition:
    """Random parts whose sizes fall with their rank to the power of ``exponent``: few have most. Who is which is drawn.

    Raises:
        ValueError: as :func:`iid`; or ``exponent`` is below 0 or above 10.
    """
    if not 0 <= exponent <= 10:
        raise ValueError(f"partition power_law: an exponent from 0 to 10 expected, not {exponent}")
    require_room(len(dataset), sites, least)
    rng = np.random.default_rng(seed)
    return _by_weight(len(dataset), np.exp(-exponent * np.log(rng.permutation(sites) + 1.0)), least, rng)


def _by_weight(rows: int, weights: NDArray[np.float64], least: int, rng: Generator) -> Partition:
    owner = np.empty(rows, dtype=np.int64)
    owner[rng.permutation(rows)] = spread(rows, weights)
    return with_least(owner, len(weights), least, rng)


def spread(rows: int, weights: NDArray[np.float64], begin: float = 1e-6) -> NDArray[np.int64]:
    """Owners of ``rows`` things in a row, int64[rows], ascending: each site has its part of all ``weights``.

    Numbers are rounded so that ``begin``, from 0 to 1, says which sites have one more; drawn, it favours none.
    """
    cuts = np.minimum(np.floor(np.cumsum(weights) / weights.sum() * rows + begin), rows).astype(np.int64)
    cuts[-1] = rows
    return np.repeat(np.arange(len(weights)), np.diff(cuts, prepend=0))
