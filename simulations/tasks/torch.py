"""Sites that train a PyTorch module: the fast path. Trust zone: the developer's machine.

Everything is prepared once: the rows of all sites as tensors, one model whose parameters are views of one flat vector,
one optimiser. No loaders, no threads, no copies. The order of a site's rows follows from seed, round and site, so every
engine gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulations.dice import Dice
from simulations.site_data import SiteData
from simulations.task import Job, Trained
from simulations.tasks.descent import Descent
from simulations.tasks.one_by_one import Lesson, Loss, OneByOne, layout_of
from simulations.tasks.site_tensors import Columns, SiteBatch, SiteTensors, held_out
from simulations.tasks.stacked import NotStackable, Stacked, Together
from simulations.tasks.stacking import fastest
from trusted.documents.layout import Layout
from trusted.documents.terms import Aggregation, Privacy
from trusted.encoding import Vector
from trusted.errors import Reason

Judge = Callable[[Tensor, Tensor], Mapping[str, float]]
_EVALUATED_AT_ONCE = 4096
_TRIAL_STEPS = 3
_MOST_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class TorchRecipe:
    """Train ``module()`` on each site's rows by gradient descent.

    Attributes:
        module: makes the module; called once, after ``torch.manual_seed`` with the simulation's seed.
        loss: from outputs and labels to one loss for each row (``reduction="none"``); a step takes their mean.
        batch, epochs: rows of a step, passes over a site's rows in a round.
        descent: learning rate, momentum, weight decay, FedProx's μ.
        features, label: columns; by default the one that is not the dataset's label, and the label.
        shuffle: a new order of a site's rows for each epoch; without it they are taken as they lie.
        together: how many sites' models to train in one batched product: 1, one after the other; None, whatever is
            faster here, by a measurement at the start. The results differ in the last bits: 1e-7 of an update's norm
            measured, 1e-4 at most in the tests. Write the number out where runs must agree to the bit.
        channels_last: images with their channels innermost. Same precision, another order of sums: 5e-4 of an
            update's norm measured, 1e-3 at most in the tests.
        bfloat16: products in bfloat16 (``torch.autocast``): 8 % of an update's norm measured, 18 % on pure noise,
            10 % at most in the tests. Pays where the processor has it (AVX-512-BF16, AMX, GPUs); seven times slower
            where it has not.
        judge: metrics from outputs and labels; by default the mean loss and the accuracy.
    """

    module: Callable[[], nn.Module]
    loss: Loss
    batch: int
    descent: Descent
    epochs: int = 1
    features: tuple[str, ...] = ()
    label: str = ""
    shuffle: bool = True
    together: int | None = None
    channels_last: bool = False
    bfloat16: bool = False
    judge: Judge | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 1:
            raise ValueError("batch, epochs: at least 1 each expected")
        if self.together is not None and not 1 <= self.together <= _MOST_TOGETHER:
            raise ValueError(f"together: 1 to {_MOST_TOGETHER} expected")

    def prepare(self, data: SiteData) -> TorchTask:
        """The task of these sites.

        Raises:
            ValueError: no such column, a module with tensors of other types than float32, float64 and int64, or one
                that ``together`` sites cannot be trained for at once.
        """
        columns = _columns(self, data)
        rows = SiteTensors.of(data, columns, channels_last=self.channels_last)
        judged = {name: columns.of(probe) for name, probe in data.probed().items()}
        return TorchTask(self, rows, Judged(held_out(data.held_out, columns), judged), data.seed, None)

    def under(self, privacy: Privacy, aggregation: Aggregation) -> TorchRecipe:
        """The same with the proximal term that a plan with these terms tells sites.

        Raises:
            ValueError: under DP-SGD: nothing here counts private steps.
        """
        if privacy.dp_sgd is not None:
            raise ValueError("privacy: dp-sgd is for Flower apps, whose private steps are counted")
        if not aggregation.proximal_mu:
            return self
        return replace(self, descent=replace(self.descent, proximal=float(aggregation.proximal_mu)))

    def to_json(self) -> Mapping[str, object]:
        """The settings; functions by their names."""
        return {
            "kind": "torch",
            "module": _name(self.module),
            "loss": _name(self.loss),
            "batch": self.batch,
            "epochs": self.epochs,
            **asdict(self.descent),
            "shuffle": self.shuffle,
            "together": self.together,
            "channels_last": self.channels_last,
            "bfloat16": self.bfloat16,
        }


class TorchTask:
    """What :class:`TorchRecipe` makes of the sites' rows: a ``simulations.task.Task``."""

    def __init__(self, recipe: TorchRecipe, rows: SiteTensors, judged: Judged, seed: int, together: int | None) -> None:
        self._recipe, self._judged, self._seed = recipe, judged, seed
        self._rows = rows
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = recipe.module()
        self._layout = layout_of(module)
        self._one = OneByOne(
            module,
            loss=recipe.loss,
            descent=recipe.descent,
            batch=recipe.batch,
            channels_last=recipe.channels_last,
            bfloat16=recipe.bfloat16,
        )
        self._initial = self._one.flat
        self._dice = Dice(seed, "torch: training")
        self._together = self._how_many(module) if together is None else together
        self._trainer: OneByOne | Together = self._one
        if self._together > 1:
            self._trainer = self._stack(Stacked.of(module), self._together)
        else:
            self._one.take_shortcuts(self._initial, self._trial)

    @property
    def layout(self) -> Layout:
        """As :class:`Task`."""
        return self._layout

    @property
    def keeps_state(self) -> bool:
        """As :class:`Task`: a site remembers nothing."""
        return False

    @property
    def together(self) -> int:
        """As :class:`Task`: how many sites are trained in one batched product."""
        return self._together

    def initial(self) -> Vector:
        """As :class:`Task`."""
        return np.array(self._initial.numpy())

    def train(self, model: Vector, jobs: Sequence[Job], out: NDArray[np.float32]) -> list[Trained]:
        """As :class:`Task`; the updates of sites that are trained together differ in the last bits."""
        sites = [self._site(job) for job in jobs]
        rows = [torch.from_numpy(row) for row in out]
        lessons = self._trainer.train(torch.from_numpy(model), sites, rows)
        for job in jobs:
            self._rows.release(job.site)
        return [_trained(site, row, lesson) for site, row, lesson in zip(sites, rows, lessons, strict=True)]

    def evaluate(self, model: Vector) -> Mapping[str, float]:
        """As :class:`Task`: what ``judge`` says of the held-out rows, and of those on which an attack shows."""
        if self._judged.held_out is None:
            return {}
        self._one.load(torch.from_numpy(model))
        judge = self._recipe.judge or self._judge
        metrics = dict(judge(self._outputs(self._judged.held_out[0]), self._judged.held_out[1]))
        for name, (features, labels) in self._judged.probed.items():
            metrics |= {f"{name}-{key}": value for key, value in judge(self._outputs(features), labels).items()}
        return metrics

    def __reduce__(self) -> tuple[Any, ...]:
        """The rows as they are, the module made anew where it arrives, what was measured here kept."""
        return TorchTask, (self._recipe, self._rows, self._judged, self._seed, self._together)

    def _site(self, job: Job) -> SiteBatch:
        recipe, rng = self._recipe, self._dice.at(job.round, job.site)
        return SiteBatch.drawn(self._rows.of_site(job.site), rng, epochs=recipe.epochs, shuffle=recipe.shuffle)

    @property
    def _trial(self) -> SiteBatch:
        """A few steps of the site that has most rows."""
        features, labels = self._rows.of_site(int(np.argmax(np.diff(self._rows.starts))))
        rows = _TRIAL_STEPS * self._recipe.batch
        return SiteBatch(features[:rows], labels[:rows], [None])

    def _how_many(self, module: nn.Module) -> int:
        """How many sites to train together; measured on one thread, as the engines run."""
        recipe, sites = self._recipe, len(self._rows.starts) - 1
        if recipe.together == 1 or recipe.bfloat16 or recipe.channels_last:
            return 1
        try:
            stacked = Stacked.of(module)
        except NotStackable as reason:
            if recipe.together is None:
                return 1
            raise ValueError(f"together: sites cannot be trained at once with this module: {reason}") from None
        if recipe.together is not None:
            return recipe.together
        trial, threads = self._trial, torch.get_num_threads()

        def run(count: int) -> None:
            trainer = self._one if count == 1 else self._stack(stacked, count)
            trainer.train(self._initial, [trial] * count, list(torch.empty(count, len(self._initial))))

        torch.set_num_threads(1)
        try:
            return fastest((stacked.shapes, trial.features.shape, recipe.batch, recipe.descent), run, sites)
        finally:
            torch.set_num_threads(threads)

    def _stack(self, stacked: Stacked, count: int) -> Together:
        recipe = self._recipe
        return Together(stacked, count=count, loss=recipe.loss, descent=recipe.descent, batch=recipe.batch)

    def _outputs(self, features: Tensor) -> Tensor:
        module = self._one.module.eval()
        with torch.no_grad():
            return torch.cat([module(part) for part in features.split(_EVALUATED_AT_ONCE)])

    def _judge(self, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
        loss = float(self._recipe.loss(outputs, labels).mean())
        return {"loss": loss, "accuracy": _accuracy(outputs, labels)}


@dataclass(frozen=True, slots=True)
class Judged:
    """Features and labels by which a model is judged: rows that no site has, and those on which attacks show."""

    held_out: tuple[Tensor, Tensor] | None
    probed: Mapping[str, tuple[Tensor, Tensor]]


def _trained(site: SiteBatch, update: Tensor, lesson: Lesson) -> Trained:
    rows = len(site.features)
    if not (math.isfinite(float(update.sum())) or bool(update.isfinite().all())):  # a sum may leave float32's range
        return Trained(rows, {}, lesson.seconds, Reason.APP_REPLY)
    metrics = {"loss": lesson.loss} if math.isfinite(lesson.loss) else {}
    return Trained(rows, metrics, lesson.seconds)


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    """The share of rows that are classified rightly: by the largest of several outputs, or the sign of one."""
    if outputs.dim() > 1 and outputs.shape[1] > 1:
        right = outputs.argmax(1) == labels
    else:
        right = (outputs.reshape(-1) > 0) == (labels.reshape(-1) > 0.5)
    return float(right.float().mean())


def _columns(recipe: TorchRecipe, data: SiteData) -> Columns:
    label = recipe.label or data.dataset.label
    if not label:
        raise ValueError("label: neither the recipe nor the dataset names the column to predict")
    features = recipe.features or tuple(name for name in data.dataset.columns if name != label)
    if not features:
        raise ValueError(f"features: the dataset has no column besides {label!r}")
    return Columns(features, label)


def _name(function: Any) -> str:
    inner = getattr(function, "func", function)  # of a functools.partial
    return f"{inner.__module__}.{inner.__qualname__}" if hasattr(inner, "__qualname__") else type(inner).__qualname__
