"""A deployed federation in memory whose sites run a Flower app: admitted, sealed, folded and released for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softtee.chip import Chip, SoftwareRoot
from tests.enclave.runs import released_model
from tests.world import MemoryStore, Net, SimpleSite, World
from trusted.blob import BlobHeader
from trusted.exchange import Exchanged
from worker.contract import Gate
from worker.contribution import Contributor
from worker.dataset import Source, admit_dataset
from worker.flower import FlowerApp
from worker.participant import SendInitial, Train
from worker.trainer import Call, Trainer


class Transport:
    """The host's store, as a worker's transport."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        yield memoryview(self.store.blobs[blob])

    def put_blob(self, blob: bytes, sealed: Any, progress: Callable[[int], None]) -> None:
        self.store.blobs[blob] = bytes(sealed)


class Training:
    """What the trainer process does, in this process."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def train(self, model: np.ndarray, number: int, *, timeout_s: float) -> Any:
        return self.trainer.train(model, number)


class AppSite(SimpleSite):
    """A member's worker: its own app, on data that was admitted under the plan's contract."""

    def __init__(self, net: Net, member: str, app_dir: Path, data: Path, into: Path, **more: Any) -> None:
        super().__init__(net.world, member, **more)
        plan = net.world.plan.document
        into.mkdir(parents=True)
        admit_dataset(Source(data), Gate(plan.dataset, net.world.now), into=into, secret=bytes(32))
        app = FlowerApp.load(
            app_dir,
            config=dict(plan.app.config),
            node_config={"data-path": str(into), "partition-id": 0, "num-partitions": 1},
            messages={
                Call.TRAIN: dict(plan.app.train_config) | plan.aggregation.train_config,
                Call.EVALUATE: dict(plan.app.evaluate_config),
            },
            changes=plan.app.changes,
            log=print,
        )
        self.contributor = Contributor(
            Exchanged.of(net.world.plan),
            Transport(net.store),
            Training(Trainer(app, plan.layout, print)),
            self.identity.signing_key,
            frozenset(rule.name for rule in plan.metrics),
            60,
            plan.privacy,
        )


class AppNet(Net):
    """Sites that contribute by the worker's own code."""

    def __init__(self, world: World, initial: np.ndarray) -> None:
        super().__init__(world)
        self.initial = initial

    def act(self, connection: int, action: Any) -> None:
        site = self.sites[connection]
        assert isinstance(site, AppSite)
        if isinstance(action, SendInitial):
            self.say(connection, site.contributor.send_initial(action, self.initial))
        elif isinstance(action, Train):
            site.tasks.append(action)
            self.say(connection, site.contributor.contribute(action, lambda stage, percent: None).message())
        else:
            super().act(connection, action)


def deployed(
    chip: Chip, root: SoftwareRoot, app_dir: Path, data: Mapping[str, Path], work: Path, *, initial: Any, **plan: Any
) -> tuple[World, AppNet, np.ndarray]:
    """A run of this plan to its end; the model that its first member opens."""
    world = World(root, chip, members=tuple(data), plan_changes=plan)
    net = AppNet(world, initial)
    for place, (member, path) in enumerate(data.items()):
        net.join(AppSite(net, member, app_dir, path, work / member, has_initial=place == 0))
    net.start()
    assert net.aggregator.state.value == "finished", net.events
    return world, net, released_model(world, net, next(iter(data)))
