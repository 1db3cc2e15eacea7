"""``cloister simulate``: federations on this machine, by the code that runs in production.

Trust zone: the developer's machine. The console finds this module by its entry point and imports it for ``--help``:
nothing heavy may stand at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from console.options import FoldingRule, UpdateEncoding
from console.output import JsonOption, reporting

app = typer.Typer(
    no_args_is_help=True,
    help="Simulate a federation on this machine: rounds, attacks, sweeps, and what a real one would need.",
    epilog="Begin with: cloister simulate scenario digits --out ./digits",
)

Texts = list[str]
_NONE: Texts = []
_Data = Annotated[
    list[Path], typer.Option("--data", help="CSV or Parquet file, or a folder of them; repeat.", show_default=False)
]
_Label = Annotated[str, typer.Option(help="The column that is predicted: for partitions by label, and pictures.")]
_Partition = Annotated[
    str,
    typer.Option(
        help="iid, dirichlet:0.1, by_column:NAME, … (`simulate names` lists them). Default: a site for each file."
    ),
]
_Sites = Annotated[int, typer.Option(min=1, help="How many sites, where the partition does not say.")]
_Seed = Annotated[int, typer.Option(min=0, max=1 << 31, help="Of everything that is drawn.")]
_Out = Annotated[
    Path | None, typer.Option(help="A folder for figure, table and settings; made when missing.", show_default=False)
]
_Engine = Annotated[str, typer.Option(help="pool (a process for each core), in-process, or ray.")]
_Cohort = Annotated[int, typer.Option(min=0, help="Sites drawn each round; 0: all.")]
_Minimum = Annotated[int, typer.Option(min=0, help="Never fold fewer; 0: as few as the rule needs.")]
_Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="How many rounds.")]
_Rule = Annotated[FoldingRule, typer.Option(help="How updates become one step.")]
_FalseSites = Annotated[int, typer.Option(min=0, help="How many false sites the rule shall stand.")]
_Server = Annotated[str, typer.Option(help="momentum, adam, yogi or adagrad, or adam:learning_rate=0.01,tau=0.1.")]
_Privacy = Annotated[str, typer.Option(help="As for `plan new`: 'member-clipping,clip_norm=1,…' or 'dp-sgd,…'.")]
_HeldOut = Annotated[
    str, typer.Option(help="Share of rows that no site gets, to judge by; all: the app holds rows out itself.")
]
_Config = Annotated[Texts, typer.Option(help="key=value over the app's run config; repeat.")]
_Initial = Annotated[
    Path | None,
    typer.Option(help="The model to start from, safetensors. Default: what the app's ServerApp starts from."),
]
_Behaviour = Annotated[
    Texts,
    typer.Option(help="dropouts:0.2,chance=0.5, backdoor:0.1,trigger=age:99,target=1, … (`simulate names`); repeat."),
]
_Processes = Annotated[int | None, typer.Option(min=1, help="Simulations side by side. Default: one for each core.")]


@app.command("app", epilog="Example: cloister simulate app ./my-app --data ./tables --rounds 20 --out ./first")
def simulate_app(
    folder: Annotated[Path, typer.Argument(help="A Flower app's folder, unmodified.", show_default=False)],
    data: _Data,
    label: _Label = "",
    partition: _Partition = "",
    sites: _Sites = 10,
    cohort: _Cohort = 0,
    minimum: _Minimum = 0,
    rounds: _Rounds = 10,
    rule: _Rule = FoldingRule.WEIGHTED_MEAN,
    false_sites: _FalseSites = 0,
    kept: Annotated[int, typer.Option(min=0, help="Updates that multi-krum averages; 0: most.")] = 0,
    server: _Server = "",
    proximal_mu: Annotated[float, typer.Option(min=0, help="FedProx's term, told to each site's app.")] = 0.0,
    privacy: _Privacy = "",
    held_out: _HeldOut = "0.2",
    config: _Config = _NONE,
    initial: _Initial = None,
    behaviour: _Behaviour = _NONE,
    engine: _Engine = "pool",
    admission: Annotated[
        bool,
        typer.Option("--admission", help="Attest every site and seal everything: the same model, in more time."),
    ] = False,
    seed: _Seed = 7,
    tracker: Annotated[Texts, typer.Option(help="tensorboard:FOLDER or mlflow:URI; repeat.")] = _NONE,
    out: _Out = None,
    save_settings: Annotated[
        Path | None, typer.Option(help="Write what `cloister plan new --from-simulation` takes.", show_default=False)
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Run an ordinary Flower app as a federation of simulated sites, with the plan's terms and the production fold."""
    with reporting(json_output) as report, in_words():
        from simulations.app_settings import AppSettings
        from simulations.commands.app import run_app

        settings = AppSettings(
            str(folder),
            tuple(map(str, data)),
            label=label,
            partition=partition,
            sites=sites,
            cohort=cohort,
            minimum=minimum,
            rounds=rounds,
            rule=rule.value,
            false_sites=false_sites,
            kept=kept,
            server=server,
            proximal_mu=proximal_mu,
            privacy=privacy,
            held_out=held_out,
            config=tuple(config),
            initial="" if initial is None else str(initial),
            behaviours=tuple(behaviour),
            engine=engine,
            admission=admission,
        )
        run_app(report, settings, seed, tracker, out, save_settings)


