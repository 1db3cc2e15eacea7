"""``cloister doctor``: what would keep this machine from taking part. Trust zone: operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import Proxy
from console.output import ExitCode, JsonOption, reporting


def command(
    state: Annotated[Path, typer.Option(help="Where a coordinator would keep its state.")] = Path("host"),
    site: Annotated[Path | None, typer.Option(help="A worker's folder, to check its papers and keys.")] = None,
    host_config: Annotated[
        Path | None, typer.Option(help="A coordinator's configuration (JSON), to try the stores that it names.")
    ] = None,
    listen: Annotated[str, typer.Option(help="address:port that a coordinator shall serve on.")] = "",
    coordinator: Annotated[str, typer.Option(help="name:port that this machine shall reach.")] = "",
    ca: Annotated[Path | None, typer.Option(help="That coordinator's CA file; default: the public ones.")] = None,
    proxy: Proxy = "",
    proxy_file: Annotated[Path | None, typer.Option(help="File with the proxy's URL, where it has a password.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Check Python, packages, clock, disk, TEE, proxy; where asked a port, a site's folder, a host and its stores.

    Exit code 1 when there is a problem; a warning is none. No secret is shown, and nothing is left in a store.

    Example: cloister doctor --site ./site-1 --coordinator coordinator.example:8443 --ca ca.pem
    """
    with reporting(json_output) as report:
        from console.diagnosis import diagnose
        from console.files import read_bounded
        from console.finding import Examined, Severity

        url = read_bounded(proxy_file, 4096).decode().strip() if proxy_file is not None else proxy
        findings = []
        for finding in diagnose(Examined(state, site, host_config, listen, coordinator, ca, url)):
            findings.append(finding)
            report.say(f"  {finding.severity.value:<8} {finding.name}: {finding.found}")
            if finding.advice:
                report.say(f"  {'':<8}   {finding.advice}")
        problems = sum(finding.severity is Severity.PROBLEM for finding in findings)
        warnings = sum(finding.severity is Severity.WARNING for finding in findings)
        report.say(f"{problems} problem(s), {warnings} warning(s), {len(findings)} things looked at.")
        checks = [finding.to_json() for finding in findings]
        report.data |= {"checks": checks, "problems": problems, "warnings": warnings}
    raise typer.Exit(ExitCode.FAILURE if problems else ExitCode.OK)
