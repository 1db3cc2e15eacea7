"""What a site reaches alone, and what all would reach with their data in one place. Trust zone: none.

For demonstrations with public data only: whoever runs this sees every site's rows, which is what Cloister is there to
avoid. The app's own code trains and judges, with the plan's rounds and configuration, so that the figures compare.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from trusted.apps.arrays import split_vector
from trusted.apps.config import Scalar
from trusted.documents.layout import Layout
from worker.flower import FlowerApp
from worker.trainer import Call, Trainer, Vector, join_arrays


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained: the app's folder, its run configuration, its layout, its first vector, and the rounds.

    ``metrics`` are those of the app's evaluation that models are compared by.
    """

    app_dir: Path
    config: Mapping[str, Scalar]
    layout: Layout
    initial: Vector
    rounds: int
    metrics: tuple[str, ...]


Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics of one model on held-out rows, by name: on everybody's, and on each site's own."""

    everyone: Metrics
    by_site: Mapping[str, Metrics]


class Baselines:
    """Trains without a federation. ``sites`` are CSV files by name. Use it with ``with``: it keeps copies on disk."""

    def __init__(self, recipe: Recipe, sites: Mapping[str, Path]) -> None:
        self._recipe = recipe
        self._folder = tempfile.TemporaryDirectory(prefix="cloister-baselines-")
        pool = Path(self._folder.name)
        for name, path in sites.items():
            shutil.copyfile(path, pool / f"{name}.csv")
        self._sites = {name: self._load(pool / f"{name}.csv") for name in sites}
        self._pool = self._load(pool)

    def __enter__(self) -> Baselines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def judge(self, model: Vector) -> Scores:
        """The scores of any model, float32[elements]: that of a federation, for one."""
        return Scores(self._judged(self._pool, model), self.judge_by_site(model))

    def judge_by_site(self, model: Vector) -> dict[str, Metrics]:
        """The metrics of any model, float32[elements], on each site's own held-out rows."""
        return {name: self._judged(app, model) for name, app in self._sites.items()}

    def alone(self, site: str) -> Scores:
        """The scores of the model that ``site`` trains on its own rows alone, for as many rounds."""
        return self.judge(self.train_alone(site))

    def pooled(self) -> Scores:
        """The scores of the model that is trained on all sites' rows in one place."""
        return self.judge(self.train_pooled())

    def train_alone(self, site: str) -> Vector:
        """The model that ``site`` trains on its own rows alone, for as many rounds."""
        return self._trained(self._sites[site])

    def train_pooled(self) -> Vector:
        """The model that is trained on all sites' rows in one place."""
        return self._trained(self._pool)

    def _load(self, data: Path) -> FlowerApp:
        return FlowerApp.load(
            self._recipe.app_dir, config=self._recipe.config, node_config={"data-path": str(data)}, log=_unheard
        )

    def _trained(self, app: FlowerApp) -> Vector:
        layout, model = self._recipe.layout, self._recipe.initial
        for number in range(1, self._recipe.rounds + 1):
            reply = app.ask(Call.TRAIN, split_vector(layout, model), round_number=number)
            model = join_arrays(layout, reply.arrays)
        return model

    def _judged(self, app: FlowerApp, model: Vector) -> Metrics:
        metrics = Trainer(app, self._recipe.layout, _unheard).evaluate(model, self._recipe.rounds)
        missing = [name for name in self._recipe.metrics if name not in metrics]
        if missing:
            raise ValueError(f"baselines: the app's evaluate function must return {', '.join(missing)}")
        return {name: metrics[name] for name in self._recipe.metrics}


def _unheard(text: str) -> None:
    """The data is public and the app ours: what it says is of no use here."""
