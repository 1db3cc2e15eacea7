"""Five invented banks, SYNTHETIC transactions, and one bank that lies. Trust zone: none; all rows are here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from console.demo.cast import REPOSITORY, Cast, Folder, Scene, Wishes
from console.demo.fraud.banks import BANKS, COLUMNS, FILE_NAME, LABEL, Books, make_books, poisoned
from console.demo.papers import agree, allow, plan_run
from console.demo.playing import Played, new_folder, offer_tpms, play, say_next, search_host, show_host_view
from console.demo.processes import Prepared
from console.folding import Folding
from console.output import Report
from console.running import NO_HARDWARE_PROTECTION
from trusted.documents.terms import Rule

SYNTHETIC = "SYNTHETIC"
POISONER = BANKS[-1]
AVERAGE_PRECISION = "average-precision"
CAST = Cast(
    charter="SYNTHETIC bank fraud demonstration",
    members={name: f"Invented bank {name[-1]}" for name in BANKS},
    recipient=BANKS[0],
    orderer=BANKS[1],
    app=REPOSITORY / "examples" / "bank_fraud",
    columns=COLUMNS,
    min_rows=100,
    metric=f"{AVERAGE_PRECISION}:3:3",
    purpose="Which payment is fraud? On SYNTHETIC transactions of invented banks",
    no_privacy_reason="a demonstration on SYNTHETIC data",
)
# Against one false bank of five, which is as many as Krum stands (5 = 2 · 1 + 3); it keeps two updates in each round.
MULTI_KRUM = Folding(Rule.MULTI_KRUM.value, false_sites=1)
FEDERATED, POISONED_MEAN, POISONED_KRUM = "federated", "poisoned-mean", "poisoned-krum"
_TITLES = {
    FEDERATED: "five honest banks, folded by a weighted mean",
    POISONED_MEAN: f"the same, but {POISONER} lies in its data",
    POISONED_KRUM: f"{POISONER} lies as before, folded by Multi-Krum",
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """The books of all banks, and where each bank keeps its file: the true one, and the poisoner's false one."""

    books: Mapping[str, Books]
    true_files: Mapping[str, Path]
    false_file: Path

    @property
    def with_poison(self) -> dict[str, Path]:
        """What each worker is given where the poisoner lies."""
        return {**self.true_files, POISONER: self.false_file}


def tell(report: Report, *, keep: Path | None, rounds: int, seed: int) -> dict[str, Any]:
    """Run it all; the ``data`` of ``cloister demo bank --json``.

    Raises:
        ProtocolError, UserError, OSError: it failed; every process has been ended, the artefacts stay.
    """
    started = time.monotonic()
    folder = new_folder(keep)
    console = Console(stderr=report.json_output)
    report.say(f"Five invented banks, {SYNTHETIC} transactions, one model. Software TEE: {NO_HARDWARE_PROTECTION}.")
    wishes = Wishes(rounds, seed, offer_tpms(report))
    with console.status(f"Inventing five banks' {SYNTHETIC} books; drawing keys, signing charter and three plans"):
        charter = agree(folder, CAST, wishes)
        shelf = write_books(folder, seed)
        prepared = prepare(folder, shelf, wishes)
    _say_books(report, shelf, seed)
    report.say(f"Agreed: charter {charter.digest.hex()[:12]}…, and three plans that differ in their names and one rule")
    played = {name: _play(report, console, run, name) for name, run in prepared.items()}
    data = _judge(report, console, shelf, played)
    seconds = round(time.monotonic() - started, 1)
    say_next(report, played[POISONED_KRUM].prepared.folder, seconds)
    report.say("  docs/bank-demo.md: the typologies, the poison, and what Multi-Krum can and cannot do")
    return data | {
        "synthetic": True,
        "banks": len(BANKS),
        "poisoner": POISONER,
        "transactions": sum(map(len, shelf.books.values())),
        "rounds": rounds,
        "assurance": played[FEDERATED].opened.aggregator.assurance.value,
        "protection": NO_HARDWARE_PROTECTION,
        "software_tpms": wishes.tpms,
        "seconds": seconds,
        "artefacts": str(folder.path),
        "runs": {name.replace("-", "_"): _outcome(run) for name, run in played.items()},
    }


def write_books(folder: Folder, seed: int, *, size: float = 1.0) -> Shelf:
    """Invent the books and write them, each below its bank's own folder; ``size`` as for :func:`make_books`."""
    books = {name: make_books(name, seed, size=size) for name in BANKS}
    files = {name: folder.site(name) / FILE_NAME for name in BANKS}
    for name, path in files.items():
        books[name].write(path)
    false_file = folder.site(POISONER) / "poisoned" / FILE_NAME
    false_file.parent.mkdir()
    poisoned(books[POISONER]).write(false_file)
    return Shelf(books, files, false_file)


def prepare(folder: Folder, shelf: Shelf, wishes: Wishes) -> dict[str, Prepared]:
    """The three runs: each a plan of its own under the same charter, and allowed by every bank."""
    scenes = {
        FEDERATED: Scene("synthetic-federated", len(BANKS), shelf.true_files),
        POISONED_MEAN: Scene("synthetic-poisoned-mean", len(BANKS), shelf.with_poison),
        POISONED_KRUM: Scene("synthetic-poisoned-krum", len(BANKS), shelf.with_poison, MULTI_KRUM),
    }
    folders = {name: folder.for_run(name) for name in scenes}
    papers = {name: plan_run(folders[name], CAST, scene, wishes) for name, scene in scenes.items()}
    allow(folder, CAST, list(papers.values()))
    return {name: Prepared(folders[name], CAST, scenes[name], papers[name]) for name in scenes}


def _play(report: Report, console: Console, prepared: Prepared, name: str) -> Played:
    report.heading(f"{name}: {_TITLES[name]}")
    played = play(report, console, prepared)
    search_host(played)
    return played


def _say_books(report: Report, shelf: Shelf, seed: int) -> None:
    payments = sum(map(len, shelf.books.values()))
    frauds = sum(int(books.columns[LABEL].sum()) for books in shelf.books.values())
    report.say(
        f"Invented {payments} {SYNTHETIC} payments of {len(BANKS)} banks from seed {seed}, {frauds / payments:.2%} of "
        "them fraud of five kinds; two kinds make seven of ten that a bank sees.",
    )


def _judge(report: Report, console: Console, shelf: Shelf, played: Mapping[str, Played]) -> dict[str, Any]:
    from console.demo.bank_verdict import compare  # imports torch

    with console.status("Training each bank alone, and all in one place, to compare"):
        comparison = compare(shelf.books, played)
    report.heading("What it was worth")
    if not report.json_output:
        for table in comparison.tables():
            console.print(table)
    report.say(*comparison.sentences(POISONER))
    return comparison.to_json() | {"host_bytes_searched": show_host_view(report, console, played[FEDERATED])}


def _outcome(played: Played) -> dict[str, str]:
    folder, release = played.prepared.folder, played.opened.release
    return {
        "plan": str(folder.plan),
        "rule": played.prepared.papers.plan.document.aggregation.rule.value,
        "model": str(folder.model),
        "model_sha256": release.model_sha256.hex(),
    }
