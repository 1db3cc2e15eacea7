"""``cloister model serve|attest|score``: a model that answers and never lies open. Mounted by ``model``.

Trust zone: the runtime's operator (serve), a recipient's machine (attest, score).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.options import Ca, CharterFile, Coordinator, Force, Key, PassphraseFd, PassphraseFile, PlanFile, Proxy
from console.output import JsonOption, UserError, reporting
from console.tee_options import Chip, TeeChoice

if TYPE_CHECKING:
    from console.scoring_client import ScoringClient

ServiceAddress = Annotated[
    str, typer.Option("--service", help="name:port, or http://127.0.0.1:port.", show_default=False)
]
ServiceCa = Annotated[Path | None, typer.Option("--ca", help="The CA of the service's certificate.")]
ModelDigest = Annotated[str, typer.Option("--model-sha256", help="Only this model: 64 hexadecimal digits.")]


def serve(  # one parameter for each thing that an operator may decide
    charter: CharterFile,
    plan: PlanFile,
    site: Annotated[Path, typer.Option(help="Folder of `member credential --out`.", show_default=False)],
    grantor: Annotated[str, typer.Option(help="The member whose broker grants the key.", show_default=False)],
    broker: Annotated[str, typer.Option(help="That broker's name:port.", show_default=False)],
    coordinator: Coordinator,
    tee: TeeChoice,
    chip: Chip = None,
    broker_ca: Annotated[Path | None, typer.Option(help="The CA of the broker's certificate.")] = None,
    ca: Ca = None,
    proxy: Proxy = "",
    listen: Annotated[
        str, typer.Option(help="address:port, with a certificate; or http://127.0.0.1:port.")
    ] = "http://127.0.0.1:8446",
    certificate: Annotated[Path | None, typer.Option(help="PEM chain for TLS.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    rows_per_request: Annotated[int, typer.Option(min=1, help="Rows that one request may have.")] = 512,
    requests_per_minute: Annotated[int, typer.Option(min=1, help="Of one client.")] = 60,
    requests_total: Annotated[int, typer.Option(min=1, help="Of everybody, until the next start.")] = 100_000,
    timeout_s: Annotated[int, typer.Option(min=1, max=3600, help="Seconds that the app has for a request.")] = 30,
    bundle: Annotated[Path | None, typer.Option(help="The app bundle; default: the .fab next to the plan.")] = None,
    log: Annotated[Path | None, typer.Option(help="The runtime's log; default: serving.log in --site.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a released model from an attested runtime, until Ctrl-C.

    The release and the sealed model are fetched here, as ciphertext; only the runtime gets the key, from the broker.
    A grant may allow less than the limits given here, never more.
    """
    with reporting(json_output) as report:
        from console import ordering
        from console.serving import Service, ServiceFiles, serve_model
        from trusted.documents.terms.scoring import ScoringLimits

        limits = ScoringLimits(rows_per_request, requests_per_minute, requests_total)
        service = Service(grantor, broker, broker_ca, listen, limits, timeout_s)
        files = ServiceFiles(
            site=site,
            bundle=bundle or plan.with_name(f"{plan.name.split('.')[0]}.fab"),
            log=(log or site / "serving.log").resolve(),
            certificate=certificate,
            certificate_key=certificate_key,
        )
        with ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            status = serve_model(desk, files, service, tee=tee, chip=chip, report=report)
        report.data |= {"plan": desk.plan.digest.hex(), "status": status}
    raise typer.Exit(status)


