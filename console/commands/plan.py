"""``cloister plan``: one training run, made, shown, signed and verified. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import (
    CharterFile,
    FoldingRule,
    Force,
    Key,
    ModelEncoding,
    PassphraseFd,
    PassphraseFile,
    UpdateEncoding,
    ValidDays,
    Yes,
    given_options,
)
from console.output import JsonOption, reporting

app = typer.Typer(no_args_is_help=True, help="Make, show, sign and verify a training plan.")

File = Annotated[Path, typer.Argument(help="The plan (DSSE).", show_default=False)]
Texts = list[str]


@app.command(
    epilog="Example: cloister plan new --charter charter.dsse.json --app ./my-app --initial-model model.safetensors "
    "--name visits --purpose 'Predict visits' --rounds 5 --column age --column visits --recipient hospital-a "
    "--no-privacy-because 'all recipients are members'"
)
def new(  # one parameter for each field of the document
    context: typer.Context,
    charter: CharterFile,
    initial_model: Annotated[Path, typer.Option(help="The model to start from, safetensors.", show_default=False)],
    name: Annotated[str, typer.Option(help="A short name.", show_default=False)],
    purpose: Annotated[str, typer.Option(help="What the model is for; every signer reads it.", show_default=False)],
    recipient: Annotated[Texts, typer.Option(help="A member who gets the model; repeat.", show_default=False)],
    app_path: Annotated[
        Path | None, typer.Option("--app", help="A Flower app's folder, or its bundle.", show_default=False)
    ] = None,
    from_simulation: Annotated[
        Path | None,
        typer.Option(
            help="A simulation's settings or result (JSON, Parquet): what is not given here is as it was there."
        ),
    ] = None,
    no_privacy_because: Annotated[str, typer.Option(help="Why no privacy mechanism is needed.")] = "",
    privacy: Annotated[
        str, typer.Option(help="Or a mechanism: 'member-clipping,clip_norm=1,…' or 'dp-sgd,…' (docs/privacy.md).")
    ] = "",
    column: Annotated[Texts, typer.Option(help="A column of the data; repeat.")] = [],  # noqa: B006
    contract: Annotated[
        Path | None,
        typer.Option(help="JSON: columns with types, units, ranges, consent, expiry; in place of --column."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Rounds. Default: the app's, or 3.")] = None,
    member: Annotated[Texts, typer.Option(help="A member of the cohort; repeat. Default: all.")] = [],  # noqa: B006
    minimum: Annotated[int | None, typer.Option(min=2, help="Never fold fewer. Default: the least allowed.")] = None,
    size: Annotated[int | None, typer.Option(min=2, help="Members sampled each round. Default: all.")] = None,
    layout: Annotated[Path | None, typer.Option(help="JSON list that fixes the order of the tensors.")] = None,
    model_encoding: Annotated[ModelEncoding, typer.Option(help="How the model travels.")] = ModelEncoding.FLOAT32,
    update_encoding: Annotated[UpdateEncoding, typer.Option(help="How updates travel.")] = UpdateEncoding.FLOAT32,
    exchange_tensor: Annotated[
        Texts, typer.Option(help="A tensor to train and exchange, or a pattern like 'lora_*'; repeat. Default: all.")
    ] = [],  # noqa: B006
    config: Annotated[Texts, typer.Option(help="key=value over the app's run config; repeat.")] = [],  # noqa: B006
    train_config: Annotated[
        Texts, typer.Option(help="key=value in every message to train; 5:key=value from round 5 on; repeat.")
    ] = [],  # noqa: B006
    evaluate_config: Annotated[Texts, typer.Option(help="The same in every message to evaluate.")] = [],  # noqa: B006
    metric: Annotated[Texts, typer.Option(help="name[:min_sites[:digits[:min_rows]]] that may leave; repeat.")] = [],  # noqa: B006
    evaluate_label: Annotated[
        str | None, typer.Option(help="column:at_least: judge the final model inside, and make a model card.")
    ] = None,
    subgroup: Annotated[Texts, typer.Option(help="Judge apart: column=v1,v2 or column:edge1,edge2; repeat.")] = [],  # noqa: B006
    unseen_column: Annotated[
        Texts, typer.Option(help="A column to judge by that the app does not get to see; repeat.")
    ] = [],  # noqa: B006
    min_cell: Annotated[int, typer.Option(min=5, help="No figure of fewer positive or negative rows.")] = 10,
    evaluate_min_sites: Annotated[int, typer.Option(min=2, help="Nor of fewer sites.")] = 2,
    per_site: Annotated[bool, typer.Option(help="Let each site's own figures become public.")] = False,
    shadows: Annotated[
        int, typer.Option(min=0, help="Shadow models of the membership audit; 0: its losses alone.")
    ] = 0,
    min_rows: Annotated[int, typer.Option(min=1, help="Rows that each site must have.")] = 1,
    max_weight: Annotated[float, typer.Option(min=1, help="No site weighs more than this.")] = 1_000_000,
    rule: Annotated[FoldingRule, typer.Option(help="How updates become one step.")] = FoldingRule.WEIGHTED_MEAN,
    false_sites: Annotated[int | None, typer.Option(min=1, help="How many false sites the rule shall stand.")] = None,
    kept: Annotated[int | None, typer.Option(min=1, help="Updates that multi-krum averages. Default: most.")] = None,
    server: Annotated[
        str | None, typer.Option(help="momentum, adam, yogi or adagrad, or adam:learning_rate=0.01,tau=0.1.")
    ] = None,
    proximal_mu: Annotated[float | None, typer.Option(help="FedProx's term, told to each site's app.")] = None,
    max_exchanges: Annotated[int, typer.Option(min=1, help="server-app: how often it may ask sites.")] = 1000,
    max_message_mib: Annotated[int, typer.Option(min=1, help="server-app: the size of every message.")] = 64,
    turn_s: Annotated[int, typer.Option(min=1, help="server-app: its seconds between two exchanges.")] = 600,
    round_s: Annotated[int, typer.Option(min=1, help="Seconds until a round ends.")] = 3600,
    lease_s: Annotated[int, typer.Option(min=1, help="Seconds without progress until a worker is lost.")] = 120,
    reattest_s: Annotated[
        int | None,
        typer.Option(min=1, help="Seconds between attestations, fewer than a lease's. Default: half of them."),
    ] = None,
    valid_days: ValidDays = 30,
    out: Annotated[Path, typer.Option(help="Where to write it; the bundle goes next to it.")] = Path("plan.dsse.json"),
    force: Force = False,
    json_output: JsonOption = False,
) -> None:
    """Write a plan that nobody has signed yet, and the app's bundle next to it.

    What is not given is as it was simulated (--from-simulation), and what that does not say is taken from the app where
    it says so plainly: its run config, rounds, what goes with messages.
    """
    with reporting(json_output) as report:
        from console import plans
        from console.app_terms import read_messages, read_settings, read_terms
        from console.documents import load_charter, write_unsigned
        from console.exchanging import Travel
        from console.files import refuse_existing, write_file
        from console.folding import Folding
        from console.judging import Judged
        from console.privacy import forecast, read_mechanism
        from console.simulated import Carried
        from trusted.documents.explain import explain_plan
        from trusted.documents.plan import PAYLOAD_TYPE

        bundle_path = out.with_name(f"{out.name.split('.')[0]}.fab")
        refuse_existing(out, bundle_path, force=force)
        rules = load_charter(charter)
        carried = Carried.read(from_simulation, given_options(context))
        config = carried.messages("config", config)
        train_config = carried.messages("train_config", train_config)
        evaluate_config = carried.messages("evaluate_config", evaluate_config)
        rounds, minimum = carried.over("rounds", rounds), carried.over("minimum", minimum)
        size = carried.over("size", size)
        bundle = plans.read_bundle(carried.app(app_path))
        travel = carried.travel(Travel(model_encoding.value, update_encoding.value, exchange_tensor))
        app_says = read_terms(bundle, read_settings(config))
        training = plans.Training(
            bundle, config, initial_model, layout, travel, app_says, train_config, evaluate_config
        )
        judged = Judged(
            evaluate_label,
            subgroup,
            min_cell,
            min_sites=evaluate_min_sites,
            per_site=per_site,
            shadows=shadows,
            unseen=unseen_column,
        )
        # The app's own server samples for itself, among all.
        share = 1.0 if rule is FoldingRule.SERVER_APP else app_says.fraction_train
        sites = plans.Sites(
            member,
            minimum,
            size,
            min_rows,
            carried.columns(column, contract),
            carried.metrics(metric),
            recipient,
            share if from_simulation is None else None,
            judged.to_json(),
            contract,
        )
        round_s, lease_s = carried.over("round_s", round_s), carried.over("lease_s", lease_s)
        half = max(1, lease_s // 2)  # a lease is renewed by attestation alone
        simulated = carried.over("reattest_s", half)
        reattest_s = reattest_s or (simulated if simulated < lease_s else half)
        timing = plans.Timing(round_s, lease_s, reattest_s, valid_days)
        given = {"rounds"} if rounds else set()
        given |= {"size"} if size else set()
        given |= {f"train_config.{key}" for key in read_messages(train_config).get(1, {})}
        given |= {f"evaluate_config.{key}" for key in read_messages(evaluate_config).get(1, {})}
        taken = app_says.taken_besides(given)
        rounds = rounds or app_says.rounds or 3
        mechanism = carried.mechanism() or read_mechanism(privacy, no_privacy_because)
        weight = max_weight if mechanism["mechanism"] == "none" else 1  # all count alike under privacy
        server_app = (max_exchanges, max_message_mib, turn_s)
        folding = carried.folding(Folding(rule.value, false_sites, kept, server, proximal_mu, server_app))
        terms = plans.Terms(name, purpose, rounds, weight, mechanism, timing, folding)
        plan = plans.make_plan(rules, training, sites, terms)
        write_file(bundle_path, bundle, force=force)
        envelope = write_unsigned(out, plan.encode(), PAYLOAD_TYPE, force=force)
        report.say(*(f"Taken from the simulation: {said}." for said in carried.taken))
        report.say(*(f"Taken from the app: {said}." for said in taken), *app_says.left)
        report.say(*explain_plan(plan, rules.document), *forecast(plan))
        report.say(
            f"Wrote {out}, which nobody has signed, and the app's bundle {bundle_path}.",
            f"Next: cloister plan sign {out} --charter {charter} --key signing-key.pem",
        )
        digest = envelope.digest.hex()
        report.data |= {"file": str(out), "bundle": str(bundle_path), "digest": digest, "plan": plan.to_json()}
        report.data |= {"taken": taken, "left": list(app_says.left), "simulated": carried.taken}


@app.command(epilog="Example: cloister plan show plan.dsse.json --charter charter.dsse.json")
def show(file: File, charter: CharterFile, json_output: JsonOption = False) -> None:
    """Show a plan and who has signed it; nothing is verified but the charter and the signatures that are there."""
    with reporting(json_output) as report:
        from console import folding
        from console.documents import load_charter, read_envelope, show_signers
        from console.exchanging import describe
        from trusted.documents.dsse import signers
        from trusted.documents.plan import PAYLOAD_TYPE, Plan

        rules = load_charter(charter)
        envelope = read_envelope(file, PAYLOAD_TYPE)
        plan = Plan.parse(envelope.payload)
        validity = plan.validity.to_json()
        report.heading(f"Plan {plan.name}")
        report.rows(
            [
                ("digest", envelope.digest.hex()),
                ("purpose", plan.purpose),
                ("valid", f"{validity['not_before']} to {validity['not_after']}"),
                ("app", plan.app.bundle_sha256.hex()),
                ("model", f"{plan.layout.elements} numbers in {len(plan.layout.tensors)} tensors"),
                ("exchanged", describe(plan.exchange)),
                ("rounds", str(plan.rounds)),
                ("folding", folding.describe(plan.aggregation)),
                ("cohort", f"{', '.join(plan.cohort.members)}; at least {plan.cohort.minimum}"),
                ("recipients", ", ".join(plan.recipients)),
            ]
        )
        report.data |= {"digest": envelope.digest.hex(), "plan": plan.to_json()}
        found = signers(envelope, rules.document.signing_keys)
        show_signers(report, found, needed=rules.document.thresholds.plan, required=plan.cohort.members)


@app.command(epilog="Example: cloister plan explain plan.dsse.json --charter charter.dsse.json")
def explain(file: File, charter: CharterFile, json_output: JsonOption = False) -> None:
    """Say in plain sentences what a plan means: who trains what, what leaves, and who gets the model."""
    with reporting(json_output) as report:
        from console.documents import load_charter, read_envelope
        from console.privacy import forecast
        from trusted.documents.explain import explain_plan
        from trusted.documents.plan import PAYLOAD_TYPE, Plan

        plan = Plan.parse(read_envelope(file, PAYLOAD_TYPE).payload)
        sentences = [*explain_plan(plan, load_charter(charter).document), *forecast(plan)]
        report.say(*sentences)
        report.data |= {"sentences": sentences}


@app.command(epilog="Example: cloister plan sign plan.dsse.json --charter charter.dsse.json --key signing-key.pem")
def sign(
    file: File,
    charter: CharterFile,
    key: Key,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Show a plan, then add your signature to its file."""
    with reporting(json_output) as report:
        from console import keyfiles
        from console.documents import Signing, add_signature, load_charter, read_envelope
        from trusted.documents.explain import explain_plan
        from trusted.documents.plan import PAYLOAD_TYPE, Plan, check_against

        rules = load_charter(charter)
        envelope = read_envelope(file, PAYLOAD_TYPE)
        plan = Plan.parse(envelope.payload)
        check_against(plan, rules)
        report.say(*explain_plan(plan, rules.document), f"Digest: {envelope.digest.hex()}")
        signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        signing = Signing(signer, rules.document.signing_keys, ask=not yes)
        member = add_signature(file, envelope, signing, report)
        report.data |= {"member": member, "digest": envelope.digest.hex()}


@app.command(epilog="Example: cloister plan verify plan.dsse.json --charter charter.dsse.json")
def verify(file: File, charter: CharterFile, json_output: JsonOption = False) -> None:
    """Verify a plan as every worker will: charter, rules, signatures of everybody concerned, dates."""
    with reporting(json_output) as report:
        from console.documents import load_charter, load_plan

        plan = load_plan(file, load_charter(charter))
        report.say(f"The plan holds, signed by {', '.join(sorted(plan.signers))}.", f"Digest: {plan.digest.hex()}")
        report.data |= {"digest": plan.digest.hex(), "signers": sorted(plan.signers)}
