"""``cloister demo``: six real sites train one model, attested and sealed, on this machine. Trust zone: public data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.output import JsonOption, reporting


def command(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds.")] = 12,
    seed: Annotated[int, typer.Option(min=0, max=1 << 31, help="Initial model and shuffling.")] = 7,
    keep: Annotated[Path | None, typer.Option(help="Folder for all artefacts; default: a fresh one.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Run the main job: eight processes, six sites' real public data, one model that no host ever sees.

    Uses the software TEE, so there is NO HARDWARE PROTECTION: the same code and checks, without the hardware.

    Example: cloister demo --rounds 12 --keep ./demo
    """
    with reporting(json_output) as report:
        from console.demo.story import tell

        report.data |= tell(report, keep=keep, rounds=rounds, seed=seed)
