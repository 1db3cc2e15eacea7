"""Who has which rows: pure, seeded functions from a dataset to a partition, and pictures of what came out.

Trust zone: the developer's machine. Scenarios, sweeps and users import it; it knows datasets and partitions alone.

Rules: 1. The same dataset, numbers and seed give the same partition. 2. Every row has one site. 3. Every site has at
least ``least`` rows: where a draw leaves one with fewer, what it lacks is taken at random from the largest sites, once
(:mod:`.least`); nothing is drawn again until it fits.
"""

from simulations.partitions.columns import by_column
from simulations.partitions.labels import dirichlet, labels_each, shards
from simulations.partitions.picture import Holdings, holdings
from simulations.partitions.quantity import iid, log_normal, power_law

__all__ = [
    "Holdings",
    "by_column",
    "dirichlet",
    "holdings",
    "iid",
    "labels_each",
    "log_normal",
    "power_law",
    "shards",
]
