"""``cloister site-policy``: one site's own bounds. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile, Force, Key, PassphraseFd, PassphraseFile, ValidDays, Yes
from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Make, show and sign what this site lets its own worker do.")

File = Annotated[Path, typer.Argument(help="The site policy (DSSE).", show_default=False)]


@app.command(
    epilog="Example: cloister site-policy new --charter charter.dsse.json --member hospital-a --plan plan.dsse.json"
)
def new(
    charter: CharterFile,
    member: Annotated[str, typer.Option(help="The member it speaks for.", show_default=False)],
    plan: Annotated[list[Path], typer.Option(help="A signed plan to allow; repeat.", show_default=False)],
    max_rounds: Annotated[int | None, typer.Option(min=0, help="Default: the most that a plan asks for.")] = None,
    column: Annotated[list[str], typer.Option(help="A column; repeat. Default: the plans'.")] = [],  # noqa: B006
    server_app_exchanges: Annotated[
        int,
        typer.Option(min=0, help="Let an app's own server see this site's single answers, so often. Default: never."),
    ] = 0,
    valid_days: ValidDays = 30,
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("site-policy.dsse.json"),
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write a site policy that allows these plans, and nothing else."""
    with reporting(json_output) as report:
        from console import sites
        from console.documents import load_charter, load_plan, write_unsigned
        from trusted.documents.explain import explain_site_policy
        from trusted.documents.site_policy import PAYLOAD_TYPE

        rules = load_charter(charter)
        plans = [load_plan(path, rules) for path in plan]
        bounds = sites.Bounds(max_rounds, tuple(column), valid_days, server_app_exchanges)
        policy = sites.make_site_policy(rules, member, plans, bounds)
        envelope = write_unsigned(out, policy.encode(), PAYLOAD_TYPE, force=force)
        report.say(*explain_site_policy(policy))
        report.say(f"Next: cloister site-policy sign {out} --charter {charter} --key signing-key.pem")
        report.data |= {"file": str(out), "digest": envelope.digest.hex(), "site_policy": policy.to_json()}


@app.command(epilog="Example: cloister site-policy show site-policy.dsse.json --charter charter.dsse.json")
def show(
    file: File,
    charter: CharterFile,
    plan: Annotated[Path | None, typer.Option(help="Also say whether this signed plan is allowed.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show a site policy, who has signed it, and what remains of a plan under it."""
    with reporting(json_output) as report:
        from console import sites
        from console.documents import load_charter, read_envelope, show_signers
        from trusted.documents.dsse import signers
        from trusted.documents.explain import explain_site_policy
        from trusted.documents.site_policy import PAYLOAD_TYPE, SitePolicy

        rules = load_charter(charter)
        envelope = read_envelope(file, PAYLOAD_TYPE)
        policy = SitePolicy.parse(envelope.payload)
        report.say(*explain_site_policy(policy))
        report.data |= {"digest": envelope.digest.hex(), "site_policy": policy.to_json()}
        found = signers(envelope, rules.document.signing_keys) & {policy.member}
        show_signers(report, found, needed=1, required=[policy.member])
        if plan is not None:
            report.data |= {"effective": sites.show_effective(report, envelope, rules, plan)}


@app.command(
    epilog="Example: cloister site-policy sign site-policy.dsse.json --charter charter.dsse.json --key signing-key.pem"
)
def sign(
    file: File,
    charter: CharterFile,
    key: Key,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Show a site policy, then sign it; only the member it speaks for can."""
    with reporting(json_output) as report:
        from console import keyfiles
        from console.documents import Signing, add_signature, load_charter, read_envelope
        from trusted.documents.explain import explain_site_policy
        from trusted.documents.site_policy import PAYLOAD_TYPE, SitePolicy

        rules = load_charter(charter)
        envelope = read_envelope(file, PAYLOAD_TYPE)
        policy = SitePolicy.parse(envelope.payload)
        own = rules.document.member(policy.member)
        report.say(*explain_site_policy(policy), f"Digest: {envelope.digest.hex()}")
        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        signing = Signing(signer, {own.id: own.signing_keys}, ask=not yes)
        member = add_signature(file, envelope, signing, report)
        report.data |= {"member": member, "digest": envelope.digest.hex()}
