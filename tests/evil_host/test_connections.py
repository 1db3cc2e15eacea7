"""A host that lies about who is connected, and when: connections end alone, and nobody is lent another's session."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.evil_host.hosts import VICTIM, Host, everybody_but, finished, joined
from tests.world import NOW, SimpleSite, World
from trusted.errors import Reason


@pytest.fixture
def host(world: World) -> Host:
    return joined(Host(world), automatic=False)


def test_a_connection_number_used_twice_ends_the_earlier_connection_only(host: Host) -> None:
    host.perform(host.aggregator.attach(VICTIM, host.now))
    assert set(host.aggregator._admissions.members) == everybody_but(host, VICTIM)
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert [set(names) for _, names in finished(host).release.contributions] == [everybody_but(host, VICTIM)] * 2


def test_a_member_that_joins_again_under_its_old_connection_number_is_admitted(host: Host) -> None:
    site = SimpleSite(host.world, "site-4")
    site.automatic = False
    host.sites[VICTIM] = site
    host.perform(host.aggregator.attach(VICTIM, host.now))
    host.up(VICTIM, site.channel.begin())
    assert [task.round for task in site.tasks] == [1]


def test_another_member_under_a_taken_connection_number_gets_its_own_session_only(host: Host) -> None:
    """The number of one member is given to another: the first is gone, and nothing meant for it goes to the second.

    The update of this new start of a worker has a name of its own, that of no other start and no other member.
    """
    uploads = {site.tasks[-1].upload for site in host.sites.values()}
    site = SimpleSite(host.world, "site-3")
    site.automatic = False
    host.sites[VICTIM] = site
    host.perform(host.aggregator.attach(VICTIM, host.now))
    host.up(VICTIM, site.channel.begin())
    assert host.closed == {3: Reason.SUPERSEDED}
    assert [task.round for task in site.tasks] == [1]
    assert site.tasks[0].upload not in uploads
    assert set(host.aggregator._admissions.members) == {"site-1", "site-2", "site-3"}


def test_a_record_after_the_lease_ran_out_is_refused_without_a_tick(host: Host) -> None:
    """A host that never lets the aggregator rest must not lengthen a lease by it."""
    host.now = NOW + timedelta(seconds=host.world.plan.document.deadlines.lease_s + 1)
    host.contribute(VICTIM, host.sites[VICTIM].tasks[-1])
    assert host.closed == {VICTIM: Reason.LEASE_EXPIRED}
    assert host.outcomes("contribution") == []


def test_a_record_within_the_lease_is_taken(host: Host) -> None:
    host.now = NOW + timedelta(seconds=host.world.plan.document.deadlines.lease_s)
    host.contribute(VICTIM, host.sites[VICTIM].tasks[-1])
    assert host.sites[VICTIM].receipts == [None]


def test_a_clock_that_goes_back_renews_no_lease(host: Host) -> None:
    """The host holds the clock. Turning it back gains it nothing that stopping it would not."""
    host.now = NOW - timedelta(days=1)
    host.pass_time(0)
    host.now = NOW + timedelta(seconds=host.world.plan.document.deadlines.lease_s + 1)
    host.perform(host.aggregator.tick(host.now))
    assert set(host.closed.values()) == {Reason.LEASE_EXPIRED}


def test_frames_on_a_connection_that_nobody_opened_are_ignored(host: Host) -> None:
    before = list(host.events)
    for connection in (0, 99, 1 << 62):
        host.perform(host.aggregator.receive(connection, host.sent_up[1][0], host.now))
        host.perform(host.aggregator.detach(connection, host.now))
    assert host.events == before
    assert host.closed == {}
