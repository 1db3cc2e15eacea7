"""``cloister data``: a site's data set, from its file to what a worker may open. Trust zone: the steward's machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.commands.granting import add_commands
from console.options import Force, PassphraseFd, PassphraseFile
from console.output import ExitCode, JsonOption, UserError, reporting

if TYPE_CHECKING:
    from datetime import datetime

    from trusted.documents.plan import Plan

app = typer.Typer(
    no_args_is_help=True, help="Check a site's data against a plan, seal it, grant its key, and prove what was used."
)

SourceFile = Annotated[
    Path, typer.Argument(help="CSV or Parquet file, a folder of them, or a sealed file.", show_default=False)
]
SealedFile = Annotated[Path, typer.Argument(help="A file that `data seal` made.", show_default=False)]
AnyPlan = Annotated[Path, typer.Option("--plan", help="The plan (DSSE), signed or not.", show_default=False)]
Keys = Annotated[Path, typer.Option(help="The member's key store, a folder.", show_default=False)]
At = Annotated[str, typer.Option(help="Judge as of this time (YYYY-MM-DDTHH:MM:SSZ). Default: now.")]


@app.command(epilog="Example: cloister data check visits.csv --plan plan.dsse.json")
def check(
    source: SourceFile,
    plan: AnyPlan,
    keys: Annotated[Path | None, typer.Option(help="The member's key store, for a sealed file.")] = None,
    at: At = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Hold data against a plan's contract as the worker will, and show what is wrong where.

    Exit code 3 when a worker would refuse it. It prints values of the data: it is for the steward's own screen.
    """
    with reporting(json_output) as report:
        from console.data_report import check, show_checked
        from console.tables import tables
        from trusted.row_commitment import secret_of

        document, digest = _plan(plan)
        key = _key_for(source, keys, passphrase_file, passphrase_fd)
        secret = None if key is None else secret_of(key, digest)
        found = tables(source, document.dataset.rule_of, key)
        checked = check(found, document.dataset, _moment(at), secret)
        if checked.files:
            show_checked(report, checked)
        report.data |= checked.to_json()
        if checked.refusal is None:
            report.say(f"The data holds under the plan {document.name}; nobody's signature on it was checked.")
            if checked.commitment is not None:
                report.say(f"A worker that starts now commits to {checked.commitment.digest().hex()}.")
        else:
            report.say(f"A worker would refuse this data: {checked.refusal.detail}.")
    raise typer.Exit(ExitCode.OK if checked.refusal is None else ExitCode.POLICY)