@app.command(epilog="Example: cloister simulate scenario digits --out ./digits")
def scenario(
    name: Annotated[str, typer.Argument(help="Which one; `list` says what there is.", show_default=False)],
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Default: the scenario's own.")] = None,
    seed: _Seed = 7,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions, where the scenario has them.")] = 3,
    processes: _Processes = None,
    out: _Out = None,
    json_output: JsonOption = False,
) -> None:
    """Answer one question about federations with one figure and one table.

    With --out finished points stay in its folder, and are not computed again; without, nothing is written.
    """
    with reporting(json_output) as report, in_words():
        from simulations.commands.scenario import list_scenarios, run_scenario

        if name == "list":
            list_scenarios(report)
        else:
            run_scenario(report, name, out, rounds=rounds, seed=seed, seeds=seeds, processes=processes)


@app.command(
    epilog="Example: cloister simulate sweep ./my-app --data ./tables --vary 'rule=weighted-mean median' "
    "--vary 'behaviours=none sign_flip:0.2' --seeds 5 --out ./sweep"
)
def sweep(
    folder: Annotated[Path, typer.Argument(help="A Flower app's folder, unmodified.", show_default=False)],
    data: _Data,
    vary: Annotated[Texts, typer.Option(help="setting=value value …, in quotes; repeat for a grid.")],
    out: Annotated[Path, typer.Option(help="The folder that keeps finished points, table and figure.")],
    setting: Annotated[Texts, typer.Option("--set", help="setting=value for all points; repeat.")] = _NONE,
    seed: _Seed = 7,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions of each setting.")] = 3,
    processes: _Processes = None,
    show: Annotated[Texts, typer.Option(help="A figure to show; repeat. Default: all.")] = _NONE,
    along: Annotated[str, typer.Option(help="The setting of the figure's x axis. Default: the first of numbers.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Simulate an app under a grid of settings and seeds; Ctrl-C loses nothing that is finished.

    Settings are the options of `simulate app`, with _ for -: rule, partition, sites, cohort, rounds, behaviours, ….
    """
    with reporting(json_output) as report, in_words():
        from simulations.commands.sweep import run_sweep

        run_sweep(
            report,
            (folder, data, out),
            (vary, setting),
            range(seed, seed + seeds),
            processes=processes,
            shown_as=(show, along),
        )


@app.command(epilog="Example: cloister simulate picture --data ./tables --label outcome --partition dirichlet:0.3")
def picture(
    data: _Data,
    label: _Label = "",
    partition: _Partition = "",
    sites: _Sites = 10,
    seed: _Seed = 7,
    out: Annotated[Path | None, typer.Option(help="The figure, PNG, SVG or PDF.", show_default=False)] = None,
    json_output: JsonOption = False,
) -> None:
    """Show who has what: each site's rows and labels under a partition."""
    with reporting(json_output) as report, in_words():
        from simulations.app_settings import AppSettings
        from simulations.commands.app import show_partition

        settings = AppSettings("", tuple(map(str, data)), label=label, partition=partition, sites=sites, held_out="0")
        show_partition(report, settings, seed, out)


@app.command(
    epilog="Example: cloister simulate capacity --sites 200 --model-mb 400 --link 50/10mbit,30ms --host-link 10gbit"
)
def capacity(
    sites: Annotated[int, typer.Option(min=1, help="Sites in a round.", show_default=False)],
    model_mb: Annotated[
        float, typer.Option(min=1e-6, help="What is exchanged, float32, decimal MB.", show_default=False)
    ],
    link: Annotated[str, typer.Option(help="A site's link: dsl, fibre, campus, cloud, or 50/10mbit,30ms.")] = "fibre",
    host_link: Annotated[str, typer.Option(help="The coordinator's link.")] = "cloud",
    one_machine: Annotated[bool, typer.Option(help="Everything on one machine, no links.")] = False,
    train_s: Annotated[float, typer.Option(min=0, help="Seconds that a site trains.")] = 0.0,
    update_encoding: Annotated[UpdateEncoding, typer.Option(help="How updates travel.")] = UpdateEncoding.FLOAT32,
    rule: _Rule = FoldingRule.WEIGHTED_MEAN,
    moments: Annotated[int, typer.Option(min=0, max=2, help="Of the server optimiser: adam has 2.")] = 0,
    hosts: Annotated[int, typer.Option(min=1, help="Host processes, a core each.")] = 1,
    enclave_cores: Annotated[int, typer.Option(min=1, help="Cores of the aggregator.")] = 4,
    transfers: Annotated[int, typer.Option(min=1, help="limits.downloads and limits.uploads of each host.")] = 8,
    costs: Annotated[Path | None, typer.Option(help="Measured elsewhere or before.", show_default=False)] = None,
    save_costs: Annotated[Path | None, typer.Option(help="Keep what was measured.", show_default=False)] = None,
    json_output: JsonOption = False,
) -> None:
    """Predict a round's time, memory and traffic from what each stage costs on this machine: half a minute."""
    with reporting(json_output) as report, in_words():
        from simulations.capacity.links import read_link
        from simulations.capacity.prediction import Federation
        from simulations.commands.capacity import Files, tell
        from trusted.documents.terms import Rule
        from trusted.encoding import Encoding

        planned = Federation(
            sites,
            model_mb * 1e6,
            train_s,
            None if one_machine else read_link(link),
            None if one_machine else read_link(host_link),
            update=Encoding[update_encoding.value.upper()],
            rule=Rule(rule.value),
            host_cores=hosts,
            enclave_cores=enclave_cores,
            transfers=transfers,
            moments=moments,
        )
        tell(report, planned, Files(costs, save_costs))


@app.command(epilog="Example: cloister simulate names")
def names(json_output: JsonOption = False) -> None:
    """List the partitions and behaviours that can be named, with their numbers."""
    with reporting(json_output) as report, in_words():
        from simulations.named import BEHAVIOURS, PARTITIONS, spelled

        for title, found in (("Partitions", spelled(PARTITIONS)), ("Behaviours", spelled(BEHAVIOURS))):
            report.heading(title)
            report.rows(found)
            report.data[title.lower()] = [{"write": usage, "does": does} for usage, does in found]


@contextmanager
def in_words() -> Iterator[None]:
    """What the library refuses, as the command line tells it.

    Raises:
        UserError: for every ValueError and RuntimeError of the library, whose text is a sentence.
    """
    from console.output import UserError
    from simulations.costs.not_measured import NotMeasured

    try:
        yield
    except NotMeasured as error:
        raise UserError(error.message, error.hint) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error).splitlines()[0], "See --help, and docs/simulation.md.") from None
