"""Sites that differ in which labels they have. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.partitions.least import require_room, with_least
from simulations.partitions.quantity import spread


def dirichlet(dataset: Dataset, sites: int, *, alpha: float, seed: int = 0, least: int = 1) -> Partition:
    """Each label's rows over the sites in proportions drawn from a Dirichlet distribution (Yurochkin et al. 2019).

    Of a large ``alpha`` (100) all sites are alike; of 0.1 most have few labels and few rows, and some have many.

    Raises:
        ValueError: no label; an alpha that is not above 0 and at most 1e6; fewer rows than ``sites`` of ``least`` need.
    """
    require_room(len(dataset), sites, least)
    if not 0 < alpha <= 1e6:
        raise ValueError(f"partition dirichlet: an alpha above 0 and at most 1e6 expected, not {alpha}")
    concentration = np.full(sites, max(alpha, 1e-4))  # below that all rows of a label have one site anyway
    return _by_label(dataset, sites, least, seed, lambda _, rng: rng.dirichlet(concentration))


def labels_each(dataset: Dataset, sites: int, *, labels: int, seed: int = 0, least: int = 1) -> Partition:
    """Every site has rows of ``labels`` labels, dealt like cards; a label's rows are spread evenly over who has it.

    A site that ``least`` gives rows of others may have more labels.

    Raises:
        ValueError: as :func:`dirichlet`; or more labels than there are; or too few sites for every label to be dealt.
    """
    require_room(len(dataset), sites, least)
    found, _ = dataset.labels()
    if not 1 <= labels <= len(found):
        raise ValueError(f"partition labels_each: from 1 to {len(found)} labels for each site expected, not {labels}")
    if sites * labels < len(found):
        raise ValueError(
            f"partition labels_each: {sites} sites with {labels} labels each leave some of {len(found)} with nobody: "
            f"ask for at least {-(-len(found) // labels)} sites, or for more labels each"
        )
    hands = _dealt(len(found), sites, labels, np.random.default_rng((seed, 1)))
    return _by_label(dataset, sites, least, seed, lambda label, _: (hands == label).any(axis=1).astype(np.float64))


def shards(dataset: Dataset, sites: int, *, each: int = 2, seed: int = 0, least: int = 1) -> Partition:
    """As McMahan et al. 2017: rows sorted by label are cut into equal shards, and every site is dealt ``each`` of them.

    Raises:
        ValueError: no label; more shards than rows; fewer rows than ``sites`` of ``least`` need.
    """
    require_room(len(dataset), sites, least)
    if each < 1 or sites * each > len(dataset):
        most = len(dataset) // sites
        raise ValueError(f"partition shards: from 1 to {most} shards for each of {sites} sites expected, not {each}")
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(dataset)), dataset.labels()[1]))
    dealt = np.repeat(np.arange(sites), each)[rng.permutation(sites * each)]
    owner = np.empty(len(dataset), dtype=np.int64)
    owner[order] = dealt[spread(len(dataset), np.ones(sites * each))]
    return with_least(owner, sites, least, rng)


def _by_label(
    dataset: Dataset,
    sites: int,
    least: int,
    seed: int,
    weights: Callable[[int, Generator], NDArray[np.float64]],
) -> Partition:
    """Each label's rows, shuffled, by the weights of the sites for it, float64[sites]."""
    found, places = dataset.labels()
    rng, owner = np.random.default_rng(seed), np.empty(len(dataset), dtype=np.int64)
    rows_of = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
    for label in range(len(found)):
        rows = rng.permutation(rows_of[label])
        owner[rows] = spread(len(rows), weights(label, rng), begin=rng.random())
    return with_least(owner, sites, least, rng)


def _dealt(labels: int, sites: int, each: int, rng: Generator) -> NDArray[np.int64]:
    """``each`` different labels for every site, int64[sites, each], from one shuffled deck after the other."""
    hands, deck = np.empty((sites, each), dtype=np.int64), np.empty(0, dtype=np.int64)
    for hand in hands:
        if len(deck) < each:
            fresh = rng.permutation(labels)
            held = np.isin(fresh, deck)
            deck = np.concatenate((deck, fresh[~held], fresh[held]))  # so that no hand has a label twice
        hand[:], deck = deck[:each], deck[each:]
    return hands
