"""A demonstration's run from its first process to its opened model, told while it happens. Trust zone: one operator."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from console import keyfiles
from console.card_page import render
from console.demo.cast import Folder
from console.demo.host_view import HostView, host_view
from console.demo.processes import Federation, Prepared
from console.files import write_file
from console.initial_model import read_initial_model
from console.opening import OpenedModel, fetch_card, open_release, write_safetensors
from console.ordering import Desk
from console.output import Report, UserError
from console.progress import watch_run
from console.running import NO_HARDWARE_PROTECTION
from coordinator.host.run_status import RunState
from softtee import swtpm
from trusted.card import VerifiedCard
from trusted.errors import TeeError

_ENDING_S = 20.0


@dataclass(frozen=True, slots=True)
class Played:
    """A run that is over, the model that its recipient opened, and the card of one that was judged."""

    prepared: Prepared
    opened: OpenedModel
    card: VerifiedCard | None


def play(report: Report, console: Console, prepared: Prepared) -> Played:
    """Run it on real processes; all of them have ended when this returns, and the model is written.

    Raises:
        ProtocolError, UserError, OSError: it failed.
    """
    folder, papers, cast = prepared.folder, prepared.papers, prepared.cast
    with Federation(prepared) as federation:
        report.say(
            f"Running: one host, one aggregator enclave, {len(cast.members)} worker enclaves; "
            f"one port, {federation.address}."
        )
        federation.start_run()
        with federation.host.connect() as client:
            desk = Desk(papers.charter, papers.plan, client)
            final = watch_run(desk, quiet=report.json_output, console=console)
            if final.state is not RunState.FINISHED:
                raise UserError(f"the run ended as {final.state.value}", f"See the logs in {folder.logs}.")
            key = keyfiles.load_sealing_key(folder.site(cast.recipient) / keyfiles.SEALING_KEY, None)
            opened = open_release(desk, cast.recipient, key)
            judged = None if papers.plan.document.evaluation is None else fetch_card(desk)
        federation.wait_for_enclaves(_ENDING_S)
    write_safetensors(folder.model, papers.plan.document.layout, opened.vector, opened.provenance(), force=False)
    if judged is None:
        return Played(prepared, opened, None)
    card, proof = judged
    write_file(folder.card, render(card, proof))
    return Played(prepared, opened, card)


def show_host_view(report: Report, console: Console, played: Played) -> int:
    """Tell what the host has of the run, once it was searched for the models; how many bytes that were.

    Raises:
        UserError: a model lies there in clear.
    """
    seen = search_host(played)
    if not report.json_output:
        console.print(seen.table)
    return seen.searched_bytes


def search_host(played: Played) -> HostView:
    """What the host of the run stored, and none of its models among it.

    Raises:
        UserError: a model lies there in clear.
    """
    folder, layout = played.prepared.folder, played.prepared.papers.plan.document.layout
    initial = read_initial_model(folder.initial_model)
    needles = {"initial model": initial.vector.tobytes()[:64], "final model": played.opened.vector.tobytes()[:64]}
    seen = host_view(folder.host, folder.host_log, layout, needles)
    if seen.found:
        raise UserError(f"the host's disk holds {', '.join(seen.found)}", "This is a defect in Cloister: report it.")
    return seen


def offer_tpms(report: Report) -> bool:
    """Whether each machine gets a software TPM: where swtpm is installed."""
    try:
        report.say(f"Each machine has a software TPM too ({swtpm.version()}): its quote goes with every report.")
    except TeeError:
        report.say("No software TPMs: swtpm is not installed here (apt install swtpm). All else is the same.")
        return False
    return True


def new_folder(keep: Path | None) -> Folder:
    """Where the artefacts go: ``keep``, new or empty, or a fresh folder.

    Raises:
        UserError: ``keep`` is in use.
    """
    if keep is None:
        return Folder.of(Path(tempfile.mkdtemp(prefix="cloister-demo-")))
    if keep.exists() and any(keep.iterdir()):
        raise UserError(f"{keep} is not empty", "Give --keep a folder that is new or empty.")
    keep.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Folder.of(keep.resolve())


def say_next(report: Report, folder: Folder, seconds: float) -> None:
    """Where everything is, and what to do with it."""
    report.say(
        f"Done in {seconds} s. {NO_HARDWARE_PROTECTION}: a software TEE shows how it works and protects nothing.",
        f"Everything lies in {folder.path}: charter, plan, each site's papers, logs, the host's state, the model.",
        "Next:",
        f"  cloister plan explain {folder.plan} --charter {folder.charter}",
        f"  cloister charter explain {folder.charter}",
    )
