"""What five ways to train are worth on the same later payments, SYNTHETIC. Trust zone: none; all rows are here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.table import Table

from console.baselines import Baselines, Metrics, Recipe
from console.demo.fraud.banks import Books, together
from console.demo.fraud.transactions import FRAUDS, Typology
from console.demo.playing import Played
from console.initial_model import read_initial_model
from worker.trainer import Vector

PRECISION, RECALL = "average-precision", "recall-at-fpr-0.005"
_HEADINGS = {
    "local_mean": "each bank alone, mean",
    "federated": "federated, all honest",
    "pooled": "pooled in one place",
    "poisoned_mean": "one bank lies: mean",
    "poisoned_krum": "one bank lies: Multi-Krum",
}


@dataclass(frozen=True, slots=True)
class Worth:
    """The metrics of one way to train: on everybody's later payments, and where all fraud is of one kind."""

    everyone: Metrics
    by_typology: Mapping[Typology, Metrics]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``ways`` by the names of ``_HEADINGS``, and each bank's own model on everybody's payments."""

    ways: Mapping[str, Worth]
    alone: Mapping[str, Metrics]

    def to_json(self) -> dict[str, Any]:
        """The figures of ``cloister demo bank --json``."""
        return {
            "average_precision": self._figures(PRECISION),
            "recall_at_fpr_0_005": self._figures(RECALL),
            "recall_by_typology": {
                way: {kind.name.lower(): round(metrics[RECALL], 4) for kind, metrics in worth.by_typology.items()}
                for way, worth in self.ways.items()
            },
            "local_by_bank": {
                bank: {"average_precision": round(each[PRECISION], 4), "recall_at_fpr_0_005": round(each[RECALL], 4)}
                for bank, each in self.alone.items()
            },
        }

    def _figures(self, metric: str) -> dict[str, float]:
        return {way: round(worth.everyone[metric], 4) for way, worth in self.ways.items()}

    def tables(self) -> tuple[Table, Table]:
        """The same for people: over all fraud, and by its kind."""
        overall = Table(title="SYNTHETIC payments of the last 27 days, of all five banks")
        overall.add_column("model")
        kinds = Table(title="Share of frauds found at 0.5 % false alarms, by kind (SYNTHETIC)")
        kinds.add_column("model")
        for heading in ("average precision", "found at 0.5 % false alarms"):
            overall.add_column(heading, justify="right")
        for kind in FRAUDS:
            kinds.add_column(kind.name.lower().replace("_", " "), justify="right")
        for way, worth in self.ways.items():
            overall.add_row(_HEADINGS[way], f"{worth.everyone[PRECISION]:.3f}", f"{worth.everyone[RECALL]:.1%}")
            kinds.add_row(_HEADINGS[way], *(f"{worth.by_typology[kind][RECALL]:.0%}" for kind in FRAUDS))
        return overall, kinds

    def sentences(self, poisoner: str) -> tuple[str, ...]:
        """What the figures say, and what they do not."""
        recall = {way: f"{worth.everyone[RECALL]:.0%}" for way, worth in self.ways.items()}
        precision = {way: f"{worth.everyone[PRECISION]:.3f}" for way, worth in self.ways.items()}
        return (
            f"At 0.5 % false alarms a bank alone finds {recall['local_mean']} of the frauds, the five together "
            f"{recall['federated']}, and all data in one place, which real banks may not do, {recall['pooled']}.",
            f"{poisoner} turned its labels round and wrote each row several times, so as to weigh more. Its enclave "
            "and app were the approved ones: attestation proves what ran, not that what it was fed is true.",
            f"Folded by a mean that costs average precision {precision['federated']} → {precision['poisoned_mean']}; "
            "Multi-Krum, which in each round keeps the updates that lie closest together, reaches "
            f"{precision['poisoned_krum']}.",
            "These payments are SYNTHETIC: the figures show that the parts work, not what a real bank would find.",
        )


def compare(books: Mapping[str, Books], played: Mapping[str, Played]) -> Comparison:
    """Train without a federation, and judge all models alike, by the true books."""
    honest = played["federated"].prepared
    plan, initial = honest.papers.plan.document, read_initial_model(honest.folder.initial_model)
    recipe = Recipe(
        honest.cast.app, dict(plan.app.config), plan.layout, initial.vector, plan.rounds, (PRECISION, RECALL)
    )
    with Baselines(recipe, honest.scene.data) as baselines, tempfile.TemporaryDirectory() as folder:
        models = {"pooled": baselines.train_pooled()}
        models |= {name.replace("-", "_"): run.opened.vector for name, run in played.items()}
        with Baselines(recipe, _one_kind_each(books, Path(folder))) as kinds:
            alone = {bank: _worth(baselines, kinds, baselines.train_alone(bank)) for bank in books}
            ways = {way: _worth(baselines, kinds, model) for way, model in models.items()}
    ways["local_mean"] = _mean(list(alone.values()))
    return Comparison({way: ways[way] for way in _HEADINGS}, {bank: worth.everyone for bank, worth in alone.items()})


def _one_kind_each(books: Mapping[str, Books], folder: Path) -> dict[str, Path]:
    """For each kind of fraud a file of all banks' later payments that are honest or of that kind."""
    later = together([each.take(each.held_out) for each in books.values()])
    files = {}
    for kind in FRAUDS:
        files[kind.name] = folder / f"synthetic-{kind.name.lower()}.csv"
        later.take(np.isin(later.typology, (Typology.HONEST, kind))).write(files[kind.name])
    return files


def _worth(baselines: Baselines, kinds: Baselines, model: Vector) -> Worth:
    by_kind = kinds.judge_by_site(model)
    return Worth(baselines.judge(model).everyone, {kind: by_kind[kind.name] for kind in FRAUDS})


def _mean(worths: list[Worth]) -> Worth:
    return Worth(
        _mean_of([worth.everyone for worth in worths]),
        {kind: _mean_of([worth.by_typology[kind] for worth in worths]) for kind in FRAUDS},
    )


def _mean_of(metrics: list[Metrics]) -> Metrics:
    return {name: fmean(each[name] for each in metrics) for name in (PRECISION, RECALL)}
