"""Whole runs in memory: real admission, real sealing, real folding, and what a fault may cost (docs/protocol.md §7)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.world import INITIAL, LAYOUT, NOW, Net, SimpleSite, World
from trusted.blob import open_blob
from trusted.channel.worker import WorkerChannel
from trusted.documents.terms import Cohort
from trusted.errors import ProtocolError, Reason
from trusted.release import release_name, verify_release
from worker.participant import SendInitial


def running(world: World, members: tuple[str, ...] | None = None, net: Net | None = None) -> Net:
    """A run that was started and whose members have all joined; the first holds the initial model."""
    net = net or Net(world)
    net.start()
    for index, member in enumerate(members or world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    return net


def released_model(world: World, net: Net, recipient: str) -> np.ndarray:
    verified = verify_release(net.store.blobs[release_name(world.plan.digest)], world.federation, NOW)
    key = verified.open_key(recipient, world.sealing[recipient])
    release = verified.release
    opened = open_blob(
        [net.store.blobs[release.blob]],
        expected=release.header(world.federation),
        key=key,
        verify_key=release.verify_key,
    )
    return np.frombuffer(b"".join(opened), dtype="<f4")


def weighted(world: World, members: tuple[str, ...]) -> float:
    """What one round of SimpleSite's formula adds to every element."""
    places = [world.members.index(member) for member in members]
    weights = [10 * (1 + place) for place in places]
    return sum(w * 0.25 * (1 + place) for w, place in zip(weights, places, strict=True)) / sum(weights)


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


class Manual(Net):
    """Sites get their tasks and wait for the test."""

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)


def manual(world: World) -> Manual:
    net = Manual(world)
    running(world, net=net)
    return net


def task(net: Net, connection: int):
    return net.sites[connection].tasks[-1]


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


