"""The demonstration from first key to opened model, told while it happens. Trust zone: public data, one operator."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from console import keyfiles
from console.card_page import headline, render
from console.demo.papers import RECIPIENT, SITES, Folder, Wishes, agree
from console.demo.processes import Federation
from console.files import write_file
from console.initial_model import read_initial_model
from console.opening import OpenedModel, fetch_card, open_release, write_safetensors
from console.ordering import Desk
from console.output import Report, UserError
from console.progress import watch_run
from console.running import NO_HARDWARE_PROTECTION
from coordinator.host.run_status import RunState
from softtee import swtpm
from trusted.errors import TeeError

_ENDING_S = 20.0


def tell(report: Report, *, keep: Path | None, rounds: int, seed: int) -> dict[str, Any]:
    """Run it all; the ``data`` of ``cloister demo --json``.

    Raises:
        ProtocolError, UserError, OSError: it failed; every process has been ended, the artefacts stay.
    """
    started = time.monotonic()
    folder = _folder(keep)
    console = Console(stderr=report.json_output)
    report.say(f"Six clinical sites, one model. Software TEE: {NO_HARDWARE_PROTECTION}.")
    tpms = _say_tpms(report)
    with console.status("Measuring code, drawing keys, signing charter and plan: six members, every signature checked"):
        papers = agree(folder, Wishes(rounds, seed, tpms))
    report.say(f"Agreed: charter {papers.charter.digest.hex()[:12]}…, plan {papers.plan.digest.hex()[:12]}…")
    with Federation(folder, papers) as federation:
        report.say(
            f"Running: one host, one aggregator enclave, {len(SITES)} worker enclaves; one port, {federation.address}."
        )
        federation.start_run()
        with federation.host.connect() as client:
            desk = Desk(papers.charter, papers.plan, client)
            final = watch_run(desk, quiet=report.json_output, console=console)
            if final.state is not RunState.FINISHED:
                raise UserError(f"the run ended as {final.state.value}", f"See the logs in {folder.path / 'logs'}.")
            key = keyfiles.load_sealing_key(folder.site(RECIPIENT) / keyfiles.SEALING_KEY, None)
            opened = open_release(desk, RECIPIENT, key)
            card, proof = fetch_card(desk)
        federation.wait_for_enclaves(_ENDING_S)
        model = folder.path / "model.safetensors"
        page = folder.path / "card.html"
        write_file(page, render(card, proof))
        write_safetensors(model, papers.plan.document.layout, opened.vector, opened.provenance(), force=False)
        data = _judge(report, console, folder, federation, opened, seed=seed)
    seconds = round(time.monotonic() - started, 1)
    report.say(*headline(card.content), f"The model card: {page}")
    _say_next(report, folder, seconds)
    return data | {
        "sites": len(SITES),
        "rounds": opened.release.rounds,
        "assurance": opened.aggregator.assurance.value,
        "protection": NO_HARDWARE_PROTECTION,
        "software_tpms": tpms,
        "seconds": seconds,
        "artefacts": str(folder.path),
        "model": str(model),
        "card": str(page),
        "evaluation": card.content["evaluation"],
        "model_sha256": opened.release.model_sha256.hex(),
    }


def _say_tpms(report: Report) -> bool:
    """Whether each machine gets a software TPM: where swtpm is installed."""
    try:
        report.say(f"Each machine has a software TPM too ({swtpm.version()}): its quote goes with every report.")
    except TeeError:
        report.say("No software TPMs: swtpm is not installed here (apt install swtpm). All else is the same.")
        return False
    return True


def _folder(keep: Path | None) -> Folder:
    if keep is None:
        return Folder(Path(tempfile.mkdtemp(prefix="cloister-demo-")))
    if keep.exists() and any(keep.iterdir()):
        raise UserError(f"{keep} is not empty", "Give --keep a folder that is new or empty.")
    keep.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Folder(keep.resolve())


def _judge(
    report: Report, console: Console, folder: Folder, federation: Federation, opened: OpenedModel, *, seed: int
) -> dict[str, Any]:
    from console.demo.verdict import compare, host_view  # imports torch

    plan, initial = federation.papers.plan.document, read_initial_model(folder.initial_model)
    with console.status("Training each site alone, and all in one place, to compare"):
        comparison = compare(plan, initial.vector, opened, seed)
    needles = {"initial model": initial.vector.tobytes()[:64], "final model": opened.vector.tobytes()[:64]}
    seen = host_view(federation.host_state, folder.path / "host.log", plan.layout, needles)
    if not report.json_output:
        console.print(comparison.table())
    report.say(*comparison.sentences())
    if not report.json_output:
        console.print(seen.table)
    if seen.found:
        raise UserError(f"the host's disk holds {', '.join(seen.found)}", "This is a defect in Cloister: report it.")
    return {"auc": comparison.to_json(), "host_bytes_searched": seen.searched_bytes}


def _say_next(report: Report, folder: Folder, seconds: float) -> None:
    report.say(
        f"Done in {seconds} s. {NO_HARDWARE_PROTECTION}: a software TEE shows how it works and protects nothing.",
        f"Everything lies in {folder.path}: charter, plan, each site's papers, logs, the host's state, the model.",
        "Next:",
        f"  cloister plan explain {folder.plan} --charter {folder.charter}",
        f"  cloister charter explain {folder.charter}",
        "  README.md: the same federation by hand, in eight terminals, and on several machines",
    )