def attest(
    service: Annotated[str, typer.Argument(help="name:port, or http://127.0.0.1:port.", show_default=False)],
    charter: CharterFile,
    plan: PlanFile,
    ca: ServiceCa = None,
    model_sha256: ModelDigest = "",
    json_output: JsonOption = False,
) -> None:
    """Let a scoring service prove what it runs and what it serves, and say it claim by claim; no row is sent."""
    with reporting(json_output) as report:
        from console.explaining import Question, explain
        from console.explanation_table import show_explanation
        from console.moment import read_moment
        from console.serving_shown import show_service
        from trusted.attestation.binding import host_data

        with _client(service, charter, plan, ca, model_sha256) as client:
            proved = client.prove()
            federation = client.federation
        rules = federation.charter.document
        bound = host_data("recipient", federation.charter.digest, federation.plan.digest)
        question = Question(rules.roots, rules.recipient, proved.report_data, bound, read_moment(""))
        show_service(report, proved)
        show_explanation(report, explain(proved.evidence.cpu, question))


def score(
    charter: CharterFile,
    plan: PlanFile,
    service: ServiceAddress,
    member: Annotated[str, typer.Option(help="Who asks: a recipient of the plan.", show_default=False)],
    key: Key,
    rows: Annotated[Path, typer.Option("--input", help="CSV with the declared columns.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Where the scores go, CSV.")] = Path("scores.csv"),
    keep: Annotated[list[str], typer.Option(help="A column of the input to copy beside the scores; repeat.")] = [],  # noqa: B006
    ca: ServiceCa = None,
    model_sha256: ModelDigest = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Score the rows of a CSV file. The service proves itself first; each row is sealed to the key that it proved."""
    with reporting(json_output) as report:
        from console import keyfiles, scoring
        from console.files import PRIVATE, refuse_existing, write_file
        from console.serving_shown import service_json, service_protection
        from trusted.scoring.client import Asker

        refuse_existing(output, force=force)
        signer = keyfiles.load_ed25519(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with _client(service, charter, plan, ca, model_sha256) as client:
            proved = client.prove()
            report.say(service_protection(proved))
            declaration = proved.statement.declaration
            table = scoring.read_rows(rows, declaration, keep)
            client.admit(Asker(member, signer))
            scores = scoring.score_rows(client, proved, table, report.say)
        data = scoring.scores_csv(scores, table, declaration, keep)
        write_file(output, data, mode=PRIVATE, force=force)
        report.say(f"Wrote {output}: {len(scores)} rows, {', '.join(declaration.outputs)}.")
        report.data |= {"file": str(output), "rows": len(scores), **service_json(proved)}


def add_commands(app: typer.Typer) -> None:
    """Mount the three commands on ``cloister model``."""
    papers = "--charter charter.dsse.json --plan plan.dsse.json"
    service = "http://127.0.0.1:8446"
    hosts = "--broker broker.example:8445 --broker-ca broker-ca.pem --coordinator coordinator.example:8443 --ca ca.pem"
    examples: dict[Callable[..., None], str] = {
        serve: f"serve {papers} --site ./runtime --grantor site-1 {hosts} --tee software --chip ./chip-r",
        attest: f"attest {service} {papers}",
        score: f"score {papers} --service {service} --member site-1 --key signing-key.pem --input rows.csv",
    }
    for command, example in examples.items():
        app.command(command.__name__, epilog=f"Example: cloister model {example}")(command)


def _client(service: str, charter: Path, plan: Path, ca: Path | None, model_sha256: str) -> ScoringClient:
    from console.documents import load_charter, load_plan
    from console.files import MAX_CA_BYTES, read_bounded
    from console.scoring_client import ScoringClient, Wanted
    from trusted.channel.federation import Federation
    from worker.grpc_channel import HostAddress

    rules = load_charter(charter)
    federation = Federation(rules, load_plan(plan, rules))
    ca_pem = None if ca is None else read_bounded(ca, MAX_CA_BYTES)
    return ScoringClient(HostAddress(service, ca_pem), Wanted(federation, _digest(model_sha256)))


def _digest(text: str) -> bytes | None:
    if not text:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        hint = "Give the digest that `cloister model open` or the run's report names."
        raise UserError("--model-sha256 is not 64 hexadecimal digits", hint)
    return digest
