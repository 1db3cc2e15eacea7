"""``cloister simulate app`` and ``picture``. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from console.output import Report, UserError
from simulations.app_settings import AppSettings
from simulations.commands.telling import keep, show_table
from simulations.partitions import holdings
from simulations.progress import shown
from simulations.result import Result, RoundRow
from simulations.result_files import result_json
from simulations.simulation import Simulation
from simulations.trackers import Told, mlflow, tensorboard, together

_EXPERIMENT = "cloister-simulations"


def run_app(
    report: Report,
    settings: AppSettings,
    seed: int,
    trackers: Sequence[str],
    out: Path | None,
    save_settings: Path | None,
) -> None:
    """Simulate, and tell: ``data`` holds every round.

    Raises:
        ValueError, UserError, ProtocolError, OSError: in one sentence, what does not fit.
    """
    simulation = settings.simulation(seed)
    result = _run(simulation, settings.rounds, trackers)
    show_table(report, result.table())
    report.data |= result_json(result) | {"final": dict(result.final)}
    if save_settings is not None:
        simulation.save_settings(save_settings)
        report.say(f"Wrote {save_settings}. Next: cloister plan new --from-simulation {save_settings} …")
    if out is not None:
        result.save(out / "rounds.parquet")
        keep(report, out, result.table(), result.plot(), simulation.settings)
        report.say(f"The rounds: {out / 'rounds.parquet'}; the model: {out / 'rounds.safetensors'}.")


def show_partition(report: Report, settings: AppSettings, seed: int, out: Path | None) -> None:
    """Who has what, as text and perhaps as a figure.

    Raises:
        ValueError: in one sentence, what does not fit.
    """
    dataset, _, partition = settings.divided(seed)
    held = holdings(partition, dataset)
    report.say(*held.text().splitlines())
    report.data |= {
        "sites": [
            {"site": name, "rows": int(size), "labels": dict(zip(held.labels, map(int, counts), strict=True))}
            for name, size, counts in zip(held.names, held.sizes, held.counts, strict=True)
        ]
    }
    if out is not None:
        held.save(out)
        report.say(f"Wrote {out}.")


def _run(simulation: Simulation, rounds: int, trackers: Sequence[str]) -> Result:
    with ExitStack() as stack:
        listeners = [stack.enter_context(_tracker(text, simulation)) for text in trackers]
        told = stack.enter_context(shown("Simulating", total=rounds))

        def progress(row: RoundRow) -> None:
            said = ", ".join(f"{name} {value:.3f}" for name, value in list(row.evaluated.items())[:2])
            told(row.number, max(rounds, row.number), said)

        return simulation.run(together(progress, *listeners))


def _tracker(text: str, simulation: Simulation) -> AbstractContextManager[Told]:
    kind, _, where = text.partition(":")
    if kind == "tensorboard" and where:
        return tensorboard(where, simulation.settings)
    if kind == "mlflow" and where:
        return mlflow(where, _EXPERIMENT, simulation.settings)
    raise UserError(f"--tracker {text}: no such tracker", "Write tensorboard:FOLDER or mlflow:URI.")
