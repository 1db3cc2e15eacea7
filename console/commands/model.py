"""``cloister model``: a recipient opens what a run released, or grants it. Trust zone: the recipient's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.commands import granting, model_serving
from console.options import Ca, CharterFile, Coordinator, Force, PassphraseFd, PassphraseFile, PlanFile, Proxy
from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Open a released model, read its card, grant it, serve it, ask it.")
granting.add_commands(app, "model", "model")
model_serving.add_commands(app)


@app.command(
    "open",
    epilog="Example: cloister model open --charter charter.dsse.json --plan plan.dsse.json --member site-1 "
    "--key sealing-key.pem --coordinator coordinator.example:8443 --ca ca.pem --out model.safetensors",
)
def open_model(
    charter: CharterFile,
    plan: PlanFile,
    member: Annotated[str, typer.Option(help="The recipient's member id.", show_default=False)],
    key: Annotated[Path, typer.Option(help="That member's sealing-key.pem.", show_default=False)],
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    out: Annotated[Path, typer.Option(help="Where to write it, safetensors.")] = Path("model.safetensors"),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Fetch the released model, verify that an attested aggregator of this plan made it, and write it out."""
    with reporting(json_output) as report:
        from console import keyfiles, ordering
        from console.files import refuse_existing
        from console.opening import open_release, write_safetensors

        refuse_existing(out, force=force)
        sealing_key = keyfiles.load_sealing_key(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            opened = open_release(desk, member, sealing_key)
        write_safetensors(out, desk.plan.document.layout, opened.vector, opened.provenance(), force=force)
        assurance = opened.aggregator.assurance.value
        report.say(
            f"Wrote {out}: the model after {opened.release.rounds} rounds, digest {opened.release.model_sha256.hex()}.",
            f"It was released by an aggregator with measurement {opened.aggregator.measurement.hex()[:16]}…",
            "NO HARDWARE PROTECTION stood behind it." if assurance == "none" else f"Assurance: {assurance}.",
        )
        report.data |= {"file": str(out)} | opened.provenance()


@app.command(
    epilog="Example: cloister model card --charter charter.dsse.json --plan plan.dsse.json "
    "--coordinator coordinator.example:8443 --ca ca.pem --out card.html"
)
def card(
    charter: CharterFile,
    plan: PlanFile,
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    out: Annotated[Path | None, typer.Option(help="Where to write the page, HTML.")] = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Fetch the model card of a run, verify that its aggregator made it, and show it; anybody may."""
    with reporting(json_output) as report:
        from console import ordering
        from console.card_page import headline, render
        from console.files import refuse_existing, write_file
        from console.opening import fetch_card

        if out is not None:
            refuse_existing(out, force=force)
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            found, release = fetch_card(desk)
        if out is not None:
            write_file(out, render(found, release), force=force)
        assurance = release.aggregator.assurance.value
        report.say(
            *headline(found.content),
            "NO HARDWARE PROTECTION stood behind it." if assurance == "none" else f"Assurance: {assurance}.",
            *([] if out is None else [f"Wrote {out}: the whole card as a page."]),
        )
        report.data |= {"card": dict(found.content), "card_sha256": found.sha256.hex(), "assurance": assurance}
        report.data |= {} if out is None else {"file": str(out)}
