"""What is simulated: pictures and payments made from numbers alone. Trust zone: the developer's machine.

Runs in every tool's environment: it needs numpy only. Every site's rows follow from its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

CLASSES = 10
IMAGE = (3, 32, 32)
COLUMNS = 30


@dataclass(frozen=True, slots=True)
class Work:
    """A population of sites and the rounds that are simulated over it.

    Attributes:
        model: ``cnn`` or ``mlp``.
        sites, cohort: in the population, and in each round.
        rows: of each site; ``batch`` of them make a step, as they lie, once through.
    """

    model: str
    sites: int
    cohort: int
    rounds: int
    rows: int
    batch: int

    @property
    def clients(self) -> int:
        """Trainings in all."""
        return self.cohort * self.rounds

    def __str__(self) -> str:
        return f"{self.model}, {self.sites} sites x {self.rows} rows, cohort {self.cohort}, {self.rounds} rounds"


def write_rows(folder: Path, work: Work) -> None:
    """The rows of all sites as two files in ``folder``, unless they are there."""
    features, labels = _paths(folder, work)
    if labels.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shape = IMAGE if work.model == "cnn" else (COLUMNS,)
    count, kind = work.sites * work.rows, np.int64 if work.model == "cnn" else np.float32
    unfinished = [path.with_suffix(".part") for path in (features, labels)]
    rows = open_memmap(unfinished[0], "w+", np.float32, (count, *shape))
    marks = open_memmap(unfinished[1], "w+", kind, (count,))
    make = _images if work.model == "cnn" else _payments
    for site in range(work.sites):
        part = slice(site * work.rows, (site + 1) * work.rows)
        rows[part], marks[part] = make(site, work.rows)
    rows.flush()
    marks.flush()
    unfinished[0].rename(features)
    unfinished[1].rename(labels)


def read_rows(folder: Path, work: Work, mode: Literal["c", "r"] = "c") -> tuple[NDArray[Any], NDArray[Any]]:
    """Features and labels, [sites, rows, …], mapped: nothing is read before it is used, and processes share it.

    ``mode`` as in ``numpy.load``: tensors are made of arrays that may be written to.
    """
    features, labels = (np.load(path, mmap_mode=mode) for path in _paths(folder, work))
    return features.reshape(work.sites, work.rows, *features.shape[1:]), labels.reshape(work.sites, work.rows)


def norm(parameters: Any) -> float:
    """The L2 norm of a model: by it two tools are seen to have computed the same."""
    return float(np.sqrt(sum(float((np.asarray(part, np.float64) ** 2).sum()) for part in parameters)))


def _paths(folder: Path, work: Work) -> tuple[Path, Path]:
    name = f"{work.model}-{work.sites}x{work.rows}"
    return folder / f"{name}-features.npy", folder / f"{name}-labels.npy"


def _images(site: int, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A pattern for each class, under noise that is twice as loud."""
    patterns = np.random.default_rng(12345).standard_normal((CLASSES, *IMAGE), dtype=np.float32) * 0.5
    rng = np.random.default_rng(1000 + site)
    labels = rng.integers(0, CLASSES, rows)
    return rng.standard_normal((rows, *IMAGE), dtype=np.float32) + patterns[labels], labels


def _payments(site: int, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A few in a hundred are fraud, by a rule with products of columns in it and some noise."""
    slope = np.random.default_rng(777).standard_normal(COLUMNS).astype(np.float32)
    rng = np.random.default_rng(5000 + site)
    columns = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    curved = 0.7 * (columns[:, 0] * columns[:, 1] - columns[:, 2] ** 2) * 2
    score = columns @ slope + curved + rng.standard_normal(rows).astype(np.float32) * 2
    return columns, (score > 9.0).astype(np.float32)
