"""A deployed federation in memory whose sites run a Flower app: admitted, sealed, folded and released for real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simulations.hosts.released import opened
from simulations.hosts.working import WorkingNet, WorkingSite
from softtee.chip import Chip, SoftwareRoot
from tests.world import Net, World
from worker.contract import Gate
from worker.dataset import Source, admit_dataset
from worker.flower import FlowerApp
from worker.strata import without_columns
from worker.trainer import Call, Trainer


class Training:
    """What the trainer process does, in this process."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def train(self, model: np.ndarray, number: int, *, timeout_s: float) -> Any:
        return self.trainer.train(model, number)


class AppSite(WorkingSite):
    """A member's worker: its own app, on data that was admitted under the plan's contract."""

    def __init__(self, net: Net, member: str, app_dir: Path, data: Path, into: Path, **more: Any) -> None:
        plan = net.world.plan.document
        into.mkdir(parents=True)
        admit_dataset(Source(data), Gate(plan.dataset, net.world.now), into=into, secret=bytes(32))
        unseen = () if plan.evaluation is None else plan.evaluation.unseen
        seen = without_columns(into, unseen, into.with_name(f"{into.name}.seen"))
        app = FlowerApp.load(
            app_dir,
            config=dict(plan.app.config),
            node_config={"data-path": str(seen), "partition-id": 0, "num-partitions": 1},
            messages={
                Call.TRAIN: dict(plan.app.train_config) | plan.aggregation.train_config,
                Call.EVALUATE: dict(plan.app.evaluate_config),
            },
            changes=plan.app.changes,
            log=print,
        )
        super().__init__(net, member, Training(Trainer(app, plan.layout, print)), **more)


def deployed(
    chip: Chip, root: SoftwareRoot, app_dir: Path, data: Mapping[str, Path], work: Path, *, initial: Any, **plan: Any
) -> tuple[World, WorkingNet, np.ndarray]:
    """A run of this plan to its end; the model that its first member opens."""
    world = World(root, chip, members=tuple(data), plan_changes=plan, initial=initial)
    net = WorkingNet(world)
    for place, (member, path) in enumerate(data.items()):
        net.join(AppSite(net, member, app_dir, path, work / member, has_initial=place == 0))
    net.start()
    assert net.aggregator.state.value == "finished", net.events
    return world, net, opened(world, net.store, net.now)
