"""An update that is not what it should be costs its sender that contribution, and nobody else anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.enclave.runs import manual, task, weighted
from tests.world import INITIAL, LAYOUT
from trusted.errors import Reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, Reason.NON_FINITE), (np.inf, Reason.NON_FINITE), (-np.inf, Reason.NON_FINITE)],
)
def test_non_finite_update_is_refused_and_the_round_goes_on(world, value, reason):
    net = manual(world)
    delta = np.zeros(LAYOUT.elements)
    delta[-1] = value
    net.contribute(1, task(net, 1), delta=delta)
    assert net.sites[1].receipts == [reason]
    for connection in (2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert len(net.outcomes("round-committed")) == 1


@pytest.mark.parametrize("weight", [0, -1, 1001, (1 << 53) - 1])
def test_weight_out_of_the_plans_bounds_is_refused(world, weight):
    net = manual(world)
    net.contribute(1, task(net, 1), weight=weight)
    assert net.sites[1].receipts == [Reason.WEIGHT]


@pytest.mark.parametrize("metrics", [{"secret": 1.0}, {"auc": "x"}, {"auc": True}])
def test_metric_outside_the_plans_list_is_refused(world, metrics):
    net = manual(world)
    net.contribute(1, task(net, 1), metrics=metrics)
    assert net.sites[1].receipts == [Reason.METRIC]


def test_duplicate_update_is_refused_and_counts_once(world):
    net = manual(world)
    net.contribute(1, task(net, 1))
    net.contribute(1, task(net, 1))
    assert net.sites[1].receipts == [None, Reason.DUPLICATE]
    for connection in (2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert len(net.outcomes("round-committed")) == 1


def test_update_for_an_older_round_is_refused(world):
    net = manual(world)
    old = task(net, 1)
    for connection in (1, 2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert task(net, 1).round == 2
    net.contribute(1, old, delta=np.zeros(LAYOUT.elements))
    assert net.sites[1].receipts == [None, Reason.ROUND_CLOSED]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"round": 7}, Reason.BLOB_ROUND),
        ({"sender": "site-2"}, Reason.BLOB_SENDER),
        ({"plan": bytes(32)}, Reason.BLOB_PLAN),
        ({"layout": bytes(32)}, Reason.BLOB_LAYOUT),
    ],
)
def test_blob_sealed_for_something_else_is_refused(world, change, reason):
    net = manual(world)
    net.contribute(1, task(net, 1), header=replace(task(net, 1).upload_header, **change))
    assert net.sites[1].receipts == [reason]


def test_update_of_another_shape_is_refused(world):
    net = manual(world)
    header = replace(task(net, 1).upload_header, elements=LAYOUT.elements - 1)
    net.contribute(1, task(net, 1), header=header, delta=np.zeros(LAYOUT.elements - 1))
    assert net.sites[1].receipts == [Reason.BLOB_LAYOUT]


def test_blob_signed_by_another_worker_is_refused(world):
    net = manual(world)
    net.contribute(1, task(net, 1), signing_key=net.sites[2].identity.signing_key)
    assert net.sites[1].receipts == [Reason.BLOB_SIGNATURE]


def test_updates_swapped_between_members_are_refused(world):
    """The host stores one member's blob under another's name: it opens for nobody else."""
    net = manual(world)
    net.contribute(1, task(net, 1))
    stolen = net.store.blobs[task(net, 1).upload]
    net.stored = lambda connection, sealed: stolen
    net.contribute(2, task(net, 2))
    assert net.sites[2].receipts == [Reason.BLOB_SENDER]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: b[:-1], Reason.BLOB_TRUNCATED),
        (lambda b: b[: len(b) // 2], Reason.BLOB_TRUNCATED),
        (lambda b: b"", Reason.BLOB_TRUNCATED),
        (lambda b: b[:-40] + bytes([b[-40] ^ 1]) + b[-39:], Reason.BLOB_OPEN),
    ],
    ids=["a byte short", "half", "gone", "bit flipped"],
)
def test_damaged_blob_costs_its_own_contribution_only(world, damage, reason):
    net = manual(world)
    net.stored = lambda connection, sealed: damage(sealed) if connection == 1 else sealed
    for connection in (1, 2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert net.sites[1].receipts == [reason]
    assert len(net.outcomes("round-committed")) == 1


def test_bytes_after_a_blob_are_never_read(world):
    net = manual(world)
    net.stored = lambda connection, sealed: sealed + b"more"
    net.contribute(1, task(net, 1))
    assert net.sites[1].receipts == [None]


def test_blob_altered_after_it_counted_is_excluded_from_the_fold(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    name = task(net, 1).upload
    net.store.blobs[name] = net.store.blobs[name][:-40] + bytes(40)
    net.contribute(4, task(net, 4))
    assert len(net.outcomes("round-committed")) == 1
    model = net.train(net.sites[2], task(net, 2)) - net.sites[2].delta(INITIAL)
    expected = INITIAL + np.float32(weighted(world, ("site-2", "site-3", "site-4")))
    np.testing.assert_allclose(net.sites[2].models[-1], expected, rtol=1e-6)
    assert model is not None


def test_a_round_that_folds_twice_tells_all_the_time_that_it_took(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    name = task(net, 1).upload
    net.store.blobs[name] = net.store.blobs[name][:-40] + bytes(40)
    net.pass_time(7)
    net.contribute(4, task(net, 4))
    (told,) = net.outcomes("round-stages")
    assert told["metrics"]["collect"] == 7
