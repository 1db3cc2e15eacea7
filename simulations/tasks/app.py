"""An unmodified Flower app as what sites train, by the code of a deployed worker. Trust zone: the developer's machine.

Each site has the app with a Context of its own, kept from round to round, and its rows as CSV files in a folder
(``data-path``). ``worker.flower`` speaks to the app and ``worker.trainer`` checks what it answers, as in a worker; what
is not there is the confined process. An app that draws from Python's, NumPy's or torch's global generators finds them
seeded for each site and round, so that a simulation is the same twice.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.dataset import Dataset, Rows
from simulations.dice import NOBODY, Dice
from simulations.site_data import SiteData
from simulations.site_files import AdmittedData, AdmittedFiles, Scratch, SiteFiles, WrittenFiles, write_csv
from simulations.task import Job, Trained
from simulations.tasks.app_model import Arrays, initial_model
from trusted.documents.layout import Layout
from trusted.documents.terms import Aggregation, DpSgd, Privacy, Scalar
from trusted.documents.terms.app import Change
from trusted.encoding import Vector
from trusted.errors import AppError, Reason
from worker import dp_sgd
from worker.flower import FlowerApp
from worker.trainer import Call, Trainer

Config = Mapping[str, Scalar]
_NO_SITE = "held-out"  # no member is called so: its folder has an ending
_SEEDS = 1 << 32


@dataclass(frozen=True, slots=True)
class App:
    """The Flower app in ``folder``.

    Attributes:
        initial: a safetensors file, or arrays by name; None: what the app's ServerApp gives to its strategy.
        config, train_config, evaluate_config, changes: as ``plan.app`` has them.
        columns: those of the dataset that the app gets; empty: all.
        private: how it must train, where the plan asks for DP-SGD.
        admitted: members' own data, in place of the simulation's dataset.
    """

    folder: Path
    initial: Path | Arrays | None = field(default=None, repr=False)
    config: Config = field(default_factory=dict)
    train_config: Config = field(default_factory=dict)
    evaluate_config: Config = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    columns: tuple[str, ...] = ()
    private: DpSgd | None = None
    admitted: AdmittedData | None = None

    def require_admitted(self) -> AdmittedData:
        """Members' own data.

        Raises:
            RuntimeError: this app trains on a simulation's dataset.
        """
        if self.admitted is None:
            raise RuntimeError("app: no member's data was admitted")
        return self.admitted

    def shown(self, rows: Rows) -> Rows:
        """Of ``rows`` that no site has, the columns that an app gets to see at a site."""
        hidden = () if self.admitted is None else self.admitted.unseen
        wanted = self.columns or tuple(rows)
        return {name: column for name, column in rows.items() if name in wanted and name not in hidden}

    def under(self, privacy: Privacy, aggregation: Aggregation) -> App:
        """The same as a worker is told under a plan with these terms."""
        told = dict(self.train_config) | aggregation.train_config
        return replace(self, train_config=told, private=privacy.dp_sgd)

    def prepare(self, data: SiteData) -> AppTask:
        """The app, imported here, at every site.

        Raises:
            ValueError: the dataset has no such column. AppError: no app, or none with a ClientApp, or one whose import
                raises.
        """
        if not (self.folder / "pyproject.toml").is_file():
            raise ValueError(f"app: no pyproject.toml in {self.folder}; the folder of a Flower app expected")
        words: list[str] = []
        _forget_another(self.folder)
        dp_sgd.set_terms(self.private)
        try:
            app = self._load(words)
        except AppError as error:
            raise AppError(error.reason, f"{error.detail}{_said(words)}") from None
        layout, initial = initial_model(self.initial, self.folder, self.config)
        scratch = Scratch()
        if self.columns:
            data = replace(data, dataset=_only(data.dataset, self.columns))
        if self.admitted is None:
            files: SiteFiles = WrittenFiles(data, scratch.made("sites"))
        else:
            files = AdmittedFiles(self.admitted, data, scratch.made("sites"))
        return AppTask(self, app, layout, initial, data, files, scratch, words)

    def to_json(self) -> dict[str, Any]:
        """For a result's settings, and for a plan."""
        return {
            "task": "flower",
            "folder": str(self.folder.absolute()),
            "config": dict(self.config),
            "train_config": dict(self.train_config),
            "evaluate_config": dict(self.evaluate_config),
            "changes": [change.to_json() for change in self.changes],
            "columns": list(self.columns),
        }

    def _load(self, words: list[str]) -> FlowerApp:
        # As worker.trainer_process: a site is the one partition of its own data.
        return FlowerApp.load(
            self.folder,
            config=self.config,
            node_config={"data-path": "", "partition-id": 0, "num-partitions": 1},
            messages={Call.TRAIN: self.train_config, Call.EVALUATE: self.evaluate_config},
            changes=self.changes,
            log=words.append,
        )


