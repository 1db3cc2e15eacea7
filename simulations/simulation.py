"""A federation on this machine, in a few lines. Trust zone: the developer's machine.

::

    simulation = Simulation(Function(train, initial), dataset, partition, rounds=20, cohort=10, aggregation="median")
    result = simulation.run()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.aggregator import Aggregator
from simulations.aggregators.unsealed import Unsealed
from simulations.behaviour import Behaviour
from simulations.cast import Cast
from simulations.dataset import Dataset
from simulations.dice import secret
from simulations.engine import Engine
from simulations.engines.in_process import InProcess
from simulations.engines.pool import Pool
from simulations.engines.ray import Ray
from simulations.lanes import Lanes
from simulations.pace import Pace
from simulations.partition import Partition
from simulations.result import Result, RoundRow
from simulations.rounds import Rounds
from simulations.setting import Setting
from simulations.site_data import SiteData
from simulations.site_files import Scratch
from simulations.task import Recipe, UnderTerms
from simulations.terms import (
    Terms,
    cohort_of,
    read_aggregation,
    read_deadlines,
    read_exchange,
    read_privacy,
)
from simulations.wire import Wire
from trusted.apps.arrays import split_vector
from trusted.documents.plan import Plan
from trusted.documents.terms import Aggregation, Deadlines, Exchange, MetricRule, Privacy

if TYPE_CHECKING:
    from simulations.of_plan import Papers

ENGINES = ("pool", "in-process", "ray")
FORMAT = "cloister-simulation/v1"
_ORDINARY = Pace()


class Simulation:
    """One run of a plan's terms over virtual sites, the same to the bit for the same seed, whatever the engine.

    ``trains`` is a recipe (:mod:`simulations.tasks`), or the folder of a Flower app. ``cohort`` sites are drawn each
    round, all if it is None; with fewer than ``minimum`` answers nothing is folded. ``aggregation``, ``privacy``,
    ``exchange`` and ``deadlines`` are the plan's, as objects or as a plan spells them. ``evaluate_every`` 0: only after
    the last round. With ``admission`` every site is attested and admitted, and everything is sealed, witnessed and
    released as in a deployed run: the same model to the bit where no noise is added, in more time.

    Raises:
        ValueError, ProtocolError: in one sentence, what does not fit.
    """

    _scratch: Scratch  # of a plan's app, for as long as the simulation

    def __init__(
        self,
        trains: Recipe | Path | str,
        dataset: Dataset,
        partition: Partition,
        *,
        rounds: int = 10,
        cohort: int | None = None,
        minimum: int | None = None,
        aggregation: Aggregation | Mapping[str, Any] | str = "weighted-mean",
        privacy: Privacy | Mapping[str, Any] | None = None,
        exchange: Exchange | Mapping[str, Any] | None = None,
        deadlines: Deadlines | Mapping[str, Any] | None = None,
        metrics: Sequence[MetricRule] = (),
        held_out: Dataset | None = None,
        behaviours: Sequence[Behaviour] = (),
        pace: Pace = _ORDINARY,
        engine: Engine | str = "pool",
        seed: int = 0,
        evaluate_every: int = 1,
        admission: bool = False,
    ) -> None:
        if not isinstance(partition, Partition):
            raise ValueError(f"partition: which site has which rows expected, not a {type(partition).__name__}")
        private = read_privacy(privacy)
        rule = read_aggregation(aggregation, private)
        terms = Terms(
            rounds=rounds,
            cohort=cohort_of(partition.names, cohort, minimum, rule.least),
            aggregation=rule,
            privacy=private,
            exchange=read_exchange(exchange),
            deadlines=read_deadlines(deadlines),
            metrics=tuple(metrics),
        )
        data = SiteData.of(dataset, partition, held_out, seed, behaviours)
        self._admission, self._every, self._cohorts = admission, evaluate_every, secret(seed, "cohorts")
        self._begin(trains, data, terms, behaviours, pace, engine)

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        papers: Papers,
        *,
        cohorts: bytes | None = None,
        held_out: Dataset | None = None,
        behaviours: Sequence[Behaviour] = (),
        pace: Pace = _ORDINARY,
        engine: Engine | str = "pool",
        seed: int = 0,
        evaluate_every: int = 1,
        admission: bool = False,
    ) -> Simulation:
        """What a deployed run of ``plan`` does: the same bits where it adds no noise, with one thread for each site.

        ``cohorts``: the run's own seed of cohorts (32 bytes), which its log tells at the end.

        Raises:
            ValueError, ProtocolError: in one sentence, what does not fit: not the app, the model or the data of it.
        """
        from simulations.of_plan import app_of, sites_of  # brings flwr, and what that brings

        made = cls.__new__(cls)
        made._scratch = Scratch()
        app = app_of(plan, papers, made._scratch)
        data = sites_of(app.require_admitted(), seed, held_out, behaviours)
        made._admission, made._every, made._cohorts = admission, evaluate_every, cohorts or secret(seed, "cohorts")
        made._begin(app, data, Terms.of_plan(plan), behaviours, pace, engine)
        return made

    def _begin(
        self,
        trains: Recipe | Path | str,
        data: SiteData,
        terms: Terms,
        behaviours: Sequence[Behaviour],
        pace: Pace,
        engine: Engine | str,
    ) -> None:
        """Prepare everything: what does not fit is told here, where it was written."""
        self._data, self._terms, self._behaviours = data, terms, tuple(behaviours)
        self._pace, self._engine = pace, chosen(engine)
        self._cast = Cast(behaviours, data.partition.names, data.seed)
        recipe = _recipe(trains)
        self._said = dict(recipe.to_json())
        self._under_terms = _under(recipe, terms)
        self._task, self._is_fresh = self._under_terms.prepare(data), True
        terms.exchanged(self._task.layout)
        if self._admission:
            from simulations.aggregators.agreed import require_agreeable

            require_agreeable(terms, self._task.layout)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain JSON: what was simulated, of which ``cloister plan new --from-simulation`` takes what is a plan's."""
        return {
            "format": FORMAT,
            "seed": self._data.seed,
            "terms": self._terms.to_json(),
            "task": self._said,
            "partition": {"sites": len(self._data.partition), "rows": self._data.partition.size},
            "behaviours": [_said_of(behaviour) for behaviour in self._behaviours],
            "pace": self._pace.to_json(),
            "engine": self._engine.name,
            "admission": self._admission,
        }

    def save_settings(self, path: Path | str) -> None:
        """Write :attr:`settings`, for ``cloister plan new --from-simulation``."""
        Path(path).write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")

    def save_initial(self, path: Path | str) -> None:
        """Write the model that the simulation starts from, as ``cloister plan new --initial-model`` takes it."""
        from safetensors.numpy import save_file

        save_file(split_vector(self._task.layout, self._task.initial()), Path(path))

    def run(self, on_round: Callable[[RoundRow], object] | None = None) -> Result:
        """All rounds; ``on_round`` hears of each as it ends. Whatever ends it, no process stays behind.

        Raises:
            RuntimeError: a process of the engine died. Whatever a function of the task or of a behaviour raises.
        """
        size = self._terms.cohort.size
        if self._task.keeps_state and not self._is_fresh:  # sites remember nothing of an earlier run
            self._task = self._under_terms.prepare(self._data)
        self._is_fresh = False
        setting = self._setting()
        holds_all = self._admission or Unsealed.holds_all(setting)
        with Lanes() as lanes, self._engine.open(self._task, most_jobs=size, holds_all=holds_all) as crew:
            wire = Wire(self._terms.exchanged(self._task.layout), self._terms.privacy, self._task.initial())
            aggregator, admission_s = self._aggregator(setting, wire, lanes)
            rounds = Rounds(setting, crew, wire, aggregator)
            rows = []
            for row in rounds.run():
                rows.append(row)
                if on_round is not None:
                    on_round(row)
            model = aggregator.model
        return Result(self.settings, tuple(rows), rounds.ending, self._task.layout, model, admission_s)

    def _aggregator(self, setting: Setting, wire: Wire, lanes: Lanes) -> tuple[Aggregator, float | None]:
        """Whoever folds, and the seconds in which it admitted its sites; None: it admits nobody."""
        if not self._admission:
            return Unsealed(setting, wire, lanes), None
        from simulations.aggregators.admitted import Admitted  # brings the worker, and the software TEE

        admitted = Admitted(setting, wire, lanes)
        return admitted, admitted.admission_s

    def _setting(self) -> Setting:
        partition = self._data.partition
        return Setting(
            terms=self._terms,
            task=self._task,
            names=partition.names,
            sizes=partition.sizes.tolist(),
            cast=self._cast,
            pace=self._pace,
            seed=self._data.seed,
            cohorts=self._cohorts,
            evaluate_every=self._every,
        )


def chosen(engine: Engine | str) -> Engine:
    """The engine of this name, with its usual settings.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(engine, str):
        return engine
    if engine == "pool":
        return Pool()
    if engine == "in-process":
        return InProcess()
    if engine == "ray":
        return Ray()
    raise ValueError(f"engine: one of {', '.join(ENGINES)} expected, not {engine!r}")


def _said_of(behaviour: Behaviour) -> dict[str, Any]:
    sites = list(behaviour.sites) if isinstance(behaviour.sites, tuple) else behaviour.sites
    return {"name": behaviour.name, "says": behaviour.says, "sites": sites}


def _recipe(trains: Recipe | Path | str) -> Recipe:
    if not isinstance(trains, Path | str):
        return trains
    from simulations.tasks.app import App  # brings flwr, and what that brings

    return App(Path(trains))


def _under(recipe: Recipe, terms: Terms) -> Recipe:
    """The recipe, told what the plan tells sites."""
    if isinstance(recipe, UnderTerms):
        return recipe.under(terms.privacy, terms.aggregation)
    if terms.privacy.dp_sgd is not None:
        raise ValueError("privacy: dp-sgd is for Flower apps, whose private steps are counted")
    return recipe
