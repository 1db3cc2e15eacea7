"""``cloister run``: start, pause, resume, stop, watch and audit a run at a host.

Trust zone: a member's machine; the host may lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import Ca, CharterFile, Coordinator, Key, PassphraseFd, PassphraseFile, PlanFile, Proxy
from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Start, watch, pause, resume and stop a training run.")


@app.command(
    epilog="Example: cloister run start --charter charter.dsse.json --plan plan.dsse.json --key signing-key.pem "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def start(
    charter: CharterFile,
    plan: PlanFile,
    key: Key,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Sign an order to start the plan's run, and hand it to the host. Any member may."""
    with reporting(json_output) as report:
        from console import keyfiles, ordering

        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            ordering.say_status(report, desk.order("start", signer))
        report.say("Watch it: cloister run watch, with the same --charter, --plan, --coordinator and --ca.")


@app.command(
    epilog="Example: cloister run pause --charter charter.dsse.json --plan plan.dsse.json --key signing-key.pem "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def pause(
    charter: CharterFile,
    plan: PlanFile,
    key: Key,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Sign an order to open no further round; the open one comes to its end, sites stay admitted. Any member may."""
    with reporting(json_output) as report:
        from console import keyfiles, ordering

        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            ordering.say_status(report, desk.order("pause", signer))


@app.command(
    epilog="Example: cloister run resume --charter charter.dsse.json --plan plan.dsse.json --key signing-key.pem "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def resume(
    charter: CharterFile,
    plan: PlanFile,
    key: Key,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Sign an order to let a paused run go on. Any member may."""
    with reporting(json_output) as report:
        from console import keyfiles, ordering

        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            ordering.say_status(report, desk.order("resume", signer))


@app.command(
    epilog="Example: cloister run stop --charter charter.dsse.json --plan plan.dsse.json --key signing-key.pem "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def stop(
    charter: CharterFile,
    plan: PlanFile,
    key: Key,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Sign an order to stop the run. No model is released. Any member may."""
    with reporting(json_output) as report:
        from console import keyfiles, ordering

        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            ordering.say_status(report, desk.order("stop", signer))


@app.command(
    epilog="Example: cloister run status --charter charter.dsse.json --plan plan.dsse.json "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def status(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    json_output: JsonOption = False,
) -> None:
    """Show how a run stands, as its host tells it."""
    with reporting(json_output) as report:
        from console import ordering

        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            ordering.say_status(report, desk.status())


@app.command(
    epilog="Example: cloister run watch --charter charter.dsse.json --plan plan.dsse.json "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def watch(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    json_output: JsonOption = False,
) -> None:
    """Follow a run until it is over: rounds, sites, attestation, bytes, what it waits for. Ctrl-C leaves it running."""
    with reporting(json_output) as report:
        from console import ordering
        from console.progress import watch_run

        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            final = watch_run(desk, quiet=json_output)
            ordering.say_status(report, final)


@app.command(
    epilog="Example: cloister run report --charter charter.dsse.json --plan plan.dsse.json "
    "--coordinator coordinator.example:8443 --ca ca.pem"
)
def report(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    json_output: JsonOption = False,
) -> None:
    """Show where the time of each round went: stages, who waited for what, bytes, throughput; medians below."""
    with reporting(json_output) as told:
        from console import ordering
        from console.round_report import split_rounds
        from console.round_table import show_rounds

        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            status = desk.status()
            events = (event.fields for event in desk.client.recorded(desk.plan.digest))
            show_rounds(told, split_rounds(events, desk.plan), status)


@app.command(
    epilog="Exit code 5 when the log does not hold. Example: cloister run log --charter charter.dsse.json "
    "--plan plan.dsse.json --credential site-1.dsse.json --coordinator coordinator.example:8443 --ca ca.pem"
)
def log(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    credential: Annotated[
        list[Path] | None,
        typer.Option(help="A member's credential, to check its cosignature; repeatable."),
    ] = None,
    known: Annotated[
        list[str] | None, typer.Option(help="A checkpoint, size:root, that the log must extend; repeatable.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """List what the run's log says, verified: under one root, cosigned by the sites, every cohort drawn by its seed.

    A host may hold back the newest part; give a checkpoint that you know, and it cannot.
    """
    with reporting(json_output) as report:
        from console import ordering
        from console.run_log import fetch_log, show_log

        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            show_log(report, fetch_log(desk, credential or [], known or []))


@app.command("list", epilog="Example: cloister run list --coordinator coordinator.example:8443 --ca ca.pem")
def list_runs(coordinator: Coordinator, ca: Ca = None, proxy: Proxy = "", json_output: JsonOption = False) -> None:
    """List every run that a host knows."""
    with reporting(json_output) as report:
        from console import ordering

        with ordering.Host(coordinator, ca, proxy).connect() as client:
            runs = client.runs()
        report.rows((run.plan[:16], f"{run.state.value}, {run.committed} of {run.rounds} rounds") for run in runs)
        if not runs:
            report.say("No run has been ordered here.")
        report.data |= {"runs": [ordering.status_json(run) for run in runs]}


@app.command(
    epilog="Exit code 4 when a result does not verify. Example: cloister run results --charter charter.dsse.json "
    "--plan plan.dsse.json --coordinator coordinator.example:8443 --ca ca.pem"
)
def results(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    key: Annotated[str, typer.Option(help="The aggregator's key, from a worker's log; default: its release's.")] = "",
    json_output: JsonOption = False,
) -> None:
    """List who was admitted, under which policy, until when: the aggregator's signed results, each verified.

    A host may withhold results; it cannot forge one. The key comes from the release, whose evidence is verified first.
    """
    with reporting(json_output) as report:
        from console import ordering
        from console.documents import present
        from console.keyfiles import read_public_key
        from console.output import ExitCode
        from console.results import ear_json, listed_results, protection, under_charter, until
        from trusted.errors import ProtocolError

        report.data |= {"results": [], "unverified": []}
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            for listed in listed_results(desk, read_public_key(key) if key else None):
                found = listed.found
                if isinstance(found, ProtocolError):
                    report.say(f"  {listed.number}  {listed.member}: PROVES NOTHING: {found}")
                    report.data["unverified"].append({"event": listed.number, "code": found.reason.code})
                    continue
                meets = under_charter(found, desk.charter)
                worth = f"{protection(found)} ({found.status.value})"
                said = f"{worth}, under this charter's policy: {meets}, {until(found, present())}"
                report.say(f"  {listed.number}  {listed.member}: {said}")
                entry = {"event": listed.number, "member": listed.member, "charter_policy": meets}
                report.data["results"].append(entry | ear_json(found))
        if not report.data["results"] and not report.data["unverified"]:
            report.say("The host tells of no admission.")
        code = ExitCode.ATTESTATION if report.data["unverified"] else ExitCode.OK
    raise typer.Exit(code)
