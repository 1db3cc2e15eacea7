"""``cloister worker``: a member's enclave that trains on its data. Trust zone: the member's operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.options import CharterFile, PassphraseFd, PassphraseFile, PlanFile, Proxy
from console.output import JsonOption, UserError, reporting
from console.tee_options import Chip, TeeChoice

if TYPE_CHECKING:
    from worker.operator import Wish

app = typer.Typer(no_args_is_help=True, help="Run a member's worker enclave; let it pause, or withdraw.")

Site = Annotated[Path, typer.Option(help="The site's folder, as `worker join` was given it.", show_default=False)]


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
    data: Annotated[
        Path, typer.Option(help="The member's CSV file, a folder of them, or a sealed file.", show_default=False)
    ],
    coordinator: Annotated[
        list[str], typer.Option(help="The host's name:port, the only place this dials; repeat for replicas.")
    ],
    tee: TeeChoice,
    chip: Chip = None,
    ca: Annotated[
        list[Path], typer.Option(help="The host's CA file; default: the public ones. Repeat for replicas.")
    ] = [],  # noqa: B006
    proxy: Proxy = "",
    proxy_file: Annotated[Path | None, typer.Option(help="File with the proxy's URL, where it has a password.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The app bundle; default: the .fab next to the plan.")] = None,
    initial_model: Annotated[Path | None, typer.Option(help="safetensors, at the one site that brings it.")] = None,
    log: Annotated[Path | None, typer.Option(help="This worker's log; default: worker.log in --site.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where the worker remembers across restarts; default: state in --site.")
    ] = None,
    key_broker: Annotated[str, typer.Option(help="name:port of the member's key broker, for sealed data.")] = "",
    key_broker_ca: Annotated[Path | None, typer.Option(help="That broker's CA file; default: the public ones.")] = None,
    no_state: Annotated[bool, typer.Option("--no-state", help="Remember nothing: a restart begins anew.")] = False,
    app_memory_mib: Annotated[
        int, typer.Option(min=0, max=1 << 24, help="Memory for the app; 0: three quarters of the machine's.")
    ] = 0,
    json_output: JsonOption = False,
) -> None:
    """Check the papers, start the enclave and stay with it until the run is over or Ctrl-C ends it.

    Nothing about the site leaves before the aggregator has proved what it runs.
    """
    with reporting(json_output) as report:
        from console.documents import load_charter, load_plan
        from console.enclaves import Papers
        from console.files import read_bounded
        from console.joining import STATE, KeyBroker, Route, SiteFiles, join_run

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
            broker=KeyBroker(key_broker, key_broker_ca),
            app_memory_mib=app_memory_mib,
        )
        status = join_run(papers, files, Route(tuple(coordinator), tuple(ca), url), tee=tee, chip=chip, report=report)
        report.data |= {"plan": papers.plan.digest.hex(), "status": status}
    raise typer.Exit(status)


@app.command(epilog="Example: cloister worker pause --charter charter.dsse.json --plan plan.dsse.json --site ./site-1")
def pause(charter: CharterFile, plan: PlanFile, site: Site, json_output: JsonOption = False) -> None:
    """Let this site's worker take no further task of the plan, also after a restart; what it trains now is finished.

    It stays admitted and a witness. Only this machine's folder is written: nobody has to be asked, or reached.
    """
    from worker.operator import Wish

    _want(charter, plan, site, Wish.PAUSE, json_output=json_output)


@app.command(epilog="Example: cloister worker resume --charter charter.dsse.json --plan plan.dsse.json --site ./site-1")
def resume(charter: CharterFile, plan: PlanFile, site: Site, json_output: JsonOption = False) -> None:
    """Let this site's worker take tasks of the plan again, after a pause or a withdrawal."""
    from worker.operator import Wish

    _want(charter, plan, site, Wish.TAKE_PART, json_output=json_output)


@app.command(
    epilog="Example: cloister worker withdraw --charter charter.dsse.json --plan plan.dsse.json --site ./site-1"
)
def withdraw(charter: CharterFile, plan: PlanFile, site: Site, json_output: JsonOption = False) -> None:
    """Take this site out of the plan's run: its training ends within a second, its worker says so and ends.

    A worker that is started again ends at once, until `worker resume` takes this back. What was counted stays counted.
    """
    from worker.operator import Wish

    _want(charter, plan, site, Wish.WITHDRAW, json_output=json_output)


@app.command(epilog="Example: cloister worker log --key sealing-key.pem site-1/worker-app/app.log")
def log(
    file: Annotated[Path, typer.Argument(help="The app's log, as `worker join` names it.", show_default=False)],
    key: Annotated[Path, typer.Option(help="Your sealing-key.pem.", show_default=False)],
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Open what the app itself printed and raised at your site; only your sealing key does.

    Exit code 5: a part was altered, is missing, or stands in another place; what stands before it is shown.
    """
    with reporting(json_output) as report:
        from console import keyfiles
        from console.app_logs import show_log

        sealing_key = keyfiles.load_sealing_key(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        whole = show_log(file, sealing_key, report)
    raise typer.Exit(whole)


def _want(charter: Path, plan: Path, site: Path, wish: Wish, *, json_output: bool) -> None:
    with reporting(json_output) as report:
        from console.documents import load_charter, load_plan
        from console.joining import control_folder
        from worker.operator import Wish, read_wish, write_wish

        if not site.is_dir():
            raise UserError(f"{site}: no such folder", "Give --site as `worker join` was given it.")
        verified = load_plan(plan, load_charter(charter))
        folder = control_folder(site, verified.digest)
        before = read_wish(folder)
        write_wish(folder, wish)
        then = {
            Wish.PAUSE: "takes no further task; take it back: cloister worker resume",
            Wish.TAKE_PART: "takes tasks",
            Wish.WITHDRAW: "is withdrawn; take it back: cloister worker resume, then worker join",
        }
        report.say(f"The worker of {site} for plan {verified.digest.hex()[:16]}… {then[wish]}.")
        report.data |= {"plan": verified.digest.hex(), "wish": wish.value, "before": before.value}
