"""Six clinical sites, real public data: who sees a doctor often? Trust zone: none; all rows are here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from console.card_page import headline
from console.demo.cast import REPOSITORY, Cast, Scene, Wishes
from console.demo.papers import agree, allow, plan_run
from console.demo.playing import Played, new_folder, offer_tpms, play, say_next, show_host_view
from console.demo.processes import Prepared
from console.initial_model import read_initial_model
from console.judging import Judged
from console.output import Report
from console.running import NO_HARDWARE_PROTECTION
from trusted.documents.plan import Plan
from worker.trainer import Vector

if TYPE_CHECKING:
    from console.baselines import Scores

AUC = "auc"
HOSPITALS = Cast(
    charter="RAND HIE demonstration",
    members={f"site-{number}": f"Site {number}" for number in range(1, 7)},
    recipient="site-1",
    orderer="site-2",
    app=REPOSITORY / "examples" / "rand_hie",
    # What the app reads, and no more: the outcomes that it does not predict stay out of the enclave.
    columns=(
        *("zper", "xage", "female", "educdec", "income", "num", "child", "mhi", "disea", "physlm", "xghindx"),
        *("hlthg", "hlthf", "hlthp", "coins", "idp", "lpi", "fmde", "tookphys", "mdvis"),
        "black",  # which the worker judges by, and the app does not see
    ),
    min_rows=100,
    metric=f"{AUC}:3:3",
    purpose="Who will see a doctor five times or more in the first year?",
    no_privacy_reason="a demonstration on public data",
    judged=Judged(
        "mdvis:5",
        ("female=0,1", "black=0,1", "xage:18,40"),
        min_sites=3,
        threshold=0.25,
        shadows=4,
        calls=2,
        unseen=("black",),
    ),
)
SCENE = Scene(
    plan="rand-hie-visits",
    minimum=4,
    data={name: REPOSITORY / "data" / "rand_hie" / f"{name}.csv" for name in HOSPITALS.members},
)


def tell(report: Report, *, keep: Path | None, rounds: int, seed: int) -> dict[str, Any]:
    """Run it all; the ``data`` of ``cloister demo --json``.

    Raises:
        ProtocolError, UserError, OSError: it failed; every process has been ended, the artefacts stay.
    """
    started = time.monotonic()
    folder = new_folder(keep)
    console = Console(stderr=report.json_output)
    report.say(f"Six clinical sites, one model. Software TEE: {NO_HARDWARE_PROTECTION}.")
    wishes = Wishes(rounds, seed, offer_tpms(report))
    with console.status("Measuring code, drawing keys, signing charter and plan: six members, every signature checked"):
        agree(folder, HOSPITALS, wishes)
        papers = plan_run(folder, HOSPITALS, SCENE, wishes)
        allow(folder, HOSPITALS, [papers])
    report.say(f"Agreed: charter {papers.charter.digest.hex()[:12]}…, plan {papers.plan.digest.hex()[:12]}…")
    played = play(report, console, Prepared(folder, HOSPITALS, SCENE, papers))
    data = _judge(report, console, played, seed=seed)
    seconds = round(time.monotonic() - started, 1)
    if played.card is not None:
        report.say(*headline(played.card.content), f"The model card: {folder.card}")
    say_next(report, folder, seconds)
    report.say("  README.md: the same federation by hand, in eight terminals, and on several machines")
    return data | {
        "sites": len(HOSPITALS.members),
        "rounds": played.opened.release.rounds,
        "assurance": played.opened.aggregator.assurance.value,
        "protection": NO_HARDWARE_PROTECTION,
        "software_tpms": wishes.tpms,
        "seconds": seconds,
        "artefacts": str(folder.path),
        "model": str(folder.model),
        "card": str(folder.card),
        "evaluation": None if played.card is None else played.card.content["evaluation"],
        "model_sha256": played.opened.release.model_sha256.hex(),
    }


def _judge(report: Report, console: Console, played: Played, *, seed: int) -> dict[str, Any]:
    plan, initial = played.prepared.papers.plan.document, read_initial_model(played.prepared.folder.initial_model)
    with console.status("Training each site alone, and all in one place, to compare"):
        comparison = compare(plan, initial.vector, played.opened.vector, seed)
    if not report.json_output:
        console.print(comparison.table())
    report.say(*comparison.sentences())
    return {"auc": comparison.to_json(), "host_bytes_searched": show_host_view(report, console, played)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Three ways to train, judged on the same held-out persons: none of them was trained on."""

    alone: Mapping[str, Scores]
    federated: Scores
    pooled: Scores

    def to_json(self) -> dict[str, Any]:
        """``auc`` of ``cloister demo --json``. The three headline figures are over everybody's held-out persons."""
        return {
            "local_mean": round(fmean(scores.everyone[AUC] for scores in self.alone.values()), 4),
            "federated": round(self.federated.everyone[AUC], 4),
            "pooled": round(self.pooled.everyone[AUC], 4),
            "by_site": {
                name: {
                    "local": round(self.alone[name].everyone[AUC], 4),
                    "local_on_own": round(self.alone[name].by_site[name][AUC], 4),
                    "federated_on_own": round(self.federated.by_site[name][AUC], 4),
                    "pooled_on_own": round(self.pooled.by_site[name][AUC], 4),
                }
                for name in self.alone
            },
        }

    def table(self) -> Table:
        """The same for people."""
        table = Table(title="AUC on held-out persons: who sees a doctor five times or more?")
        table.add_column("site")
        for heading in ("alone, everybody's", "alone, own", "federated, own", "pooled, own"):
            table.add_column(heading, justify="right")
        for name, scores in self.alone.items():
            own = [model.by_site[name][AUC] for model in (scores, self.federated, self.pooled)]
            table.add_row(name, *(f"{figure:.3f}" for figure in (scores.everyone[AUC], *own)))
        return table

    def sentences(self) -> tuple[str, ...]:
        """What the figures say, and what they do not."""
        best = max(scores.everyone[AUC] for scores in self.alone.values())
        mean = fmean(scores.everyone[AUC] for scores in self.alone.values())
        return (
            f"On everybody's held-out persons: alone {mean:.3f} (best site {best:.3f}), "
            f"federated {self.federated.everyone[AUC]:.3f}, pooled {self.pooled.everyone[AUC]:.3f}.",
            "Pooled is what nobody may do with real data; it is possible here because these data are public.",
        )


def compare(plan: Plan, initial: Vector, final: Vector, seed: int) -> Comparison:
    """Train without a federation, and judge all models alike."""
    from console.baselines import Baselines, Recipe  # imports torch

    recipe = Recipe(HOSPITALS.app, {"seed": seed}, plan.layout, initial, plan.rounds, (AUC,))
    with Baselines(recipe, SCENE.data) as baselines:
        alone = {name: baselines.alone(name) for name in HOSPITALS.members}
        return Comparison(alone, baselines.judge(final), baselines.pooled())
