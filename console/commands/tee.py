"""``cloister tee``: a root and chips for the software TEE, for trials without hardware. Trust zone: operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import Force
from console.output import JsonOption, UserError, reporting

app = typer.Typer(no_args_is_help=True, help="Make a software TEE for trials. It has NO HARDWARE PROTECTION.")
Out = Annotated[Path, typer.Option(help="Folder for the private files.", show_default=False)]


@app.command(epilog="Example: cloister tee root --out ./tee-root")
def root(
    out: Out,
    product: Annotated[str, typer.Option(help="The processor generation that it plays.")] = "Genoa",
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Make a throw-away root; only a development charter may name it."""
    with reporting(json_output) as report:
        from console.documents import present
        from console.files import refuse_existing
        from softtee.chip import SoftwareRoot
        from trusted.attestation.products import PRODUCTS

        refuse_existing(out, force=force)
        if product not in PRODUCTS:
            raise UserError(f"no such product: {product}", f"Give one of {', '.join(PRODUCTS)}.")
        made = SoftwareRoot.create(now=present(), product=product)
        made.save(out)
        report.say(
            f"Made a software root in {out}. Evidence under it says assurance none: NO HARDWARE PROTECTION.",
            f"Next: cloister tee chip --root {out} --out ./chip-1, one for each machine.",
        )
        report.data |= {"folder": str(out), "product": product, "sha256": made.sha256.hex()}


@app.command(epilog="Example: cloister tee chip --root ./tee-root --tpm --out ./chip-1")
def chip(
    root: Annotated[Path, typer.Option(help="The folder of `cloister tee root`.", show_default=False)],
    out: Out,
    tpm: Annotated[bool, typer.Option("--tpm", help="With a software TPM beside it; needs swtpm.")] = False,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Make one machine's chip under a software root; copy its folder to that machine."""
    with reporting(json_output) as report:
        from console.documents import present
        from console.files import refuse_existing
        from softtee import swtpm
        from softtee.chip import SoftwareRoot
        from softtee.chip_tpm import ChipTpm, remove_tpm

        refuse_existing(out, force=force)
        if tpm:
            swtpm.installed()  # before anything is written
        try:
            issuer, now = SoftwareRoot.load(root), present()
        except ValueError:
            raise UserError(f"{root}: not a software root", "Make one: cloister tee root --out ./tee-root") from None
        made = issuer.issue_chip(now=now)
        made.save(out)
        remove_tpm(out)
        report.say(f"Made a chip in {out}. Whoever reads this folder can forge its evidence.")
        report.data |= {"folder": str(out), "chip_id": made.chip_id.hex()}
        if tpm:
            key = ChipTpm.make(out, issuer, now=now).key_sha256.hex()
            report.say(
                f"Its software TPM has the attestation key {key}.",
                "Next: cloister charter new --tpm-key, with the key of each chip that may take part.",
            )
            report.data |= {"tpm_key": key}
