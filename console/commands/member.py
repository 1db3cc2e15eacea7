"""``cloister member``: a member's own keys, and its word for its worker. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile, Force, Key, PassphraseFd, PassphraseFile, ValidDays
from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Make a member's keys, and credentials for its workers.")


@app.command(epilog="Example: cloister member keygen hospital-a --out ./keys --title 'Hospital A'")
def keygen(
    name: Annotated[str, typer.Argument(help="The member's id: lower-case letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option(help="Folder for the key files.", show_default=False)],
    title: Annotated[str, typer.Option(help="The organisation's name, as others shall read it.")] = "",
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Make a signing key and a sealing key; hand only member.json to the others."""
    with reporting(json_output) as report:
        from console import keyfiles, members

        secret = keyfiles.given_passphrase(passphrase_file, passphrase_fd)
        if secret is None and passphrase:
            secret = keyfiles.ask_passphrase("New passphrase", confirm=True)
        made = members.make_member(out, members.Naming(name, title or name), secret, force=force)
        report.say(
            f"Made the keys of {made.id} in {out}.",
            f"Keep {keyfiles.SIGNING_KEY} and {keyfiles.SEALING_KEY} secret, and a copy of both in a safe place.",
            f"Hand {keyfiles.MEMBER_FILE} to whoever writes the charter.",
        )
        if secret is None:
            report.say("The private keys have no passphrase: whoever reads the files can sign as this member.")
        report.data |= {"member": made.to_json(), "folder": str(out), "encrypted": secret is not None}


@app.command(
    epilog="Example: cloister member credential --charter charter.dsse.json --key signing-key.pem --out ./worker"
)
def credential(
    charter: CharterFile,
    key: Key,
    out: Annotated[Path, typer.Option(help="Folder for the worker's key and credential.", show_default=False)],
    valid_days: ValidDays = 30,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Make a worker's key, and sign that whoever holds it is this member's worker."""
    with reporting(json_output) as report:
        from console import keyfiles, members
        from console.documents import load_charter

        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        made = members.make_credential(out, load_charter(charter), signer, valid_days=valid_days, force=force)
        report.say(
            f"Made a credential of {made.document.member} for one worker in {out}.",
            f"Give {keyfiles.WORKER_KEY} and {keyfiles.CREDENTIAL} to that worker; the key is not encrypted.",
        )
        report.data |= {"credential": made.document.to_json(), "digest": made.digest.hex(), "folder": str(out)}
