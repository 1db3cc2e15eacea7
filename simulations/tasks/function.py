"""A plain function as what sites train. Trust zone: the developer's machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.dataset import Dataset, Rows
from simulations.dice import Dice
from simulations.site_data import SiteData
from simulations.task import Job, Trained
from trusted.apps.arrays import split_vector
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.terms import Aggregation, Privacy, Scalar
from trusted.encoding import Vector
from trusted.errors import Reason
from worker.trainer import EXAMPLES, join_arrays

Arrays = Mapping[str, NDArray[Any]]
Config = Mapping[str, Scalar]
Trains = Callable[[Arrays, Rows, np.random.Generator, Config], tuple[Arrays, Mapping[str, float]]]
"""From the model by name, a site's rows, dice and the config to the trained model and metrics.

``num-examples`` among them is the site's weight; without it, its number of rows. ``config`` has ``server-round``.
"""
Evaluates = Callable[[Arrays, Rows], Mapping[str, float]]


def layout_of(arrays: Arrays) -> Layout:
    """The layout of these arrays, in their order.

    Raises:
        ValueError: an array that is neither float32, float64 nor int64. DocumentError: a name that no layout may have.
    """
    dtypes = {dtype.value for dtype in Dtype}
    for name, array in arrays.items():
        if array.dtype.name not in dtypes:
            raise ValueError(f"initial: {name} is {array.dtype.name}; one of {', '.join(sorted(dtypes))} expected")
    specs = [TensorSpec(name, Dtype(array.dtype.name), array.shape) for name, array in arrays.items()]
    return Layout.parse([spec.to_json() for spec in specs], "initial")


@dataclass(frozen=True, slots=True)
class Function:
    """``trains`` from the arrays ``initial``; ``evaluates`` judges a model on rows that no site has."""

    trains: Trains
    initial: Arrays = field(repr=False)
    evaluates: Evaluates | None = None
    config: Config = field(default_factory=dict)

    def under(self, privacy: Privacy, aggregation: Aggregation) -> Function:
        """The same, told what a plan with these terms tells sites.

        Raises:
            ValueError: under DP-SGD: nothing counts the steps of a function.
        """
        if privacy.dp_sgd is not None:
            raise ValueError("privacy: dp-sgd is for Flower apps, whose private steps are counted")
        return replace(self, config=dict(self.config) | aggregation.train_config)

    def prepare(self, data: SiteData) -> FunctionTask:
        """The task of these sites.

        Raises:
            ValueError: held-out rows that nothing evaluates, or an initial model that no layout has.
        """
        if data.held_out is not None and self.evaluates is None:
            raise ValueError("held_out: rows to evaluate by, but no function evaluates; give `evaluates` too")
        layout = layout_of(self.initial)
        return FunctionTask(self, layout, join_arrays(layout, self.initial), data, Dice(data.seed, "training"))

    def to_json(self) -> dict[str, Any]:
        """For a result's settings."""
        name = getattr(self.trains, "__qualname__", type(self.trains).__name__)
        return {"task": "function", "function": name, "config": dict(self.config)}


@dataclass(slots=True)
class FunctionTask:
    """A function at each site. It remembers nothing: a site's rows are looked up for every job."""

    recipe: Function
    layout: Layout
    _initial: Vector = field(repr=False)
    _data: SiteData = field(repr=False)
    _dice: Dice = field(repr=False)
    keeps_state: bool = False
    together: int = 1

    def initial(self) -> Vector:
        """As it was given."""
        return self._initial

    def train(self, model: Vector, jobs: Sequence[Job], out: NDArray[np.float32]) -> list[Trained]:
        """One after the other. What the function raises is raised here; what is not finite is a failure of its site."""
        return [self._train(model, job, row) for job, row in zip(jobs, out, strict=True)]

    def evaluate(self, model: Vector) -> Mapping[str, float]:
        """On held-out rows, and on those that attacks aim at, each metric there after the behaviour's name."""
        if self._data.held_out is None or self.recipe.evaluates is None:
            return {}
        arrays = split_vector(self.layout, model)
        metrics = dict(self.recipe.evaluates(arrays, Columns(self._data.held_out)))
        for behaviour, rows in self._data.probed().items():
            found = self.recipe.evaluates(arrays, Columns(Dataset(rows)))
            metrics |= {f"{behaviour}-{name}": value for name, value in found.items()}
        return metrics

    def _train(self, model: Vector, job: Job, out: Vector) -> Trained:
        begun = time.perf_counter()
        rows = Columns(Dataset(self._data.rows(job.site)))
        config = {**self.recipe.config, "server-round": job.round}
        arrays, metrics = self.recipe.trains(
            split_vector(self.layout, model), rows, self._dice.at(job.round, job.site), config
        )
        told = {name: float(value) for name, value in metrics.items()}
        examples = int(told.pop(EXAMPLES, self._data.partition.sizes[job.site]))
        if not all(np.isfinite(array).all() for array in arrays.values()):
            out[:] = 0.0
            return Trained(examples, told, time.perf_counter() - begun, Reason.APP_REPLY)
        np.subtract(join_arrays(self.layout, arrays), model, out=out)
        return Trained(examples, told, time.perf_counter() - begun)


class Columns(dict[str, NDArray[Any]]):
    """Rows whose missing column is told in a sentence."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.columns)

    def __missing__(self, name: str) -> NDArray[Any]:
        raise ValueError(f"dataset: no column {name!r}; there are {', '.join(self)}")