@app.command(
    epilog="Example: cloister data seal visits.parquet --plan plan.dsse.json --member hospital-a --keys ./keys "
    "--out visits.sealed"
)
def seal(
    source: SourceFile,
    member: Annotated[str, typer.Option(help="Whose data it is.", show_default=False)],
    keys: Keys,
    out: Annotated[Path, typer.Option(help="Where to write it.", show_default=False)],
    plan: Annotated[
        Path | None, typer.Option(help="Seal only what this plan needs, once its contract holds. Default: all columns.")
    ] = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Encrypt a data set under a fresh key, which the member's key store keeps for attested workers.

    No passphrase is needed, and nothing is written in clear.
    """
    with reporting(json_output) as report:
        from console.data_sealing import Steward, seal_source
        from console.tables import needs_key
        from trusted.documents.schema import member_id

        member_id(member, "--member")
        contract = None
        if plan is not None:
            document, _ = _plan(plan)
            contract = document.dataset
            if member not in document.cohort.members:
                hint = f"Its cohort: {', '.join(document.cohort.members)}."
                raise UserError(f"{member} is not in the cohort of {plan}", hint)
        if needs_key(source):
            raise UserError(
                f"{source} is sealed already", "Seal the data itself, or open it first: cloister data open."
            )
        made = seal_source(source, out, member=member, steward=Steward(keys), contract=contract, force=force)
        report.say(
            f"Wrote {out}: {made.rows} row(s) of {len(made.columns)} column(s), {made.size_bytes} bytes, sealed."
        )
        if made.without_consent or made.expired:
            report.say(f"Left out: {made.without_consent} without consent, {made.expired} past their time.")
        key = made.header.key_id.hex()
        report.say(
            f"Its key {key} is in {keys}. Delete the data in clear where you no longer need it.",
            f"Next: cloister data grant {key[:12]}, and give the worker --data {out} and --key-broker.",
        )
        report.data |= {
            "file": str(out),
            "key": key,
            "member": member,
            "rows": made.rows,
            "columns": list(made.columns),
            "without_consent": made.without_consent,
            "expired": made.expired,
            "bytes": made.size_bytes,
        }


@app.command(epilog="Example: cloister data show visits.sealed")
def show(file: SealedFile, json_output: JsonOption = False) -> None:
    """Show what everybody may read of a sealed file: whose it is, which key opens it, and when it was sealed."""
    with reporting(json_output) as report:
        from console.data_sealing import require_sealed
        from trusted.documents.schema import write_time

        header, size = require_sealed(file), file.stat().st_size
        sealed = write_time(header.sealed)
        rows = [("member", header.member), ("key", header.key_id.hex()), ("sealed", sealed), ("bytes", str(size))]
        report.rows(rows)
        report.say("This is the file's own word; who opens it learns whether it is true.")
        report.data |= {"member": header.member, "key": header.key_id.hex(), "sealed": sealed, "bytes": size}


@app.command("open", epilog="Example: cloister data open visits.sealed --keys ./keys --out visits.csv")
def open_data(
    file: SealedFile,
    keys: Keys,
    out: Annotated[Path, typer.Option(help="Where to write the data in clear, CSV.", show_default=False)],
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Decrypt a sealed file with the member's own key store."""
    with reporting(json_output) as report:
        from console import keyfiles
        from console.data_sealing import Steward, open_sealed

        steward = Steward(keys, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        size = open_sealed(file, out, steward=steward, force=force)
        report.say(f"Wrote {out}: {size} bytes in clear, for you alone (mode 0600).")
        report.data |= {"file": str(out), "bytes": size}


@app.command(
    epilog="Example: cloister data prove visits.sealed --plan plan.dsse.json --keys ./keys --row 42 --out row.json"
)
def prove(
    file: SealedFile,
    plan: AnyPlan,
    keys: Keys,
    row: Annotated[int, typer.Option(min=1, help="Which row of the sealed file, from 1.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where to write the proof. It holds the row in clear.", show_default=False)],
    at: At = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write a proof that one row is part of what this site's worker committed to in the run's ledger.

    Where the plan has rows expire, give --at the time at which the worker started.
    """
    with reporting(json_output) as report:
        from console.data_proving import prove_row
        from console.files import PRIVATE, refuse_existing, write_file

        refuse_existing(out, force=force)
        key = _key_for(file, keys, passphrase_file, passphrase_fd)
        if key is None:
            raise UserError(f"{file}: not a sealed data set", "Only the rows of a sealed file can be proved.")
        document, digest = _plan(plan)
        proof, commitment = prove_row(file, key, document.dataset, digest, row=row, now=_moment(at))
        write_file(out, proof.encode(), mode=PRIVATE, force=force)
        report.say(
            f"Wrote {out}, which holds the row in clear: row {proof.index + 1} of {proof.rows} that entered.",
            f"It holds for the commitment {commitment.hex()}; compare the ledger: cloister run log.",
        )
        report.data |= {"file": str(out), "index": proof.index, "rows": proof.rows, "commitment": commitment.hex()}


@app.command(epilog="Example: cloister data verify-row row.json --commitment 4f0c…")
def verify_row(
    proof: Annotated[Path, typer.Argument(help="What `data prove` wrote.", show_default=False)],
    commitment: Annotated[
        str, typer.Option(help="64 hexadecimal digits: `dataset` of the worker's `admitted` leaf.", show_default=False)
    ],
    json_output: JsonOption = False,
) -> None:
    """Verify that the row in a proof is part of the data that a worker committed to; show the row."""
    with reporting(json_output) as report:
        from console.files import read_bounded
        from trusted.row_commitment import MAX_PROOF_BYTES, RowProof

        try:
            digest = bytes.fromhex(commitment)
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise UserError(
                "--commitment: 64 hexadecimal digits expected", "Take it from the ledger: cloister run log."
            )
        shown = RowProof.decode(read_bounded(proof, MAX_PROOF_BYTES))
        shown.verify(digest)
        report.say(f"This row is number {shown.index + 1} of the {shown.rows} that were committed to:")
        report.rows(list(zip(shown.columns, shown.row, strict=True)))
        row = dict(zip(shown.columns, shown.row, strict=True))
        report.data |= {"index": shown.index, "rows": shown.rows, "row": row}


add_commands(app, "data", "dataset")


def _plan(path: Path) -> tuple[Plan, bytes]:
    """The plan in ``path`` and its digest. Nobody's signature is checked: what is asked is what it says."""
    from console.documents import read_envelope
    from trusted.documents.plan import PAYLOAD_TYPE, Plan

    envelope = read_envelope(path, PAYLOAD_TYPE)
    return Plan.parse(envelope.payload), envelope.digest


def _moment(text: str) -> datetime:
    from console.documents import present
    from trusted.documents.schema import read_time
    from trusted.wire import Fields

    if not text:
        return present()
    with Fields({"at": text}, "--") as fields:
        return read_time(fields, "at")


def _key_for(source: Path, keys: Path | None, file: Path | None, descriptor: int | None) -> bytes | None:
    """The key of a sealed source, or None where it is not sealed."""
    from console import keyfiles
    from console.data_sealing import Steward, require_sealed
    from console.tables import needs_key

    if not needs_key(source):
        return None
    if keys is None:
        raise UserError(f"{source} is sealed", "Give --keys, the member's key store.")
    return Steward(keys, keyfiles.given_passphrase(file, descriptor)).key(require_sealed(source))
