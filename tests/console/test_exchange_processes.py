"""Plans that exchange less than everything in full, from ``plan new`` to the opened model, every party a process.

The same training three times: in full, with encodings, with named tensors alone. The app's training is the same for
the same model, so that whatever differs in the end comes from what travelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from console.documents import load_charter
from simulations.of_plan import Papers
from simulations.simulation import Simulation
from tests.console.processes import RECIPIENT, ROOT, Consortium, allow, cloister, establish, until
from trusted.apps.arrays import split_vector
from trusted.blob import BlobKind
from trusted.documents.plan import verify_plan
from trusted.encoding import Encoding
from trusted.exchange import AGGREGATOR, Exchanged

pytestmark = pytest.mark.slow

ROUNDS = 2
COHORT = ("site-1", "site-2")
NAMED = frozenset({"out.bias", "out.weight"})
_PLANS: dict[str, list[object]] = {
    "full": [],
    "encoded": ["--model-encoding", "bfloat16", "--update-encoding", "int8"],
    "named": ["--exchange-tensor", "out.*"],
}
_COMMON: list[object] = [
    "--rounds",
    ROUNDS,
    "--round-s",
    120,
    *(word for site in COHORT for word in ("--member", site)),
]
_TIMEOUT_S = 180.0

Model = dict[str, np.ndarray[Any, Any]]


@dataclass
class Ran:
    """Three runs that are over: the model that each released, as its recipient opened it."""

    consortium: Consortium
    initial: Model
    released: dict[str, Model]

    def exchanged(self, plan: str) -> Exchanged:
        """What the signed plan says."""
        charter = load_charter(self.consortium / "charter.dsse.json")
        envelope = (self.consortium / f"{plan}.dsse.json").read_bytes()
        return Exchanged.of(verify_plan(envelope, charter, datetime.now(UTC)))

    def moved(self, plan: str) -> Model:
        """How far training moved each tensor."""
        return {name: tensor - self.initial[name] for name, tensor in self.released[plan].items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The three runs, one after the other, on one host."""
    folder = tmp_path_factory.mktemp("exchange")
    consortium = establish(folder, {name: [*_COMMON, *options] for name, options in _PLANS.items()})
    for site in COHORT:
        allow(consortium, site, *_PLANS)
    try:
        consortium.open_host()
        released = {plan: _run(consortium, plan) for plan in _PLANS}
        yield Ran(consortium, load_file(folder / "initial.safetensors"), released)
    finally:
        consortium.end()


def _run(consortium: Consortium, plan: str) -> Model:
    aggregator = consortium.serve(plan)
    workers = [consortium.join(site, plan) for site in COHORT]
    until(f"{plan}: both sites attested", lambda: consortium.attested(plan) == set(COHORT), _TIMEOUT_S)
    assert consortium.order("start", plan, RECIPIENT).code == 0
    for worker in workers:
        assert worker.ended(_TIMEOUT_S) == 0, worker.said
        assert f"finished after {ROUNDS} rounds" in worker.said
    out = consortium / f"{plan}.safetensors"
    key = ["--member", RECIPIENT, "--key", consortium / RECIPIENT / "sealing-key.pem", "--out", out]
    answer = cloister("model", "open", *consortium.papers(plan), *consortium.host, *key)
    assert answer.code == 0, answer.stderr
    aggregator.end()  # it would stay for members who come late
    return load_file(out)


@pytest.mark.parametrize("plan", _PLANS)
def test_every_plan_releases_a_whole_model_in_float32(ran: Ran, plan: str) -> None:
    model = ran.released[plan]
    assert {name: tensor.shape for name, tensor in model.items()} == {n: t.shape for n, t in ran.initial.items()}
    assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in model.values())


