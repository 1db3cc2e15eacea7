"""``cloister app``: what becomes of a Flower app under Cloister. Trust zone: its author's or a member's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import Force
from console.output import ExitCode, JsonOption, UserError, reporting

app = typer.Typer(no_args_is_help=True, help="Check a Flower app, and write its bundle.")

Folder = Annotated[Path, typer.Argument(help="A Flower app's folder, or its bundle.", show_default=False)]


@app.command(epilog="Example: cloister app check ./my-app --initial-model initial.safetensors --data ./visits.csv")
def check(
    folder: Folder,
    data: Annotated[Path | None, typer.Option(help="A CSV file, or a folder of them, to train one round on.")] = None,
    initial_model: Annotated[Path | None, typer.Option(help="safetensors, to train one round from.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what of an app works, what will not, and what to do. Its ServerApp is read, and never run.

    The app is loaded in the same confined process that a worker has; with --data and --initial-model one round is
    trained. Exit code 1 when something will not work; a warning is none.
    """
    with reporting(json_output) as report:
        from tempfile import TemporaryDirectory

        from console import app_checking
        from console.diagnosis import Severity

        if (data is None) != (initial_model is None):
            raise UserError("one round needs data and a model", "Give --data and --initial-model, or neither.")
        words = {Severity.OK: "works", Severity.WARNING: "note", Severity.PROBLEM: "WILL NOT"}
        findings = []
        with TemporaryDirectory() as work:
            for finding in app_checking.findings(folder, app_checking.Tried(data, initial_model), Path(work)):
                findings.append(finding)
                report.say(f"  {words[finding.severity]:<9}{finding.name}: {finding.found}")
                report.say(*(f"  {'':<9}  {line}" for line in finding.advice.splitlines()))
        problems = sum(finding.severity is Severity.PROBLEM for finding in findings)
        warnings = sum(finding.severity is Severity.WARNING for finding in findings)
        verdict = "The app will not work as it is" if problems else "The app works"
        report.say(f"{verdict}: {problems} problem(s), {warnings} note(s).")
        report.data |= {"checks": [finding.to_json() for finding in findings]}
        report.data |= {"problems": problems, "warnings": warnings}
    raise typer.Exit(ExitCode.FAILURE if problems else ExitCode.OK)


@app.command(epilog="Example: cloister app initial ./my-app --seed 7 --out initial.safetensors")
def initial(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write it.")] = Path("initial.safetensors"),
    config: Annotated[list[str], typer.Option(help="key=value over the app's run config; repeat.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="For random, NumPy and torch, before the app is imported.", min=0)] = 0,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write the model that the app's own server starts from. It runs, confined, until its strategy starts."""
    with reporting(json_output) as report:
        from tempfile import TemporaryDirectory

        from console.app_start import first_model
        from console.app_terms import read_settings
        from console.files import refuse_existing, write_file
        from console.plans import read_bundle
        from trusted.apps.bundle import bundle_digest, unpack_bundle

        refuse_existing(out, force=force)
        bundle = read_bundle(folder)
        with TemporaryDirectory() as work:
            app_dir = unpack_bundle(bundle, expected=bundle_digest(bundle), into=Path(work) / "app")
            scratch = Path(work) / "scratch"
            scratch.mkdir()
            model, data = first_model(app_dir, read_settings(config), seed=seed, scratch=scratch)
        write_file(out, data, force=force)
        layout = model.layout
        report.say(f"Wrote {out}: {len(layout.tensors)} tensors, {layout.elements} numbers, {len(data)} bytes.")
        report.say(f"Digest: {model.digest.hex()}")
        report.data |= {"file": str(out), "initial_sha256": model.digest.hex(), "elements": layout.elements}
        report.data |= {"tensors": [spec.to_json() for spec in layout.tensors]}


@app.command(epilog="Example: cloister app build ./my-app --out my-app.fab")
def build(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write it.")] = Path("app.fab"),
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write an app's bundle: the same bytes wherever it is built. Its digest is what a plan names."""
    with reporting(json_output) as report:
        from console.files import refuse_existing, write_file
        from console.plans import read_bundle
        from trusted.apps.bundle import bundle_digest

        refuse_existing(out, force=force)
        bundle = read_bundle(folder)
        write_file(out, bundle, force=force)
        digest = bundle_digest(bundle).hex()
        report.say(f"Wrote {out}, {len(bundle)} bytes.", f"Digest: {digest}")
        report.data |= {"file": str(out), "size_bytes": len(bundle), "bundle_sha256": digest}