def test_a_lost_member_costs_its_own_contribution_only(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    net.perform(net.aggregator.detach(4, net.now))
    assert net.outcomes("round-committed") == []
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-committed")) == 1
    assert {"round": 1, "member": "site-4", "outcome": "gone", "reason": "CHN-407"} in net.outcomes("contribution")


def keep_alive(net: Net, connections: tuple[int, ...], seconds: int) -> None:
    """Time passes while these members answer challenges, as living workers do."""
    for _ in range(seconds // 10):
        net.pass_time(10)


def test_a_member_that_comes_back_in_time_counts(world):
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    net.perform(net.aggregator.detach(4, net.now))
    net.pass_time(30)
    back = net.join(SimpleSite(world, "site-4"))
    net.contribute(back, task(net, back))
    assert {fields["outcome"] for fields in net.outcomes("contribution")} == {"counted"}


def test_round_under_the_minimum_is_abandoned_and_never_folded(world):
    net = manual(world)
    net.contribute(1, task(net, 1))
    for connection in (2, 3, 4):
        net.say(connection, {"type": "failed", "round": 1, "reason": int(Reason.APP_FAILED)})
    assert len(net.outcomes("round-abandoned")) == 1
    assert net.outcomes("round-committed") == []
    assert task(net, 1).round == 2


def test_three_abandoned_rounds_end_the_run(world):
    net = manual(world)
    for number in (1, 2, 3):
        for connection in (1, 2, 3, 4):
            net.say(connection, {"type": "failed", "round": number, "reason": int(Reason.APP_FAILED)})
    assert net.aggregator.state.value == "abandoned"
    assert net.sites[1].closed.outcome == "abandoned"


def test_no_round_opens_under_the_minimum(world):
    net = running(world, ("site-1",), net=Manual(world))
    keep_alive(net, (1,), 600)
    assert net.outcomes("round-opened") == []


def test_a_round_opens_without_everybody_after_one_lease(world):
    net = running(world, ("site-1", "site-2", "site-3"), net=Manual(world))
    assert net.outcomes("round-opened") == []
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-opened")) == 1


def test_no_round_opens_without_a_quorum_of_witnesses(world):
    """The plan's minimum of contributions is two; who may go on without the others' word is another matter."""
    net = running(world, ("site-1", "site-2"), net=Manual(world))
    keep_alive(net, (1, 2), 600)
    assert net.outcomes("round-opened") == []
    waits = net.outcomes("run-waits")[-1]
    assert waits == {"outcome": "witnesses", "waiting_for": ["site-3", "site-4"]}


def test_eviction_of_one_worker_does_not_disturb_the_rest(world):
    net = manual(world)
    net.to_worker = lambda connection, frame: [] if connection == 4 and net.now > NOW else [frame]
    keep_alive(net, (1, 2, 3), 200)
    assert net.closed == {4: Reason.LEASE_EXPIRED}
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    keep_alive(net, (1, 2, 3), 130)
    assert len(net.outcomes("round-committed")) == 1


def test_a_newer_session_of_a_member_supersedes_the_older(world):
    net = manual(world)
    net.to_worker = lambda connection, frame: [] if connection == 4 else [frame]
    back = net.join(SimpleSite(world, "site-4"))
    assert net.closed == {4: Reason.SUPERSEDED}
    net.contribute(back, task(net, back))
    assert net.sites[back].receipts == [None]


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


def test_initial_model_other_than_the_plans_is_refused(world, monkeypatch):
    net = Net(world)
    net.start()
    monkeypatch.setattr(world, "initial", INITIAL + np.float32(1))
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    assert net.closed == {1: Reason.INITIAL_MODEL}


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


def test_a_site_that_cannot_send_the_initial_model_loses_no_round(world):
    net = manual(world)
    net.say(1, {"type": "failed", "round": 0, "reason": int(Reason.INITIAL_MODEL)})
    assert net.closed == {}
    for connection in (1, 2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert {fields["outcome"] for fields in net.outcomes("contribution")} == {"counted"}


class Holders(Net):
    """Sites that are asked for the initial model, and send none unless a test lets them."""

    def act(self, connection, action):
        if isinstance(action, SendInitial):
            self.asked.setdefault(connection, []).append(action.blob)
        else:
            super().act(connection, action)

    def holder(self, member: str) -> tuple[int, bytes]:
        self.asked = getattr(self, "asked", {})
        connection = self.join(SimpleSite(self.world, member, has_initial=True))
        return connection, self.asked[connection][-1]


def holders(world) -> Holders:
    """A run with a quorum of witnesses that hold no model."""
    net = Holders(world)
    net.start()
    for member in world.members[1:]:
        net.join(SimpleSite(world, member))
    return net


def test_the_same_start_of_a_worker_is_asked_for_the_initial_model_under_the_same_name(world):
    net = holders(world)
    connection, name = net.holder("site-1")
    site = net.sites[connection]
    net.perform(net.aggregator.detach(connection, net.now))
    site.channel = WorkerChannel(world.federation, site.identity, world.membership("site-1"))
    again = net.join(site)
    assert net.asked[again] == [name]


def test_another_start_of_it_which_seals_anew_gets_another_name_and_the_first_is_discarded(world):
    net = holders(world)
    _, name = net.holder("site-1")
    net.store.blobs[name] = b"half of it"
    _, other = net.holder("site-1")
    assert other != name
    assert name not in net.store.blobs


def test_a_name_whose_bytes_do_not_open_is_not_used_again(world):
    net = holders(world)
    connection, name = net.holder("site-1")
    site = net.sites[connection]
    net.store.blobs[name] = b"what another key sealed"
    net.say(connection, {"type": "initial", "blob": name.hex(), "key": bytes(32).hex()})
    assert site.error is not None
    site.error, site.channel = None, WorkerChannel(world.federation, site.identity, world.membership("site-1"))
    again = net.join(site)
    assert net.asked[again] != [name]
    assert name not in net.store.blobs
