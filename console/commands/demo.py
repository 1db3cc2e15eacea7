"""``cloister demo``: a whole federation, attested and sealed, on this machine. Trust zone: public or invented data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from console.output import JsonOption, reporting

app = typer.Typer()

_Rounds = Annotated[int, typer.Option(min=1, max=1000, help="How many rounds.")]
_Seed = Annotated[int, typer.Option(min=0, max=1 << 31, help="Initial model and shuffling.")]
_BankSeed = Annotated[int, typer.Option(min=0, max=1 << 31, help="The banks' books, initial model and shuffling.")]
_Keep = Annotated[Path | None, typer.Option(help="Folder for all artefacts; default: a fresh one.")]


@app.callback(invoke_without_command=True)
def hospitals(
    context: typer.Context,
    rounds: _Rounds = 12,
    seed: _Seed = 7,
    keep: _Keep = None,
    json_output: JsonOption = False,
) -> None:
    """Run the main job: eight processes, six sites' real public data, one model that no host ever sees.

    Uses the software TEE, so there is NO HARDWARE PROTECTION: the same code and checks, without the hardware.

    Example: cloister demo --rounds 12 --keep ./demo
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    with reporting(json_output) as report:
        from console.demo.hospitals import tell

        report.data |= tell(report, keep=keep, rounds=rounds, seed=seed)


@app.command()
def bank(
    rounds: _Rounds = 12,
    seed: _BankSeed = 7,
    keep: _Keep = None,
    json_output: JsonOption = False,
) -> None:
    """Five invented banks hunt fraud together, on SYNTHETIC transactions; then one lies, to a mean and to Multi-Krum.

    Three federations one after the other, each of seven processes. Uses the software TEE: NO HARDWARE PROTECTION.

    Example: cloister demo bank --rounds 12 --keep ./banks
    """
    with reporting(json_output) as report:
        from console.demo.banks import tell

        report.data |= tell(report, keep=keep, rounds=rounds, seed=seed)


def _refuse_options_before(context: typer.Context) -> None:
    """``cloister demo --rounds 3 bank`` would drop the 3 unheard."""
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        where = f"Write options behind it: cloister demo {context.invoked_subcommand} --option"
        raise typer.BadParameter(f"an option stands before {context.invoked_subcommand!r}. {where}")
