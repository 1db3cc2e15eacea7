"""Small modules and recipes, and the same training written out plainly."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.site_data import SiteData
from simulations.task import Job
from simulations.tasks.descent import Descent
from simulations.tasks.torch import TorchRecipe, TorchTask

PER_ROW = functools.partial(F.cross_entropy, reduction="none")
BINARY = functools.partial(F.binary_cross_entropy_with_logits, reduction="none")
SIZES = (23, 7, 40, 16, 1)


class Mlp(nn.Module):
    """With functions and a squeeze, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.first(rows))).squeeze(-1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 512), nn.ReLU(), nn.Linear(512, 3)
    )


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(rows)))


class Twice(nn.Module):
    """A layer large enough to be deferred, used twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(self.wide(torch.tanh(self.wide(rows))))


def data(sizes=SIZES, shape=(5,), *, binary=False, poisons=None, seed=3) -> SiteData:
    rng = np.random.default_rng(0)
    rows = sum(sizes)
    labels = rng.integers(0, 2 if binary else 3, rows)
    columns = {
        "x": rng.standard_normal((rows, *shape), dtype=np.float32),
        "y": labels.astype(np.float32 if binary else np.int64),
    }
    order = rng.permutation(rows)
    partition = Partition.of(np.split(order, np.cumsum(sizes)[:-1]))
    held_out = Dataset({name: column[:20] for name, column in columns.items()}, "y")
    return SiteData(Dataset(columns, "y"), partition, held_out, seed, poisons or {})


def recipe(module=mlp, loss=PER_ROW, **settings) -> TorchRecipe:
    settings = {"batch": 8, "descent": Descent(0.1), "together": 1, **settings}
    return TorchRecipe(module, loss, **settings)


def updates(task: TorchTask, jobs: list[Job], model=None) -> np.ndarray:
    out = np.empty((len(jobs), task.layout.elements), np.float32)
    assert all(trained.failure is None for trained in task.train(task.initial() if model is None else model, jobs, out))
    return out


def plainly(module: nn.Module, rows, loss, batch, epochs=1, **settings) -> np.ndarray:
    """``torch.optim.SGD`` over the rows as they lie."""
    trained = copy.deepcopy(module)
    optimizer = torch.optim.SGD(trained.parameters(), **settings)
    for _ in range(epochs):
        for low in range(0, len(rows["x"]), batch):
            x, y = (torch.from_numpy(np.asarray(rows[name][low : low + batch])) for name in "xy")
            optimizer.zero_grad()
            loss(trained(x), y).mean().backward()
            optimizer.step()
    pairs = zip(trained.state_dict().values(), module.state_dict().values(), strict=True)
    return np.concatenate([(after - before).numpy().ravel() for after, before in pairs])


def seeded(factory, seed=3) -> nn.Module:
    torch.manual_seed(seed)
    return factory()


JOBS = [Job(site, 1) for site in range(len(SIZES))]
