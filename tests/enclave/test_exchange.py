"""Whole runs in memory whose plans choose encodings, or exchange a named part of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.enclave.runs import released_model, running, weighted
from tests.world import INITIAL, LAYOUT, NOW, Net, SimpleSite, World
from trusted.blob import BlobKind, ContentKey, open_vector, seal_vector
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.errors import BlobError, ProtocolError, Reason
from trusted.exchange import AGGREGATOR, Exchanged
from trusted.wire import sha256
from worker.participant import Train

FROZEN = LAYOUT.tensors[0].elements
PART = Exchange(Encoding.FLOAT32, Encoding.INT8, ("bias",))
OTHERS = (2, 3, 4)


class ExchangeNet(Net):
    """Sites open and seal as their plan says it; each keeps the model as it was given, and the base."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.bases: list[np.ndarray] = []

    def opened(self, site: SimpleSite, announced: Any) -> np.ndarray:
        vector = np.empty(announced.header.elements, dtype=np.float32)
        stored, signer = [self.store.blobs[announced.blob]], announced.signer
        open_vector(stored, vector, expected=announced.header, key=announced.key, verify_key=signer)
        return vector

    def train(self, site: SimpleSite, task: Train) -> np.ndarray:
        if task.base is not None:
            self.bases.append(self.opened(site, task.base))
        site.models.append(self.opened(site, task.model))
        return site.delta(site.models[-1])

    def contribute(self, connection: int, task: Train, **changes: Any) -> dict[str, Any]:
        site = self.sites[connection]
        delta, key = self.train(site, task), ContentKey.generate()
        header = changes.get("header", task.upload_header)
        delta = np.resize(delta, header.elements)
        parts = seal_vector(header, delta, key=key, signing_key=site.identity.signing_key)
        sealed = self.store.blobs[task.upload] = b"".join(bytes(part) for part in parts)
        message = {"type": "update", "round": task.round, "blob": task.upload.hex(), "key": key.secret.hex()}
        message |= {"weight": site.weight, "metrics": site.metrics}
        message["prefix_sha256"] = sha256(sealed[: header.prefix_bytes]).hex()
        self.say(connection, message)
        return message


class ManualNet(ExchangeNet):
    """Sites get their tasks and wait for the test."""

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)


@pytest.fixture
def make_world(software_root: SoftwareRoot, chip: Chip):
    return lambda exchange: World(software_root, chip, plan_changes={"exchange": exchange})


def receipt_of(world: World, **header_changes: object) -> Reason | None:
    """What the first site is told that uploads a blob with a changed header, while the others' round goes on."""
    net = running(world, net=ManualNet(world))
    task = net.sites[1].tasks[-1]
    net.contribute(1, task, header=replace(task.upload_header, **header_changes))
    for connection in OTHERS:
        net.contribute(connection, net.sites[connection].tasks[-1])
    assert len(net.outcomes("round-committed")) == 1
    return net.sites[1].receipts[0]


@pytest.mark.parametrize("update", Encoding)
@pytest.mark.parametrize("model", [Encoding.FLOAT32, Encoding.BFLOAT16])
def test_a_run_releases_the_weighted_mean_in_every_encoding(make_world, model, update):
    world = make_world(Exchange(model, update))
    net = running(world, net=ExchangeNet(world))
    assert net.aggregator.state.value == "finished"
    assert [site.receipts for site in net.sites.values()] == [[None, None]] * 4
    expected = INITIAL + 2 * np.float32(weighted(world, world.members))
    np.testing.assert_allclose(released_model(world, net, "site-1"), expected, rtol=1e-5, atol=1e-6)


def test_a_bfloat16_model_is_rounded_for_workers_and_never_for_the_aggregator(make_world):
    world = make_world(Exchange(model=Encoding.BFLOAT16))
    net = running(world, net=ExchangeNet(world))
    rounded = net.sites[1].models[0]
    assert not np.array_equal(rounded, INITIAL)
    assert not (rounded.view("<u4") & 0xFFFF).any()
    np.testing.assert_allclose(rounded, INITIAL, rtol=1 / 256)
    released = released_model(world, net, "site-1")
    assert np.abs(released - INITIAL - 2 * weighted(world, world.members)).max() < 1e-6


def test_all_updates_of_an_encoding_have_the_one_size_that_the_plan_implies(make_world):
    world = make_world(Exchange(update=Encoding.INT8))
    net = running(world, net=ManualNet(world))
    tasks = [site.tasks[-1] for site in net.sites.values()]
    for connection, task in enumerate(tasks, start=1):
        net.contribute(connection, task)
    sizes = {len(net.store.blobs.get(task.upload, b"")) for task in tasks}
    assert sizes <= {0, tasks[0].upload_header.sealed_bytes}
    assert {net.store.expected[task.upload] for task in tasks} == {tasks[0].upload_header.sealed_bytes}


