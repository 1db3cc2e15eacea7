"""Whole runs in memory: real admission, real sealing, real folding, and what a fault may cost (docs/protocol.md §7)."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from tests.enclave.runs import keep_alive, manual, released_model, running, task, weighted
from tests.world import INITIAL, LAYOUT, NOW, Net, SimpleSite, World
from trusted.documents.terms import Cohort
from trusted.errors import ProtocolError, Reason
from trusted.release import release_name, verify_release


def test_a_run_trains_the_weighted_mean_and_releases_it(world):
    net = running(world)
    assert net.aggregator.state.value == "finished"
    expected = INITIAL + 2 * np.float32(weighted(world, world.members))
    np.testing.assert_allclose(released_model(world, net, "site-1"), expected, rtol=1e-6)
    assert [site.receipts for site in net.sites.values()] == [[None, None]] * 4
    assert {site.closed.outcome for site in net.sites.values()} == {"finished"}


def test_members_whose_names_differ_in_length_are_folded_alike(software_root, chip):
    """Their headers do too, so that nobody's pieces stand where another one's do."""
    world = World(software_root, chip, members=("a", "a-hospital-with-a-long-name", "site-3"))
    net = running(world)
    expected = INITIAL + 2 * np.float32(weighted(world, world.members))
    np.testing.assert_allclose(released_model(world, net, "a"), expected, rtol=1e-6)


def test_only_recipients_open_the_release(world):
    net = running(world)
    with pytest.raises(ProtocolError) as caught:
        released_model(world, net, "site-2")
    assert caught.value.reason is Reason.UNKNOWN_MEMBER
    world_of_two = replace_sealing(world)
    with pytest.raises(ProtocolError) as caught:
        released_model(world_of_two, net, "site-1")
    assert caught.value.reason is Reason.OPEN_FAILED


def replace_sealing(world: World) -> World:
    import copy

    other = copy.copy(world)
    other.sealing = world.sealing | {"site-1": world.sealing["site-2"]}
    return other


def test_a_forged_release_is_refused(world):
    net = running(world)
    stored = net.store.blobs[release_name(world.plan.digest)]
    for position in range(0, len(stored), 211):
        forged = stored[:position] + bytes([stored[position] ^ 1]) + stored[position + 1 :]
        with pytest.raises(ProtocolError):
            verify_release(forged, world.federation, NOW)


def test_the_result_does_not_depend_on_arrival_order(world):
    vectors = []
    for order in (world.members, world.members[::-1]):
        net = Net(world)
        net.start()
        for member in order:
            site = SimpleSite(world, member, has_initial=True)
            rng = np.random.default_rng(world.members.index(member))
            noise = (rng.standard_normal(LAYOUT.elements) * 10 ** rng.uniform(-8, 8, LAYOUT.elements)).astype("f4")
            site.delta = lambda model, noise=noise: noise
            site.automatic = False
            net.join(site)
        for _ in range(world.plan.document.rounds):
            for connection in net.sites:
                net.contribute(connection, net.sites[connection].tasks[-1])
        vectors.append(released_model(world, net, "site-1"))
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_disclosed_metrics_are_rounded_means_over_enough_sites(world):
    net = Net(world)
    net.start()
    for place, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=place == 0)
        site.metrics = {"auc": 0.70004 + place / 10} if place < 2 else {}
        net.join(site)
    told = net.outcomes("round-committed")[0]["metrics"]
    assert told == {"auc": round((10 * 0.70004 + 20 * 0.80004) / 30, 3)}


def test_a_metric_of_too_few_sites_is_not_disclosed(world):
    net = Net(world)
    net.start()
    for place, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=place == 0)
        site.metrics = {"auc": 0.7} if place == 0 else {}
        net.join(site)
    assert net.outcomes("round-committed")[0]["metrics"] == {}


def test_a_paused_run_ends_its_open_round_and_opens_none_until_it_is_resumed(world):
    net = manual(world)
    net.perform(net.aggregator.pause(net.now))
    for connection in (1, 2, 3, 4):
        net.contribute(connection, task(net, connection))
    keep_alive(net, (1, 2, 3, 4), 600)
    assert (len(net.outcomes("round-committed")), len(net.outcomes("round-opened"))) == (1, 1)
    assert net.closed == {}
    net.perform(net.aggregator.unpause(net.now))
    assert len(net.outcomes("round-opened")) == 2
    assert [name for name, _ in net.events if name in ("run-paused", "run-resumed")] == ["run-paused", "run-resumed"]


def test_a_pause_that_is_told_before_the_start_holds_and_one_after_the_end_says_nothing(world):
    net = Net(world)
    net.perform(net.aggregator.pause(net.now))
    running(world, net=net)
    assert net.outcomes("round-opened") == []
    net.perform(net.aggregator.unpause(net.now))
    assert net.aggregator.state.value == "finished"
    net.perform(net.aggregator.pause(net.now))
    net.perform(net.aggregator.unpause(net.now))
    assert (len(net.outcomes("run-paused")), len(net.outcomes("run-resumed"))) == (1, 1)


def test_a_paused_run_can_be_stopped(world):
    net = manual(world)
    net.perform(net.aggregator.pause(net.now))
    net.perform(net.aggregator.stop(net.now))
    assert net.aggregator.state.value == "stopped"


def test_cohorts_are_sampled_to_the_plans_size(software_root, chip):
    world = World(software_root, chip)
    world.plan_changes = {}
    plan = world.make_plan(cohort=Cohort(world.members, 2, 3))
    from trusted.channel.federation import Federation

    world.plan, world.federation = plan, Federation(world.charter, plan)
    net = Net(world)
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    net.start()
    opened = net.outcomes("round-opened")
    assert [len(fields["waiting_for"]) for fields in opened] == [3, 3]


def test_a_run_ends_when_its_plan_expires(world):
    net = manual(world)
    net.pass_time(21 * 24 * 3600)
    assert net.aggregator.state.value == "running"  # the clock may be wrong: it has to say so for one lease
    keep_alive(net, (), 120)
    assert net.aggregator.state.value == "abandoned"
    assert net.outcomes("expired") == [{"reason": Reason.DOCUMENT_EXPIRED.code}]
    assert release_name(world.plan.digest) not in net.store.blobs


def test_a_site_trains_no_more_once_its_own_consent_has_ended(world):
    participant = world.participant("site-1")
    site = manual(world).sites[1]
    with pytest.raises(ProtocolError) as caught:
        participant.take({"type": "task", "round": 1}, NOW + timedelta(days=11))
    assert caught.value.reason is Reason.SITE_REFUSES
    assert site.tasks


def test_stop_ends_the_run_without_a_release(world):
    net = manual(world)
    net.perform(net.aggregator.stop(net.now))
    assert net.sites[1].closed.outcome == "stopped"
    assert release_name(world.plan.digest) not in net.store.blobs


def test_message_that_no_worker_sends_ends_its_session_only(world):
    net = manual(world)
    net.say(1, {"type": "task"})
    assert net.closed == {1: Reason.MALFORMED}
    assert len(net.aggregator._admissions.members) == 3
