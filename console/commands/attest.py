"""``cloister attest``: evidence collected and explained. Trust zone: a member's machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.options import Force
from console.output import ExitCode, JsonOption, UserError, reporting
from console.tee_options import Chip, TeeChoice

if TYPE_CHECKING:
    from console.explaining import Explanation, Question
    from console.output import Report

app = typer.Typer(no_args_is_help=True, help="Collect evidence, and explain it claim by claim.")


class RoleOption(Enum):
    """The roles, as the command line spells them."""

    AGGREGATOR = "aggregator"
    WORKER = "worker"
    RECIPIENT = "recipient"


File = Annotated[
    Path, typer.Argument(help="An evidence container, or a bare SNP report with --cert.", show_default=False)
]
Certificates = Annotated[list[Path], typer.Option(help="DER or PEM; repeat for chip, ASK and ARK.")]
Crl = Annotated[Path | None, typer.Option(help="The vendor's revocation list for a bare report.")]
Charter = Annotated[Path | None, typer.Option(help="Appraise under this charter's policy and roots.")]
RoleChoice = Annotated[RoleOption | None, typer.Option(help="Whose policy of the charter.")]
Plan = Annotated[Path | None, typer.Option(help="The plan that the machine was launched for.")]
ReportData = Annotated[str, typer.Option(help="The 64 bytes that the session asked for, hex.")]
SoftwareRoots = Annotated[list[str], typer.Option(help="Without a charter: also trust this one.")]
At = Annotated[str, typer.Option(help="Verify as of this time: YYYY-MM-DDTHH:MM:SSZ.")]


@app.command(
    epilog="Example: cloister attest explain evidence.bin --charter charter.dsse.json --role worker "
    "--plan plan.dsse.json"
)
def explain(
    file: File,
    cert: Certificates = [],  # noqa: B006
    crl: Crl = None,
    charter: Charter = None,
    role: RoleChoice = None,
    plan: Plan = None,
    report_data: ReportData = "",
    software_root: SoftwareRoots = [],  # noqa: B006
    at: At = "",
    json_output: JsonOption = False,
) -> None:
    """Say for each claim what was expected, what the evidence says, the verdict, and what to do about a failure.

    With a charter the verdict is `affirming` or `refused`; without, the evidence is only `verified` against the
    vendors' pinned roots. Exit code 4 when refused; with --json the object then still has status ok and all checks.
    """
    with reporting(json_output) as report:
        from console.explanation_table import show_explanation

        given = _Given(file, cert, crl, charter, role, plan, report_data, software_root, at)
        explanation = _explained(given, _question(given))
        show_explanation(report, explanation)
    raise typer.Exit(_exit_code(explanation))


@app.command(epilog="Example: cloister attest verify evidence.bin --charter charter.dsse.json --role worker")
def verify(
    file: File,
    cert: Certificates = [],  # noqa: B006
    crl: Crl = None,
    charter: Charter = None,
    role: RoleChoice = None,
    plan: Plan = None,
    report_data: ReportData = "",
    software_root: SoftwareRoots = [],  # noqa: B006
    at: At = "",
    sign: Annotated[Path | None, typer.Option(help="Sign an affirming verdict with this Ed25519 key (PEM).")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the signed result goes, a JWS.")] = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """The verdict alone, for scripts: exit code 0, or 4 when refused. `attest explain` says why.

    With --sign and --out the result is also written as a signed EAR, which `attest result` verifies.
    """
    with reporting(json_output) as report:
        from console.explanation_table import show_verdict

        if (sign is None) != (out is None):
            raise UserError("--sign and --out go together", "Give both, or neither.")
        given = _Given(file, cert, crl, charter, role, plan, report_data, software_root, at)
        question = _question(given)
        explanation = _explained(given, question)
        show_verdict(report, explanation)
        if sign is not None and out is not None and _exit_code(explanation) is ExitCode.OK:
            _write_signed(report, (explanation, question), sign, out, force=force)
    raise typer.Exit(_exit_code(explanation))


def _write_signed(report: Report, asked: tuple[Explanation, Question], key: Path, out: Path, *, force: bool) -> None:
    from console.files import write_file
    from console.keyfiles import load_ed25519
    from console.results import sign_explained

    signer = load_ed25519(key, None)
    token = sign_explained(*asked, signer)
    write_file(out, token.encode("ascii"), force=force)
    public = signer.public_key().public_bytes_raw().hex()
    report.say(f"Wrote {out}. Next: cloister attest result {out} --key {public}")
    report.data |= {"result": str(out), "key": public}


@app.command(epilog="Example: cloister attest result result.jwt --key 5f0c…")
def result(
    file: Annotated[Path, typer.Argument(help="A signed result (EAR).", show_default=False)],
    key: Annotated[str, typer.Option(help="The appraiser's Ed25519 public key: hex, or a PEM file.")],
    nonce: Annotated[str, typer.Option(help="It must answer this question, hex.")] = "",
    at: At = "",
    json_output: JsonOption = False,
) -> None:
    """Verify a signed result offline: its signature, its dates and, where given, the question that it answers."""
    with reporting(json_output) as report:
        from console.files import read_bounded
        from console.keyfiles import read_public_key
        from console.moment import read_moment
        from console.questions import read_nonce
        from console.results import ear_json, ear_rows
        from trusted.attestation.ear import MAX_TOKEN_BYTES, verify_ear

        token = read_bounded(file, MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
        ear = verify_ear(token, read_public_key(key), read_moment(at))
        if nonce:
            ear.require_nonce(read_nonce(nonce))
        report.rows(ear_rows(ear))
        report.say("The signature holds. What it is worth depends on whose key that is.")
        report.data |= ear_json(ear)


@dataclass(frozen=True, slots=True)
class _Given:
    """The options of ``explain`` and ``verify``."""

    file: Path
    cert: list[Path]
    crl: Path | None
    charter: Path | None
    role: RoleOption | None
    plan: Path | None
    report_data: str
    software_root: list[str]
    at: str


def _question(given: _Given) -> Question:
    from console.questions import Papers, make_question
    from trusted.evidence.boot import Role

    papers = Papers(given.charter, given.plan, None if given.role is None else Role(given.role.value))
    return make_question(papers, given.software_root, given.report_data, given.at)


def _explained(given: _Given, question: Question) -> Explanation:
    from console.evidence_files import read_evidence
    from console.explaining import explain as explain_evidence

    return explain_evidence(read_evidence(given.file, given.cert, given.crl), question)


def _exit_code(explanation: Explanation) -> ExitCode:
    from console.explaining import Conclusion

    return ExitCode.ATTESTATION if explanation.conclusion is Conclusion.REFUSED else ExitCode.OK


@app.command(epilog="Example: cloister attest collect --tee software --chip ./chip-1 --out evidence.bin")
def collect(
    tee: TeeChoice,
    out: Annotated[Path, typer.Option(help="Where to write the container.", show_default=False)],
    chip: Chip = None,
    tpm: Annotated[bool, typer.Option("--tpm", help="The quote of the TPM beside the TEE instead.")] = False,
    report_data: Annotated[str, typer.Option(help="64 bytes of hex for the report; default: random.")] = "",
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write this machine's evidence to a file. With --tee software it is a sample: nothing was measured."""
    with reporting(json_output) as report:
        from secrets import token_bytes

        from console.collecting import collect, collect_tpm
        from console.files import refuse_existing, write_file
        from console.questions import read_report_data
        from console.tee_options import Tee

        refuse_existing(out, force=force)
        asked = read_report_data(report_data) if report_data else token_bytes(64)
        evidence = collect_tpm(tee, chip, asked) if tpm else collect(tee, chip, asked)
        write_file(out, evidence.encode(), force=force)
        report.say(f"Wrote {out}. Its report data is {asked.hex()}.")
        if tee is Tee.SOFTWARE:
            report.say("This is a SAMPLE: its measurement is zero, no enclave was started. NO HARDWARE PROTECTION.")
        root = " --software-root ./tee-root" if tee is Tee.SOFTWARE else ""
        report.say(f"Next: cloister attest explain {out} --report-data {asked.hex()}{root}")
        report.data |= {"file": str(out), "report_data": asked.hex(), "sample": tee is Tee.SOFTWARE}
