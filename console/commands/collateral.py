"""``cloister collateral``: the vendors' statements, kept for machines without a network. Trust zone: operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import Ca, Coordinator, Proxy
from console.output import ExitCode, JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Keep revocation lists and other collateral for sites without a network.")

Store = Annotated[Path, typer.Option(help="The folder that holds it.", show_default=False)]


@app.command(name="import", epilog="Example: cloister collateral import genoa.crl collateral.json --store ./collateral")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="CRLs, Intel's collateral, certificates, OCSP, RIMs, JWKS.", show_default=False)
    ],
    store: Store,
    json_output: JsonOption = False,
) -> None:
    """Keep files that somebody fetched from the vendors. Older ones than are there already are refused.

    Nothing is verified here: every verifier checks every signature whenever it uses one.
    """
    with reporting(json_output) as report:
        from console.collateral import import_files, platform_of
        from trusted.evidence.collateral_store import CollateralStore

        imported = import_files(files, CollateralStore(store))
        for path, endorsements in imported:
            for endorsement in endorsements:
                report.say(f"{path.name}: {endorsement.kind.value} of {endorsement.name} ({platform_of(endorsement)})")
        report.say(f"Next: cloister collateral status --store {store}")
        report.data |= {"imported": {str(path): [item.name for item in found] for path, found in imported}}


@app.command(
    epilog="Exit code 4 when something that the host offers was refused. Example: cloister collateral fetch "
    "--coordinator coordinator.example:8443 --ca ca.pem --store ./collateral"
)
def fetch(
    coordinator: Coordinator,
    store: Store,
    ca: Ca = None,
    proxy: Proxy = "",
    charter: Annotated[Path | None, typer.Option(help="Trust its roots; default: AMD's and Intel's.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Take from a coordinator's host what is newer than in the store, once its signatures have been verified.

    A host may lie: what is older, damaged, forged or too large changes nothing.
    """
    with reporting(json_output) as report:
        from console.collateral import Source, fetch_into, platform_of
        from trusted.evidence.collateral_store import CollateralStore

        offer = fetch_into(CollateralStore(store), Source(coordinator, ca, proxy), charter)
        for said in offer.taken:
            report.say(f"Took the {said.kind.value} of {said.name} ({platform_of(said)})")
        for error in offer.refused:
            report.say(f"REFUSED: {error}")
        if not offer.taken:
            report.say("Nothing new.")
        report.say(f"Next: cloister collateral status --store {store}")
        report.data |= {
            "taken": [{"kind": said.kind.value, "name": said.name} for said in offer.taken],
            "refused": [{"code": error.reason.code, "message": str(error)} for error in offer.refused],
        }
    raise typer.Exit(ExitCode.ATTESTATION if offer.refused else ExitCode.OK)


@app.command(
    epilog="Exit code 3 when something ends within --warn-days, 4 when something has expired or nothing is there. "
    "Example: cloister collateral status --store ./collateral"
)
def status(
    store: Store,
    warn_days: Annotated[int, typer.Option(min=0, max=366, help="Warn this many days ahead.")] = 7,
    at: Annotated[str, typer.Option(help="As of this time: YYYY-MM-DDTHH:MM:SSZ.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Say what is there, for which platform, and until when."""
    with reporting(json_output) as report:
        from console.collateral import Standing, status_of, worst
        from console.moment import read_moment
        from trusted.evidence.collateral_store import CollateralStore

        lines = status_of(CollateralStore(store), read_moment(at), warn_days)
        for line in lines:
            left = "does not end" if line.days is None else f"{line.days} days left"
            said = line.endorsement
            report.say(f"{line.standing.value.upper()}: {said.kind.value} of {said.name}: {left} ({line.platform})")
        if not lines:
            report.say("Nothing is there. Fetch what your platform needs and use `cloister collateral import`.")
        standing = Standing.EXPIRED if not lines else worst(lines)
        report.data |= {"standing": standing.value, "endorsements": [line.to_json() for line in lines]}
        code = {Standing.GOOD: ExitCode.OK, Standing.ENDS_SOON: ExitCode.POLICY}.get(standing, ExitCode.ATTESTATION)
    raise typer.Exit(code)
