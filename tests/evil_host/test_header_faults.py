"""Faults of one blob's header, or of one metric, cost nobody else: the host can write anything into its own store."""

from __future__ import annotations

import pytest

from tests.evil_host.hosts import VICTIM, Host, joined
from tests.evil_host.test_stored_blobs import contribute_all
from tests.world import World
from trusted.errors import Reason


@pytest.mark.parametrize("position", [4, 20, 60])
def test_an_altered_header_between_verify_and_fold_costs_its_own_contribution_only(world: World, position: int) -> None:
    host = joined(Host(world), automatic=False)
    contribute_all(host, (1, 2, 3))
    name = host.sites[1].tasks[-1].upload
    blob = host.store.blobs[name]
    host.store.blobs[name] = blob[:position] + b"\xff" + blob[position + 1 :]
    contribute_all(host, (4,))
    assert len(host.outcomes("round-committed")) == 1


@pytest.mark.parametrize("position", [4, 20, 60])
def test_an_altered_header_of_an_update_is_answered_with_a_receipt(world: World, position: int) -> None:
    host = joined(Host(world), automatic=False)
    host.keep = lambda connection, sealed: sealed[:position] + b"\xff" + sealed[position + 1 :]
    contribute_all(host, (VICTIM,))
    assert host.sites[VICTIM].receipts == [Reason.BLOB_HEADER]
    assert host.closed == {}


def test_one_metric_of_absurd_size_does_not_spoil_what_is_told(world: World) -> None:
    host = joined(Host(world), automatic=False)
    for connection in host.sites:
        host.sites[connection].metrics = {"auc": 1.7e308}
    contribute_all(host)
    told = host.outcomes("round-committed")[0]["metrics"]
    assert told == {"auc": 1.7e308}
