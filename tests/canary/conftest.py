"""The one run that all canary tests look at, and the secrets that they look for."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from console import keyfiles
from console.opening import OpenedModel, open_release
from console.ordering import Desk
from softtee.chip import SoftwareRoot
from tests.canary.agreement import Folder, agree, key_needles
from tests.canary.federation import Federation
from tests.canary.loopback import LoopbackCapture, capture_possible
from tests.canary.needles import Pattern, vector_needle
from tests.canary.observing import Sightings
from tests.canary.search import Search
from tests.canary.sites import NAMES, RECIPIENT, SiteSecrets
from worker.app_log import open_log

SLOW_SITE_S = 0.8  # so long the last site trains while the host already holds the others' updates


@dataclass(frozen=True, slots=True)
class Canaries:
    """A finished run: who had which secret, what was sent in truth, and all that was seen. The host still runs."""

    federation: Federation
    capture: LoopbackCapture | None
    sites: tuple[SiteSecrets, ...]
    told: dict[str, list[dict[str, list[float]]]]
    opened: OpenedModel
    statuses: dict[str, int]
    sightings: Sightings
    control: str

    def patterns(self) -> Iterator[Pattern]:
        """Every secret of this run, in every form."""
        for site in self.sites:
            yield from site.needles()
        yield from key_needles(self.federation.folder)
        for name, rounds in self.told.items():
            for number, told in enumerate(rounds, 1):
                for what, row in told.items():
                    yield from vector_needle(f"{name}: {what} of round {number}", row)
        yield from vector_needle("the released model", self.opened.vector[:4].tolist())


@pytest.fixture(scope="package")  # what it captures is everybody's: it ends with the last test that looks at it
def canaries(tmp_path_factory: pytest.TempPathFactory, software_root: SoftwareRoot) -> Iterator[Canaries]:
    """Run it, watching the host in the middle of each round, after each round, and after the run."""
    folder = Folder(tmp_path_factory.mktemp("canary"))
    papers = agree(folder, software_root)
    sites = tuple(SiteSecrets.drawn(name) for name in NAMES)
    pauses = dict.fromkeys(NAMES[:-1], 0.0) | {NAMES[-1]: SLOW_SITE_S}
    data = {site.name: site.write_data(folder.member(site.name) / "data", pauses[site.name]) for site in sites}
    control = f"control-{secrets.token_hex(10)}"
    sightings = Sightings()
    with ExitStack() as stack:
        capture = stack.enter_context(LoopbackCapture()) if capture_possible() else None
        federation = stack.enter_context(Federation(folder, papers, data, control))
        opened = _run_watched(federation, sightings)
        statuses = federation.wait_for_enclaves(30)
        sightings.look_at_host(federation, "after the run")
        sightings.look_at_wires(federation, capture, "whole run")
        sightings.look_at_enclave_logs(folder.logs)
        told = {name: _told(folder, name) for name in NAMES}
        yield Canaries(federation, capture, sites, told, opened, statuses, sightings, control)


def _run_watched(federation: Federation, sightings: Sightings) -> OpenedModel:
    """Order the run, look at the host at each turn, and open what is released."""
    folder, papers = federation.folder, federation.papers
    looked_in: set[int] = set()
    with federation.connect() as client:
        desk = Desk(papers.charter, papers.plan, client)
        desk.order("start", folder.signer(NAMES[1]))
        for event in client.watch(papers.plan.digest):
            kind, number = event.fields["event"], event.fields.get("round", 0)
            if kind == "contribution" and number not in looked_in:
                looked_in.add(number)
                sightings.look_at_host(federation, f"in round {number}")
            elif kind == "round-committed":
                sightings.look_at_host(federation, f"after round {number}")
            elif kind == "run-ended":
                break
        key = keyfiles.load_sealing_key(folder.member(RECIPIENT) / keyfiles.SEALING_KEY, None)
        return open_release(desk, RECIPIENT, key)


def app_words(folder: Folder, name: str) -> str:
    """The app's own log, opened with the key of the member that it is sealed for."""
    key = keyfiles.load_sealing_key(folder.member(name) / keyfiles.SEALING_KEY, None)
    with (folder.logs / f"{name}-app" / "app.log").open("rb") as log:
        return "".join(start.words.decode() for start in open_log(log, key))


def _told(folder: Folder, name: str) -> list[dict[str, list[float]]]:
    """What the app says in its own log that it got and sent, round by round."""
    lines = [line for line in app_words(folder, name).splitlines() if line.startswith('{"model"')]
    return [json.JSONDecoder().raw_decode(line)[0] for line in lines]


@pytest.fixture(scope="package")
def search(canaries: Canaries) -> Search:
    """Looks for every secret at once."""
    return Search(canaries.patterns())


@pytest.fixture(scope="package")
def initial(canaries: Canaries) -> NDArray[np.float32]:
    """The first row of the initial model."""
    return np.array(canaries.told[NAMES[0]][0]["model"], dtype=np.float32)
