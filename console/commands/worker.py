"""``cloister worker``: a member's enclave that trains on its data. Trust zone: the member's operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile, PlanFile
from console.output import JsonOption, UserError, reporting
from console.tee_options import Chip, TeeChoice

app = typer.Typer(no_args_is_help=True, help="Run a member's worker enclave.")


@app.command(
    epilog="Example: cloister worker join --charter charter.dsse.json --plan plan.dsse.json --site ./site-1 "
    "--data ./visits.csv --coordinator coordinator.example:8443 --ca ca.pem --tee software --chip ./chip-1"
)
def join(
    charter: CharterFile,
    plan: PlanFile,
    site: Annotated[
        Path, typer.Option(help="Folder with worker-key.pem, credential.dsse.json, site-policy.dsse.json.")
    ],
    data: Annotated[Path, typer.Option(help="The member's CSV file, or a folder of them.", show_default=False)],
    coordinator: Annotated[
        list[str], typer.Option(help="The host's name:port, the only place this dials; repeat for replicas.")
    ],
    tee: TeeChoice,
    chip: Chip = None,
    ca: Annotated[
        list[Path], typer.Option(help="The host's CA file; default: the public ones. Repeat for replicas.")
    ] = [],  # noqa: B006
    proxy: Annotated[str, typer.Option(help="http://name:port of a CONNECT proxy.")] = "",
    proxy_file: Annotated[Path | None, typer.Option(help="File with the proxy's URL, where it has a password.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The app bundle; default: the .fab next to the plan.")] = None,
    initial_model: Annotated[Path | None, typer.Option(help="safetensors, at the one site that brings it.")] = None,
    log: Annotated[Path | None, typer.Option(help="This worker's log; default: worker.log in --site.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where the worker remembers across restarts; default: state in --site.")
    ] = None,
    no_state: Annotated[bool, typer.Option("--no-state", help="Remember nothing: a restart begins anew.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Check the papers, start the enclave and stay with it until the run is over or Ctrl-C ends it.

    Nothing about the site leaves before the aggregator has proved what it runs.
    """
    with reporting(json_output) as report:
        from console.documents import load_charter, load_plan
        from console.enclaves import Papers
        from console.files import read_bounded
        from console.joining import STATE, Route, SiteFiles, join_run

        if no_state and state is not None:
            raise UserError("--state and --no-state contradict each other", "Give one of them.")
        rules = load_charter(charter)
        papers = Papers(rules, load_plan(plan, rules))
        url = read_bounded(proxy_file, 4096).decode().strip() if proxy_file is not None else proxy
        files = SiteFiles(
            folder=site,
            data=data,
            bundle=bundle or plan.with_name(f"{plan.name.split('.')[0]}.fab"),
            initial_model=initial_model,
            log=(log or site / "worker.log").resolve(),
            state=None if no_state else state or site / STATE,
        )
        status = join_run(papers, files, Route(tuple(coordinator), tuple(ca), url), tee=tee, chip=chip, report=report)
        report.data |= {"plan": papers.plan.digest.hex(), "status": status}
    raise typer.Exit(status)
