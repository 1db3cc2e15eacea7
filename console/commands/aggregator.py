"""``cloister aggregator``: the enclave that opens and folds updates. Trust zone: operator, who is not trusted by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile, PlanFile
from console.output import JsonOption, reporting
from console.tee_options import Chip, TeeChoice

app = typer.Typer(no_args_is_help=True, help="Run the aggregator enclave of one plan.")


@app.command(
    epilog="Example: cloister aggregator serve --charter charter.dsse.json --plan plan.dsse.json "
    "--door unix:$PWD/host/door/door.sock --tee software --chip ./chip-0"
)
def serve(
    charter: CharterFile,
    plan: PlanFile,
    door: Annotated[
        list[str],
        typer.Option(help="The door that `coordinator serve` printed; repeat for replicas.", show_default=False),
    ],
    tee: TeeChoice,
    chip: Chip = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The app's bundle, where the plan has the app's own server run in here.")
    ] = None,
    log: Annotated[Path, typer.Option(help="Where the enclave's own words go.")] = Path("aggregator.log"),
    json_output: JsonOption = False,
) -> None:
    """Start the enclave and stay with it until its run is over or Ctrl-C ends it."""
    with reporting(json_output) as report:
        from console.aggregating import serve_aggregator
        from console.documents import load_charter, load_plan
        from console.enclaves import Papers

        rules = load_charter(charter)
        papers = Papers(rules, load_plan(plan, rules))
        app_bundle = None if bundle is None else bundle.resolve()
        status = serve_aggregator(papers, door, tee=tee, chip=chip, log=log.resolve(), report=report, bundle=app_bundle)
        report.data |= {"plan": papers.plan.digest.hex(), "status": status}
    raise typer.Exit(status)