def test_a_subset_of_tensors_is_trained_and_the_others_keep_every_bit(make_world):
    world = make_world(PART)
    net = running(world, net=ExchangeNet(world))
    assert net.aggregator.state.value == "finished"
    released = released_model(world, net, "site-1")
    assert released[:FROZEN].tobytes() == INITIAL[:FROZEN].tobytes()
    expected = INITIAL[FROZEN:] + 2 * np.float32(weighted(world, world.members))
    np.testing.assert_allclose(released[FROZEN:], expected, rtol=1e-5)
    assert {model.size for site in net.sites.values() for model in site.models} == {LAYOUT.elements - FROZEN}


def test_the_whole_initial_model_is_sealed_once_for_all_workers_and_rounds(make_world):
    world = make_world(PART)
    net = running(world, net=ExchangeNet(world))
    names = {task.base.blob for site in net.sites.values() for task in site.tasks}
    assert len(names) == 1
    assert len(net.bases) == 8
    assert all(base.tobytes() == INITIAL.tobytes() for base in net.bases)


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.BFLOAT16])
def test_an_update_in_another_encoding_is_refused(make_world, encoding):
    world = make_world(Exchange(update=Encoding.INT8))
    assert receipt_of(world) is None
    assert receipt_of(world, encoding=encoding) is Reason.BLOB_LAYOUT


def test_an_update_of_the_whole_layout_is_refused_where_a_part_is_exchanged(make_world):
    world = make_world(PART)
    assert receipt_of(world) is None
    whole = {"layout": LAYOUT.digest, "elements": LAYOUT.elements}
    assert receipt_of(world, **whole) is Reason.BLOB_LAYOUT
    assert receipt_of(world, elements=LAYOUT.elements) is Reason.BLOB_LAYOUT
    assert receipt_of(world, layout=LAYOUT.digest) is Reason.BLOB_LAYOUT


def test_an_int8_update_that_spells_infinity_is_refused_and_named(make_world):
    world = make_world(Exchange(update=Encoding.INT8))
    net = running(world, net=ManualNet(world))
    net.sites[1].delta = lambda model: np.full_like(model, np.inf)
    for connection in net.sites:
        with np.errstate(invalid="ignore"):  # a worker of this project refuses to seal it
            net.contribute(connection, net.sites[connection].tasks[-1])
    assert net.sites[1].receipts == [Reason.NON_FINITE]
    assert len(net.outcomes("round-committed")) == 1


@pytest.mark.parametrize(
    ("kind", "reason"), [("another plan's base", Reason.BLOB_PLAN), ("this round's model", Reason.BLOB_KIND)]
)
def test_another_blob_in_place_of_the_base_is_refused(make_world, kind, reason):
    world, other = make_world(PART), make_world(PART)
    net, foreign = (running(each, net=ManualNet(each)) for each in (world, other))
    site, task = net.sites[1], net.sites[1].tasks[-1]
    assert np.array_equal(net.opened(site, task.base), INITIAL)
    own = net.store.blobs[task.model.blob]
    stolen = foreign.store.blobs[foreign.sites[1].tasks[-1].base.blob]
    net.store.blobs[task.base.blob] = own if reason is Reason.BLOB_KIND else stolen
    with pytest.raises(BlobError) as caught:
        net.opened(site, task.base)
    assert caught.value.reason is reason


def task_of(world: World, **changes: object) -> dict[str, Any]:
    """The task of the first site, with some of it changed."""
    net = running(world, net=ManualNet(world))
    return net.messages[1]["task"] | changes


def refused(world: World, message: dict[str, Any]) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        world.participant("site-1").take(message, NOW)
    return caught.value.reason


def test_a_worker_takes_a_base_exactly_where_its_plan_exchanges_a_part(make_world):
    part, whole = make_world(PART), make_world(Exchange())
    message = task_of(part)
    assert part.participant("site-1").take(message, NOW).base is not None
    without = {name: value for name, value in message.items() if name != "base"}
    assert refused(part, without) is Reason.MISSING_FIELD
    assert whole.participant("site-1").take(task_of(whole), NOW).base is None
    assert refused(whole, task_of(whole, base=message["base"])) is Reason.UNKNOWN_FIELD


def test_a_base_whose_header_is_another_plans_is_refused_before_it_is_fetched(make_world):
    world, other = make_world(PART), make_world(PART)
    header = Exchanged.of(other.plan).header(BlobKind.BASE, 0, AGGREGATOR)
    message = task_of(world)
    message["base"] = message["base"] | {"header_sha256": sha256(header.encode()).hex()}
    assert refused(world, message) is Reason.BLOB_HEADER
