"""What the run was worth, and what its host saw. Trust zone: none; this process holds all sites' public data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from console.baselines import Baselines, Recipe, Scores
from console.demo.papers import APP, DATA, SITES
from console.opening import OpenedModel
from trusted.documents.layout import Layout
from trusted.documents.plan import Plan
from worker.trainer import Vector


@dataclass(frozen=True, slots=True)
class Comparison:
    """Three ways to train, judged on the same held-out persons: none of them was trained on."""

    alone: Mapping[str, Scores]
    federated: Scores
    pooled: Scores

    def to_json(self) -> dict[str, Any]:
        """``auc`` of ``cloister demo --json``. The three headline figures are over everybody's held-out persons."""
        return {
            "local_mean": round(fmean(scores.everyone for scores in self.alone.values()), 4),
            "federated": round(self.federated.everyone, 4),
            "pooled": round(self.pooled.everyone, 4),
            "by_site": {
                name: {
                    "local": round(self.alone[name].everyone, 4),
                    "local_on_own": round(self.alone[name].by_site[name], 4),
                    "federated_on_own": round(self.federated.by_site[name], 4),
                    "pooled_on_own": round(self.pooled.by_site[name], 4),
                }
                for name in self.alone
            },
        }

    def table(self) -> Table:
        """The same for people."""
        table = Table(title="AUC on held-out persons: who sees a doctor five times or more?")
        table.add_column("site")
        for heading in ("alone, everybody's", "alone, own", "federated, own", "pooled, own"):
            table.add_column(heading, justify="right")
        for name, scores in self.alone.items():
            figures = (scores.everyone, scores.by_site[name], self.federated.by_site[name], self.pooled.by_site[name])
            table.add_row(name, *(f"{figure:.3f}" for figure in figures))
        return table

    def sentences(self) -> tuple[str, ...]:
        """What the figures say, and what they do not."""
        best = max(scores.everyone for scores in self.alone.values())
        mean = fmean(scores.everyone for scores in self.alone.values())
        return (
            f"On everybody's held-out persons: alone {mean:.3f} (best site {best:.3f}), "
            f"federated {self.federated.everyone:.3f}, pooled {self.pooled.everyone:.3f}.",
            "Pooled is what nobody may do with real data; it is possible here because these data are public.",
        )


def compare(plan: Plan, initial: Vector, final: OpenedModel, seed: int) -> Comparison:
    """Train without a federation, and judge all models alike."""
    recipe = Recipe(APP, {"seed": seed}, plan.layout, initial, plan.rounds)
    with Baselines(recipe, {name: DATA / f"{name}.csv" for name in SITES}) as baselines:
        alone = {name: baselines.alone(name) for name in SITES}
        return Comparison(alone, baselines.judge(final.vector), baselines.pooled())


@dataclass(frozen=True, slots=True)
class HostView:
    """What a host has after a run: a table for people, and what of the models was found where it must not be."""

    table: Table
    searched_bytes: int
    found: tuple[str, ...]


def host_view(state: Path, log: Path, layout: Layout, needles: Mapping[str, bytes]) -> HostView:
    """Search everything that the host ever wrote for the first bytes of each model."""
    stored = _contents(state) + log.read_bytes()
    found = tuple(name for name, needle in needles.items() if needle in stored)
    blobs = sum(1 for path in (state / "blobs").rglob("*") if path.is_file())
    table = Table(title="What the host has, and what it has not")
    table.add_column("it saw")
    table.add_column("it did not see")
    table.add_row("who took part, when, and each measurement", "a row of data")
    table.add_row(f"how often {layout.size_bytes} bytes went up and down", "an update, or a site's weight")
    table.add_row("the rounded mean that the plan lets out", "a site's own metric")
    table.add_row(f"{blobs} sealed blobs, {len(stored)} bytes in all", f"{', '.join(needles)} (searched for)")
    return HostView(table, len(stored), found)


def _contents(folder: Path) -> bytes:
    content = bytearray()
    for root, _, files in os.walk(folder):
        for file in files:
            path = Path(root) / file
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    content += path.read_bytes()
    return bytes(content)