class AppTask:
    """An app at each site that has trained so far; a site that never did costs nothing."""

    keeps_state = True
    together = 1

    def __init__(
        self,
        recipe: App,
        app: FlowerApp,
        layout: Layout,
        initial: Vector,
        data: SiteData,
        files: SiteFiles,
        scratch: Scratch,
        words: list[str],
    ) -> None:
        self.layout = layout
        self._recipe, self._app, self._initial = recipe, app, initial
        self._data, self._files, self._scratch, self._words = data, files, scratch, words
        self._sites: dict[int, Trainer] = {}
        self._dice = Dice(data.seed, "global generators of apps")
        self._judged: dict[str, Path] | None = None

    def initial(self) -> Vector:
        """What the app starts from."""
        return self._initial

    def train(self, model: Vector, jobs: Sequence[Job], out: NDArray[np.float32]) -> list[Trained]:
        """One site after the other; an app that fails costs its own site the round."""
        return [self._train(model, job, row) for job, row in zip(jobs, out, strict=True)]

    def evaluate(self, model: Vector) -> Mapping[str, float]:
        """The app's own metrics of ``model`` on held-out rows, and on those that attacks aim at."""
        if not self._app.offers(Call.EVALUATE):
            return {}
        metrics: dict[str, float] = {}
        for name, folder in self._held_out().items():
            self._seed_globals(0, NOBODY)
            found = Trainer(self._app.elsewhere(folder), self.layout, self._words.append).evaluate(model, 0)
            metrics |= {f"{name}-{key}" if name else key: value for key, value in found.items()}
        return metrics

    def _train(self, model: Vector, job: Job, out: Vector) -> Trained:
        begun = time.perf_counter()
        self._words.clear()
        dp_sgd.set_terms(self._recipe.private)  # each round anew, as worker.trainer_process
        self._seed_globals(job.round, job.site)
        try:
            result = self._site(job.site).train(model, job.round)
            self._require_private()
        except AppError as error:
            out[:] = 0.0
            return Trained(0, {}, time.perf_counter() - begun, error.reason, f"{error.detail}{_said(self._words)}")
        out[:] = result.delta
        seconds, steps = time.perf_counter() - begun, dp_sgd.steps() or 0
        return Trained(result.num_examples, result.metrics, seconds, private_steps=steps)

    def _require_private(self) -> None:
        """What the aggregator refuses of a worker that counted no step (``coordinator.enclave.answers``)."""
        if self._recipe.private is not None and not dp_sgd.steps():
            raise AppError(Reason.PRIVACY_REPORT, "app: it made no private step, and plan.privacy asks for them")

    def _site(self, site: int) -> Trainer:
        if site not in self._sites:
            app = self._app.elsewhere(self._files.folder(site))
            self._sites[site] = Trainer(app, self.layout, self._words.append)
        return self._sites[site]

    def _held_out(self) -> Mapping[str, Path]:
        """Folders of the rows to evaluate by: under no name those that no site has, else of an attack."""
        if self._judged is None:
            self._judged = {}
            if self._data.held_out is not None:
                rows = {"": self._data.held_out.columns, **self._data.probed()}
                for place, (name, columns) in enumerate(rows.items()):
                    self._judged[name] = self._scratch.made(f"{_NO_SITE}.{place}")
                    write_csv(self._recipe.shown(columns), self._judged[name] / "data.csv")
        return self._judged

    def _seed_globals(self, number: int, site: int) -> None:
        seed = int(self._dice.at(number, site).integers(_SEEDS))
        random.seed(seed)
        np.random.seed(seed)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(seed)


def _forget_another(folder: Path) -> None:
    """Let the app in ``folder`` be imported where one of the same package, from another folder, was before.

    A deployed worker has one app in its process; here somebody tries one after the other.
    """
    for package in [path.name for path in folder.iterdir() if path.is_dir() and path.name in sys.modules]:
        places = [Path(place).resolve() for place in getattr(sys.modules[package], "__path__", ())]
        others = [place.parent for place in places if place.parent != folder.resolve() and _is_app(place.parent)]
        if not others:
            continue  # an installed one: loading the app tells so
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() not in others]


def _is_app(folder: Path) -> bool:
    """Or was one, that was unpacked for an earlier simulation."""
    described = folder / "pyproject.toml"
    if not described.is_file():
        return not folder.exists()
    return "[tool.flwr.app" in described.read_text(encoding="utf-8", errors="replace")


def _only(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    label = dataset.label if dataset.label in columns else ""
    return Dataset({name: dataset.column(name) for name in columns}, label)


def _said(words: Sequence[str]) -> str:
    """The last line of what an app said."""
    lines = [line.strip() for text in words for line in text.splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""
