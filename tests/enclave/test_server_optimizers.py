"""Whole runs under robust rules and server optimisers: what is remembered survives the aggregator, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator.enclave import resuming
from coordinator.enclave.ports import HostStore
from coordinator.enclave.record import SealedVector
from coordinator.enclave.release import History
from softtee.chip import Chip, SoftwareRoot
from tests.enclave.folds import ADAM, terms
from tests.enclave.recoveries import Mortal, begun, crash_at, ended, go_on, steps_of
from tests.enclave.runs import released_model
from tests.world import INITIAL, MemoryStore, SimpleSite, World
from trusted.blob import BlobKind, open_vector
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.errors import Reason
from trusted.exchange import Exchanged
from worker.participant import Train

PART = Exchange(Encoding.BFLOAT16, Encoding.FLOAT32, ("bias",))


class Spelled(Mortal):
    """Sites that open the round's model as their plan spells it."""

    def train(self, site: SimpleSite, task: Train) -> np.ndarray:
        model, announced = np.empty(task.model_header.elements, dtype="f4"), task.model
        stored = [self.store.blobs[announced.blob]]
        open_vector(stored, model, expected=announced.header, key=announced.key, verify_key=announced.signer)
        site.models.append(model)
        return site.delta(model)


@pytest.fixture(scope="module")
def adam_world(software_root: SoftwareRoot, chip: Chip) -> World:
    return World(software_root, chip, plan_changes={"aggregation": terms("weighted-mean", server=ADAM), "rounds": 3})


def test_an_aggregator_under_adam_that_dies_is_replaced_and_the_model_is_the_same_to_the_bit(adam_world):
    expected = released_model(adam_world, begun(adam_world), "site-1").tobytes()
    for step in range(5, steps_of(adam_world), 11):
        net = Mortal(adam_world)
        if crash_at(net, step, lambda net=net: begun(adam_world, net)) and len(net.by_member) == 4:
            go_on(net)
        assert ended(net) or net.outcomes("run-ended"), step
        assert released_model(adam_world, net, "site-1").tobytes() == expected, step


def test_the_moments_survive_where_a_part_is_exchanged_and_rounded(software_root, chip):
    changes: dict[str, Any] = {"aggregation": terms("weighted-mean", server=ADAM), "rounds": 3, "exchange": PART}
    world = World(software_root, chip, plan_changes=changes)
    expected = released_model(world, begun(world, Spelled(world)), "site-1").tobytes()
    assert expected != INITIAL.tobytes()
    died = 0
    for step in range(50, steps_of(world, Spelled(world)), 23):
        net = Spelled(world)
        if crash_at(net, step, lambda net=net: begun(world, net)):
            died += 1
            go_on(net)
        assert released_model(world, net, "site-1").tobytes() == expected, step
    assert died > 2


def test_an_aggregator_that_forgot_the_moments_would_make_another_model(adam_world, monkeypatch):
    """The claims above are not empty."""
    expected = released_model(adam_world, begun(adam_world), "site-1")
    read = resuming._read_vector

    def forgetful(exchanged: Exchanged, store: HostStore, sealed: SealedVector) -> np.ndarray:
        return read(exchanged, store, sealed) * np.float32(sealed.kind is not BlobKind.STATE)

    monkeypatch.setattr(resuming, "_read_vector", forgetful)
    net = Mortal(adam_world)
    crash_at(net, steps_of(adam_world) // 2, lambda: begun(adam_world, net))
    assert len(net.outcomes("round-committed")) > 0
    go_on(net)
    assert not np.allclose(released_model(adam_world, net, "site-1"), expected)


def test_moments_that_the_host_lost_or_altered_are_a_state_that_is_missing(adam_world):
    for damage in ("lost", "altered"):
        net = Mortal(adam_world)
        total = steps_of(adam_world)
        crash_at(net, total // 2, lambda net=net: begun(adam_world, net))
        moments = [name for name, blob in net.store.blobs.items() if b'"kind":"state"' in blob[:200]]
        assert len(moments) >= 2
        for name in moments:
            blob = net.store.blobs.pop(name)
            if damage == "altered":
                net.store.blobs[name] = blob[:-40] + bytes([blob[-40] ^ 1]) + blob[-39:]
        go_on(net)
        (refused,) = net.outcomes("state-refused")
        assert refused["reason"] == Reason.STATE_MISSING.code


def test_moments_go_when_the_next_checkpoint_is_certified_and_at_the_end(adam_world):
    net = begun(adam_world)
    assert ended(net)
    assert [name for name, blob in net.store.blobs.items() if b'"kind":"state"' in blob[:200]] == []


def test_rounds_that_came_to_nothing_are_no_steps_of_adam():
    history = History(contributions=[(2, ("site-1",)), (5, ("site-1",))])
    assert [history.before(number) for number in (1, 2, 3, 5, 6)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rule", ["median", "krum", "geometric-median"], ids=lambda rule: rule)
def test_a_whole_run_under_a_robust_rule_shrugs_off_an_enormous_update(software_root, chip, rule):
    aggregation = terms(rule)
    members = tuple(f"site-{place}" for place in range(1, 8))
    cohort = replace(World(software_root, chip, members=members).plan.document.cohort, minimum=7)
    changes = {"aggregation": aggregation, "cohort": cohort}
    world = World(software_root, chip, members=members, plan_changes=changes)
    net = Mortal(world, MemoryStore())
    site = net.live("site-7")
    site.delta = lambda model: np.full_like(model, 1e30)  # type: ignore[method-assign]
    for member in members[:6]:
        net.live(member)
    net.start()
    net.connect()
    assert ended(net)
    released = released_model(world, net, "site-1")
    assert (np.abs(released - INITIAL) < 2 * 0.25 * 7).all()


def test_under_the_mean_the_same_update_is_the_model(world):
    net = Mortal(world)
    site = net.live("site-4")
    site.delta = lambda model: np.full_like(model, 1e30)  # type: ignore[method-assign]
    for member in world.members[:3]:
        net.live(member)
    net.start()
    net.connect()
    assert (released_model(world, net, "site-1") > 1e28).all()
