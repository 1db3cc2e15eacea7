"""``cloister privacy``: what a privacy mechanism costs and buys, before a run. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Predict what a privacy mechanism costs and buys.")


@app.callback()
def group() -> None:
    """Predict what a privacy mechanism costs and buys."""


@app.command(
    epilog="Example: cloister privacy estimate --rounds 20 "
    "--privacy member-clipping,clip_norm=1,noise_multiplier=4,epsilon=8,delta=1e-5"
)
def estimate(
    plan: Annotated[Path | None, typer.Option(help="A plan, signed or not.", show_default=False)] = None,
    privacy: Annotated[str, typer.Option(help="Or a mechanism, as for `plan new`.", show_default=False)] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many rounds. Default: the plan's.", show_default=False)
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what the rounds of a plan will cost, how many its budget pays for, and with how much noise all would fit."""
    with reporting(json_output) as report:
        from console import privacy as estimating
        from console.documents import read_envelope
        from console.output import UserError
        from trusted.documents.explain_privacy import explain_privacy
        from trusted.documents.plan import PAYLOAD_TYPE, Plan
        from trusted.documents.terms import Privacy

        if (plan is None) == (not privacy):
            raise UserError("exactly one of --plan and --privacy is needed", "Give a plan's file, or a mechanism.")
        if plan is not None:
            document = Plan.parse(read_envelope(plan, PAYLOAD_TYPE).payload)
            terms, rounds = document.privacy, rounds or document.rounds
        else:
            terms = Privacy.read(estimating.read_mechanism(privacy, ""))
        if rounds is None:
            raise UserError("how many rounds?", "Add --rounds.")
        found = estimating.estimate(terms, rounds)
        report.say(*explain_privacy(terms))
        report.heading("What the rounds cost")
        report.rows([(f"after round {number}", f"ε = {epsilon:.3f}") for number, epsilon in found.spent])
        report.say(*estimating.verdict(found))
        report.data |= found.to_json()
