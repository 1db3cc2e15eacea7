"""One app, run twice: by Flower's own ServerApp, strategy and ClientApp, and from its bundle by Cloister's trainers.

Run as ``python -m tests.worker.quickstart_runs flower|cloister APP SITES OUT``: each half in an interpreter of its own,
because a trainer is forked before anything imports Flower or a framework. ``SITES`` holds one folder with a CSV file
for each site, ``OUT`` takes ``NAME.npz``; the Flower half also writes the model that both start from.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3


def flower(app_dir: Path, sites: list[Path], out: Path) -> None:
    """Everything is Flower's own but the Grid, which is how messages get from here to there."""
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.common.config import flatten_dict, get_project_config
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy
    from flwr.supercore.object_ref import load_app
    from flwr.supercore.task_identity import TaskIdentity

    project = get_project_config(app_dir)["tool"]["flwr"]["app"]
    config = flatten_dict(project["config"])
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    client = load_app(project["components"]["clientapp"], RuntimeError, app_dir)
    server = load_app(project["components"]["serverapp"], RuntimeError, app_dir)

    def context(site: Path, number: int) -> Context:
        node = {"data-path": str(site), "partition-id": number, "num-partitions": len(sites)}
        return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=dict(config))

    class MemoryGrid(Grid):
        """Each message goes to its site's ClientApp at once."""

        def __init__(self) -> None:
            self._sites = {number: context(site, number) for number, site in enumerate(sites, 1)}

        def set_run(self, run: Any) -> None: ...

        @property
        def run(self) -> Any: ...

        def create_message(self, *arguments: Any) -> Message: ...

        def get_node_ids(self) -> Iterable[int]:
            return list(self._sites)

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]: ...

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]: ...

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            replies = []
            for message in messages:
                message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
                reply = client(message, self._sites[message.metadata.dst_node_id])
                assert not isinstance(reply.content, Error)
                replies.append(reply)
            return replies

    kept: dict[str, Any] = {}
    start = Strategy.start

    def kept_start(self: Strategy, grid: Grid, initial_arrays: Any, **given: Any) -> Any:
        kept["initial"] = {name: array.numpy() for name, array in initial_arrays.items()}
        kept["result"] = start(self, grid, initial_arrays, **given)
        return kept["result"]

    Strategy.start = kept_start  # templates keep the result to themselves
    os.chdir(out)
    server(MemoryGrid(), context(sites[0], 0))
    result = kept["result"]
    np.savez(out / "initial.npz", **kept["initial"])
    np.savez(out / "flower.npz", **{name: array.numpy() for name, array in result.arrays.items()})
    metrics = {f"train {name}": value for name, value in result.train_metrics_clientapp[ROUNDS].items()}
    # Cloister judges the model of a round before it is trained: that of round 3 is what Flower judges after round 2.
    metrics |= {f"eval {name}": value for name, value in result.evaluate_metrics_clientapp[ROUNDS - 1].items()}
    (out / "flower.json").write_text(json.dumps(metrics))


def cloister(app_dir: Path, sites: list[Path], out: Path) -> None:
    """From the bundle, each site in a confined trainer; the fold is the weighted mean of updates, in float32."""
    import tomllib

    from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
    from trusted.documents.layout import Layout
    from worker.dependencies import require_dependencies
    from worker.trainer import join_arrays, split_vector
    from worker.trainer_process import TrainerProcess, TrainerSpec

    bundle = build_bundle(app_dir)
    initial = dict(np.load(out / "initial.npz"))
    layout = Layout.parse([{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in initial.items()])
    config = tomllib.loads((app_dir / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    trainers = []
    for number, site in enumerate(sites):
        work = out / f"work-{number}"
        (work / "scratch").mkdir(parents=True)
        unpacked = unpack_bundle(bundle, expected=bundle_digest(bundle), into=work / "app")
        require_dependencies(unpacked)
        said = {"lr": config["lr"]} if "lr" in config else {}  # what its ServerApp gives to Strategy.start
        spec = TrainerSpec(unpacked, site, layout, {}, work / "log", work / "scratch", train_config=said)
        trainers.append(TrainerProcess.start(spec))
    model = join_arrays(layout, initial)
    for number in range(1, ROUNDS + 1):
        results = [trainer.train(model, number, 120) for trainer in trainers]
        total = sum(result.num_examples for result in results)
        model = model + sum(result.delta * np.float32(result.num_examples / total) for result in results)
    for trainer in trainers:
        trainer.stop()
    np.savez(out / "cloister.npz", **split_vector(layout, model))
    names = results[0].metrics
    mean = {name: sum(r.metrics[name] * r.num_examples for r in results) / total for name in names}
    (out / "cloister.json").write_text(json.dumps(mean))


if __name__ == "__main__":
    half, app, folder, written = sys.argv[1:]
    given = Path(app).resolve(), sorted(Path(folder).resolve().iterdir()), Path(written).resolve()
    {"flower": flower, "cloister": cloister}[half](*given)
