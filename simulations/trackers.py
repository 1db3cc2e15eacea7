"""Rounds told to TensorBoard or MLflow while they happen. Trust zone: the developer's machine.

A tracker is a context that gives what ``Simulation.run`` calls after each round; several may listen at once::

    with tensorboard("runs/one", simulation.settings) as told:
        simulation.run(told)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from console.output import UserError
from simulations.result import RoundRow

Told = Callable[[RoundRow], None]
_MEGABYTE = 1e6
_MOST_PARAMETER = 500  # characters of a parameter that every MLflow store takes
_INSTALL = "pip install 'cloister[simulate-trackers]'"


def figures_of(row: RoundRow) -> dict[str, float]:
    """All figures of one round by names that group in a tracker: ``evaluated/accuracy``, ``cohort/counted``, …"""
    figures = {f"evaluated/{name}": value for name, value in row.evaluated.items()}
    figures |= {f"reported/{name}": value for name, value in row.reported.items()}
    figures |= {f"seconds/{stage}": value for stage, value in row.wall_s.items()}
    figures |= {"cohort/drawn": float(len(row.drawn)), "cohort/counted": float(len(row.counted))}
    figures |= {"traffic/down_mb": row.bytes_down / _MEGABYTE, "traffic/up_mb": row.bytes_up / _MEGABYTE}
    if row.epsilon is not None:
        figures["privacy/epsilon"] = row.epsilon
    if row.virtual_s:
        figures["seconds/virtual"] = row.virtual_s
    return figures


@contextmanager
def tensorboard(folder: str | Path, settings: Mapping[str, Any]) -> Iterator[Told]:
    """Event files in ``folder`` for ``tensorboard --logdir``, with the settings as text.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(f"TensorBoard is not here: {_INSTALL}", "Or leave the tracker out.") from None
    writer = SummaryWriter(str(folder))
    writer.add_text("settings", f"```\n{json.dumps(dict(settings), indent=1)}\n```")

    def told(row: RoundRow) -> None:
        for name, value in figures_of(row).items():
            writer.add_scalar(name, value, row.number)
        writer.flush()

    try:
        yield told
    finally:
        writer.close()


@contextmanager
def mlflow(uri: str, experiment: str, settings: Mapping[str, Any]) -> Iterator[Told]:
    """A run of ``experiment`` at the tracking server or store ``uri``: settings as parameters, figures as metrics.

    Only numbers and settings are sent, and only there: MLflow's own telemetry is off.

    Raises:
        UserError: MLflow is not installed. mlflow.MlflowException: the server said no.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith("file:"):  # who names a folder wants a folder; MLflow would rather have a database
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError:
        raise UserError(f"MLflow is not here: {_INSTALL}", "Or leave the tracker out.") from None
    import time

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    number = client.create_experiment(experiment) if known is None else known.experiment_id
    run = client.create_run(number).info.run_id
    parameters = [Param(name, value[:_MOST_PARAMETER]) for name, value in flat(settings).items()]
    client.log_batch(run, params=parameters)

    def told(row: RoundRow) -> None:
        now = int(time.time() * 1000)
        figures = {name: value for name, value in figures_of(row).items() if math.isfinite(value)}
        client.log_batch(run, metrics=[Metric(name, value, now, row.number) for name, value in figures.items()])

    try:
        yield told
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")


def flat(settings: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Nested settings as one level of text: ``terms.cohort.size``; lists stay JSON."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{start}{name}.")
        else:
            found[f"{start}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def together(*listeners: Told) -> Told:
    """One listener that tells each of ``listeners``, in this order."""

    def told(row: RoundRow) -> None:
        for listener in listeners:
            listener(row)

    return told
