"""Defects of the core that the attacks found; each fails until the core is mended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.evil_host.hosts import VICTIM, Host, counted, finished, joined
from tests.evil_host.test_stored_blobs import contribute_all
from tests.world import LAYOUT, NOW, SimpleSite
from trusted.errors import Reason


@pytest.mark.parametrize("position", [4, 20, 60])
def test_an_altered_header_between_verify_and_fold_costs_its_own_contribution_only(world, position):
    host = joined(Host(world), automatic=False)
    contribute_all(host, (1, 2, 3))
    name = host.sites[1].tasks[-1].upload
    blob = host.store.blobs[name]
    host.store.blobs[name] = blob[:position] + b"\xff" + blob[position + 1 :]
    contribute_all(host, (4,))
    assert len(host.outcomes("round-committed")) == 1


@pytest.mark.parametrize("position", [4, 20, 60])
def test_an_altered_header_of_an_update_is_answered_with_a_receipt(world, position):
    host = joined(Host(world), automatic=False)
    host.stored = lambda connection, sealed: sealed[:position] + b"\xff" + sealed[position + 1 :]
    contribute_all(host, (VICTIM,))
    assert host.sites[VICTIM].receipts == [Reason.BLOB_HEADER]
    assert host.closed == {}


def test_a_connection_number_used_twice_ends_the_earlier_connection(world):
    host = joined(Host(world), automatic=False)
    host.perform(host.aggregator.attach(VICTIM, host.now))
    assert set(host.aggregator._admissions.members) == {"site-1", "site-2", "site-3"}
    contribute_all(host, (1, 2, 3))
    host.pass_time(130)
    assert len(host.outcomes("round-committed")) == 1


def test_a_member_that_joins_again_on_its_own_connection_number_is_admitted(world):
    host = joined(Host(world), automatic=False)
    site = SimpleSite(world, "site-4")
    site.automatic = False
    host.sites[VICTIM] = site
    host.perform(host.aggregator.attach(VICTIM, host.now))
    host.up(VICTIM, site.channel.begin())
    assert len(site.tasks) == 1


def test_a_record_after_the_lease_ran_out_is_refused_without_a_tick(world):
    host = joined(Host(world), automatic=False)
    host.now = NOW + timedelta(seconds=121)
    contribute_all(host, (VICTIM,))
    assert host.closed == {VICTIM: Reason.LEASE_EXPIRED}


def test_one_metric_of_absurd_size_does_not_spoil_what_is_told(world):
    host = joined(Host(world), automatic=False)
    for connection in host.sites:
        host.sites[connection].metrics = {"auc": 1.7e308}
    contribute_all(host)
    told = host.outcomes("round-committed")[0]["metrics"]
    assert told in ({}, {"auc": 1.7e308})
