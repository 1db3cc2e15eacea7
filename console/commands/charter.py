"""``cloister charter``: the consortium's rules, made, shown, signed, verified. Trust zone: the member's own machine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from console.options import Force, Key, PassphraseFd, PassphraseFile, ValidDays, Yes
from console.output import ExitCode, JsonOption, UserError, reporting

app = typer.Typer(no_args_is_help=True, help="Make, show, sign and verify the consortium's charter.")

File = Annotated[Path, typer.Argument(help="The charter (DSSE).", show_default=False)]
Previous = Annotated[Path | None, typer.Option(help="The charter that this one replaces.")]
Files = list[Path]
Texts = list[str]


class FailOn(Enum):
    """From which weakness on ``lint`` fails."""

    SEVERE = "severe"
    WARNING = "warning"
    NOTE = "note"
    NEVER = "never"


class ProfileOption(Enum):
    """The profiles, as the command line spells them."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


@app.command(
    epilog="Example: cloister charter new --name trial --member a/member.json --member b/member.json "
    "--profile development --software-root ./root --aggregator-measurement agg.txt --worker-measurement wrk.txt"
)
def new(  # one parameter for each field of the document
    name: Annotated[str, typer.Option(help="The consortium's name.", show_default=False)],
    member: Annotated[Files, typer.Option(help="A member.json; repeat for each member.", show_default=False)],
    profile: Annotated[ProfileOption, typer.Option(help="production needs hardware.")] = ProfileOption.PRODUCTION,
    vendor_root: Annotated[Texts, typer.Option(help="Milan, Genoa, Turin, TDX, SGX, Nitro, Azure, NVIDIA.")] = [],  # noqa: B006
    software_root: Annotated[Texts, typer.Option(help="Trust this ark.der, folder or SHA-256.")] = [],  # noqa: B006
    provider_root: Annotated[Texts, typer.Option(help="FORMAT=SHA256 or file; members vouch: gcp-cs, tpm, cca.")] = [],  # noqa: B006
    product: Annotated[str, typer.Option(help="The product that the software roots play.")] = "Genoa",
    aggregator_measurement: Annotated[Texts, typer.Option(help="48 bytes of hex, or its file.")] = [],  # noqa: B006
    worker_measurement: Annotated[Texts, typer.Option(help="48 bytes of hex, or its file.")] = [],  # noqa: B006
    chip_id: Annotated[Texts, typer.Option(help="Only these processors, 64 bytes of hex each.")] = [],  # noqa: B006
    tpm_key: Annotated[
        Texts, typer.Option(help="Each machine has a software TPM too: a key of one, hex or chip.")
    ] = [],  # noqa: B006
    aggregator_policy: Annotated[Path | None, typer.Option(help="A whole appraisal policy, JSON.")] = None,
    worker_policy: Annotated[Path | None, typer.Option(help="A whole appraisal policy, JSON.")] = None,
    recipient_measurement: Annotated[
        Texts, typer.Option(help="Of a runtime that may get a released model; without, none may.")
    ] = [],  # noqa: B006
    recipient_policy: Annotated[Path | None, typer.Option(help="A whole appraisal policy, JSON.")] = None,
    charter_threshold: Annotated[int | None, typer.Option(min=1, help="Default: a majority.")] = None,
    plan_threshold: Annotated[int | None, typer.Option(min=1, help="Default: a majority.")] = None,
    valid_days: ValidDays = 365,
    previous: Previous = None,
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("charter.dsse.json"),
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write a charter that nobody has signed yet."""
    with reporting(json_output) as report:
        from console import charters
        from console.documents import load_charter, write_unsigned
        from trusted.documents.charter import PAYLOAD_TYPE, Profile
        from trusted.documents.explain import explain_charter

        members = charters.read_members(member)
        older = load_charter(previous) if previous is not None else None
        roots = charters.read_roots(vendor_root, software_root, product, tpms=bool(tpm_key))
        roots += charters.read_provider_roots(provider_root)
        charters.require_roots(roots)
        proofs = charters.Proofs(
            roots=roots,
            aggregator=charters.read_policy(
                aggregator_policy, aggregator_measurement, roots=roots, chip_ids=chip_id, tpm_keys=tpm_key
            ),
            worker=charters.read_policy(
                worker_policy, worker_measurement, roots=roots, chip_ids=chip_id, tpm_keys=tpm_key
            ),
            recipient=charters.read_policy(
                recipient_policy, recipient_measurement, roots=roots, chip_ids=chip_id, tpm_keys=tpm_key
            )
            if recipient_policy or recipient_measurement
            else None,
        )
        identity = charters.Identity(name, Profile(profile.value), members, valid_days, older)
        thresholds = charters.default_thresholds(charter_threshold, plan_threshold, len(members))
        charter = charters.make_charter(identity, proofs, thresholds)
        envelope = write_unsigned(out, charter.encode(), PAYLOAD_TYPE, force=force)
        report.say(*explain_charter(charter))
        report.say(f"Wrote {out}, which nobody has signed. Next: cloister charter sign {out} --key signing-key.pem")
        report.data |= {"file": str(out), "digest": envelope.digest.hex(), "charter": charter.to_json()}


@app.command(epilog="Example: cloister charter show charter.dsse.json")
def show(file: File, json_output: JsonOption = False) -> None:
    """Show a charter and who has signed it; nothing is verified but the signatures that are there."""
    with reporting(json_output) as report:
        from console.documents import read_envelope, show_signers
        from trusted.documents.charter import PAYLOAD_TYPE, Charter
        from trusted.documents.dsse import signers

        envelope = read_envelope(file, PAYLOAD_TYPE)
        charter = Charter.parse(envelope.payload)
        report.heading(f"Charter {charter.name}, version {charter.version}")
        validity = charter.validity.to_json()
        report.rows(
            [
                ("digest", envelope.digest.hex()),
                ("profile", charter.profile.value),
                ("valid", f"{validity['not_before']} to {validity['not_after']}"),
                ("roots", ", ".join(f"{root.product} ({root.assurance.value})" for root in charter.roots)),
                *(("member", f"{member.id}: {member.name}") for member in charter.members),
            ]
        )
        report.data |= {"digest": envelope.digest.hex(), "charter": charter.to_json()}
        show_signers(report, signers(envelope, charter.signing_keys), needed=charter.thresholds.charter)


@app.command(epilog="Example: cloister charter explain charter.dsse.json")
def explain(file: File, json_output: JsonOption = False) -> None:
    """Say in plain sentences what a charter means."""
    with reporting(json_output) as report:
        from console.documents import read_envelope
        from trusted.documents.charter import PAYLOAD_TYPE, Charter
        from trusted.documents.explain import explain_charter

        sentences = explain_charter(Charter.parse(read_envelope(file, PAYLOAD_TYPE).payload))
        report.say(*sentences)
        report.data |= {"sentences": sentences}


@app.command(epilog="Example: cloister charter sign charter.dsse.json --key signing-key.pem")
def sign(
    file: File,
    key: Key,
    previous: Previous = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Show a charter, then add your signature to its file."""
    with reporting(json_output) as report:
        from console import keyfiles
        from console.documents import Signing, add_signature, keys_of_both, load_charter, read_envelope
        from trusted.documents.charter import PAYLOAD_TYPE, Charter
        from trusted.documents.explain import explain_charter

        envelope = read_envelope(file, PAYLOAD_TYPE)
        charter = Charter.parse(envelope.payload)
        report.say(*explain_charter(charter), f"Digest: {envelope.digest.hex()}")
        keys = charter.signing_keys
        if previous is not None:
            keys = keys_of_both(load_charter(previous).document, charter)
        elif charter.previous is not None:
            raise UserError("this charter replaces another one", "Give the older charter with --previous.")
        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        member = add_signature(file, envelope, Signing(signer, keys, ask=not yes), report)
        report.data |= {"member": member, "digest": envelope.digest.hex()}


@app.command(epilog="Example: cloister charter verify charter.dsse.json --previous charter-1.dsse.json")
def verify(file: File, previous: Previous = None, json_output: JsonOption = False) -> None:
    """Verify a charter as every worker will: rules, thresholds, chain and dates."""
    with reporting(json_output) as report:
        from console.documents import load_charter

        charter = load_charter(file, previous)
        report.say(
            f"The charter holds, signed by {', '.join(sorted(charter.signers))}.",
            f"Digest: {charter.digest.hex()}",
            "Compare the digest with the other members by another way than the one that brought the file.",
        )
        report.data |= {"digest": charter.digest.hex(), "signers": sorted(charter.signers)}


@app.command(
    epilog="Exit code 3 when a weakness is as bad as --fail-on. Example: cloister charter lint charter.dsse.json"
)
def lint(
    file: File,
    fail_on: Annotated[FailOn, typer.Option(help="Fail from this severity on.")] = FailOn.SEVERE,
    json_output: JsonOption = False,
) -> None:
    """Say in plain words what is weak about a charter, the worst first. Nobody's signature is verified."""
    with reporting(json_output) as report:
        from console.charter_lint import Severity, lint
        from console.documents import read_envelope
        from trusted.documents.charter import PAYLOAD_TYPE, Charter

        found = lint(Charter.parse(read_envelope(file, PAYLOAD_TYPE).payload))
        for weakness in found:
            report.say(f"{weakness.severity.value.upper()} {weakness.path}: {weakness.opens}.")
            report.say(f"  To close it: {weakness.remedy}.")
        if not found:
            report.say("Nothing weak was found. That is no proof that nothing is.")
        report.data |= {"weaknesses": [weakness.to_json() for weakness in found]}
        bad_enough = fail_on is not FailOn.NEVER and any(
            weakness.severity.rank >= Severity(fail_on.value).rank for weakness in found
        )
    raise typer.Exit(ExitCode.POLICY if bad_enough else ExitCode.OK)


@app.command(epilog="Example: cloister charter template snp > worker-policy.json")
def template(
    platform: Annotated[str, typer.Argument(help="An evidence format: snp, tdx, …", show_default=False)],
    as_device: Annotated[bool, typer.Option("--as-device", help="Beside a TEE, and not in its place (tpm).")] = False,
    json_output: JsonOption = False,
) -> None:
    """Print a strict role policy for one platform. What you must fill in says REPLACE; until then it does not read."""
    with reporting(json_output) as report:
        import json

        from console.templates import open_questions, template_of
        from trusted.attestation.device_policy import DEVICE_FORMATS
        from trusted.attestation.evidence import EvidenceFormat

        known = [format.value for format in EvidenceFormat]
        if platform not in known:
            raise UserError(f"no such platform: {platform}", f"Give one of {', '.join(known)}.")
        if as_device and EvidenceFormat(platform) not in DEVICE_FORMATS:
            devices = ", ".join(sorted(format.value for format in DEVICE_FORMATS))
            raise UserError(f"{platform} is no device beside a TEE", f"With --as-device give one of {devices}.")
        policy = template_of(EvidenceFormat(platform), as_device=as_device)
        if not json_output:
            typer.echo(json.dumps(policy, indent=2))
        report.data |= {"policy": policy, "replace": open_questions(policy)}