def test_encodings_lose_what_they_state_and_no_more(ran: Ran) -> None:
    """bfloat16 keeps eight bits of a model's number, int8 127 steps of a block's largest change, once each a round."""
    full, encoded = ran.moved("full"), ran.moved("encoded")
    assert any(not np.array_equal(full[name], encoded[name]) for name in full)
    largest = max(np.abs(tensor).max() for tensor in ran.released["full"].values())
    changed = max(np.abs(tensor).max() for tensor in full.values())
    bound = ROUNDS * (largest * 2**-8 + 2 * changed / 127)
    for name, tensor in full.items():
        assert np.abs(tensor - encoded[name]).max() < bound
    assert changed > 2 * bound  # else a model that was never trained would pass


def test_a_named_plan_trains_its_tensors_and_leaves_the_others_as_they_were(ran: Ran) -> None:
    assert set(ran.initial) > NAMED
    for name, change in ran.moved("named").items():
        assert change.any() == (name in NAMED)
    assert all(change.any() for change in ran.moved("full").values())


@pytest.mark.parametrize("plan", _PLANS)
def test_what_travels_has_the_size_that_the_plan_says(ran: Ran, plan: str) -> None:
    exchanged = ran.exchanged(plan)
    size = exchanged.header(BlobKind.MODEL, 1, AGGREGATOR).sealed_bytes
    opened = [event["bytes"] for event in ran.consortium.events(plan) if event["event"] == "round-opened"]
    assert opened == [size] * ROUNDS
    update = exchanged.header(BlobKind.UPDATE, 1, RECIPIENT).sealed_bytes
    totals = cloister("run", "report", *ran.consortium.papers(plan), *ran.consortium.host).data["totals"]
    assert totals["bytes_up"] == update * ROUNDS * len(COHORT) <= totals["host_bytes_in"]


def test_each_plan_sends_less_than_the_full_one(ran: Ran) -> None:
    full, encoded, named = (ran.exchanged(plan) for plan in _PLANS)
    assert (encoded.terms.model, encoded.terms.update) == (Encoding.BFLOAT16, Encoding.INT8)
    assert {tensor.name for tensor in named.part.tensors} == NAMED
    for kind, sender in ((BlobKind.MODEL, AGGREGATOR), (BlobKind.UPDATE, RECIPIENT)):
        size = full.header(kind, 1, sender).sealed_bytes
        assert encoded.header(kind, 1, sender).sealed_bytes < size
        assert named.header(kind, 1, sender).sealed_bytes < size


def test_a_pattern_of_no_tensor_is_refused_with_the_names_that_there_are(ran: Ran, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    words = ["--name", "x", "--purpose", "x", "--column", "x", "--recipient", RECIPIENT, "--no-privacy-because", "x"]
    files = ["--app", root / "examples" / "rand_hie", "--initial-model", ran.consortium / "initial.safetensors"]
    asked = [*ran.consortium.charter, *files, *words, "--exchange-tensor", "lora_*", "--out", tmp_path / "plan.json"]
    refused = cloister("plan", "new", *asked)
    assert refused.code != 0
    assert "lora_*" in refused.error["message"]
    assert "out.weight" in refused.stderr + refused.stdout
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("plan", _PLANS)
def test_a_simulation_of_the_plan_gives_the_same_bits(ran: Ran, plan: str) -> None:
    """No process, no sealing, no host: the papers of the run alone (docs/simulation.md)."""
    charter = load_charter(ran.consortium / "charter.dsse.json")
    signed = verify_plan((ran.consortium / f"{plan}.dsse.json").read_bytes(), charter, datetime.now(UTC)).document
    data = {site: ROOT / "data" / "rand_hie" / f"{site}.csv" for site in COHORT}
    papers = Papers(ran.consortium / f"{plan}.fab", ran.consortium / "initial.safetensors", data)
    model = Simulation.from_plan(signed, papers, engine="in-process").run()
    for name, tensor in split_vector(model.layout, model.model).items():
        assert tensor.tobytes() == ran.released[plan][name].tobytes()
