"""Who a round waits for, and for how long: progress, silence, a site's own word, and a clock that somebody sets."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from coordinator.enclave.vigil import Sign, Vigil
from tests.enclave.runs import Manual, manual, running, task
from tests.world import LAYOUT, NOW, Net, SimpleSite, World
from trusted.errors import Reason

LEASE_S = 120
STEP_S = 10


@pytest.fixture
def collecting(world: World) -> Manual:
    """A round in which three have answered, and site 4 has its task."""
    net = manual(world)
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    return net


def progress(net: Manual, connection: int, stage: str, percent: int, beat: int = 0) -> None:
    told = {"type": "progress", "round": task(net, connection).round, "stage": stage, "percent": percent}
    net.say(connection, told | ({"beat": beat} if beat else {}))


def pass_time(net: Manual, seconds: int) -> None:
    """Time passes while all that are connected answer challenges, as living workers do."""
    for _ in range(seconds // STEP_S):
        net.pass_time(STEP_S)


def committed(net: Manual) -> int:
    return len(net.outcomes("round-committed"))


def test_a_connected_member_that_stands_still_is_waited_for_one_lease_and_named(collecting: Manual) -> None:
    progress(collecting, 4, "upload", 62)
    pass_time(collecting, 40)
    told = {"round": 1, "member": "site-4", "outcome": "upload 62 %", "seconds": 40.0}
    assert collecting.outcomes("silent") == [told]
    pass_time(collecting, LEASE_S - 50)
    assert committed(collecting) == 0
    pass_time(collecting, STEP_S)
    assert committed(collecting) == 1
    lost = {"round": 1, "member": "site-4", "outcome": "silent", "seconds": 120.0, "reason": Reason.MEMBER_SILENT.code}
    assert lost in collecting.outcomes("contribution")
    assert collecting.closed == {}  # it is no less a member for that


def test_a_session_without_work_keeps_no_member_in_its_round(collecting: Manual) -> None:
    """It answers every challenge and repeats the same words; only what changes is a sign."""
    for _ in range(LEASE_S // STEP_S - 1):
        progress(collecting, 4, "train", 0, beat=7)
        collecting.pass_time(STEP_S)
    assert committed(collecting) == 0
    progress(collecting, 4, "train", 0, beat=7)
    collecting.pass_time(STEP_S)
    assert committed(collecting) == 1


def test_a_member_whose_work_moves_is_waited_for_until_the_rounds_deadline_and_no_longer(collecting: Manual) -> None:
    """A site that lies about its beat holds the round for that long at most."""
    round_s = collecting.world.plan.document.deadlines.round_s
    assert round_s > 4 * LEASE_S
    for beat in range(1, round_s // STEP_S):
        progress(collecting, 4, "train", 0, beat=beat)
        collecting.pass_time(STEP_S)
    assert committed(collecting) == 0
    assert collecting.outcomes("silent") == []
    collecting.pass_time(STEP_S)
    assert committed(collecting) == 1


def test_beats_are_not_told_to_the_public(collecting: Manual) -> None:
    for beat in range(1, 30):
        progress(collecting, 4, "train", 0, beat=beat)
    assert [told["outcome"] for told in collecting.outcomes("progress")] == ["train 0 %"]


@pytest.fixture
def quarantined(world: World) -> Manual:
    """Site 4 is waited for no longer, and site 3 moves."""
    net = manual(world)
    for connection in (1, 2):
        net.contribute(connection, task(net, connection))
    for beat in range(1, 1 + (LEASE_S + STEP_S) // STEP_S):
        progress(net, 3, "train", 0, beat=beat)
        net.pass_time(STEP_S)
    assert [told["member"] for told in net.outcomes("contribution") if told["outcome"] == "silent"] == ["site-4"]
    return net


def test_a_quarantined_member_is_waited_for_again_as_soon_as_it_moves(quarantined: Manual) -> None:
    progress(quarantined, 4, "upload", 63)
    awaited = {"round": 1, "member": "site-4", "outcome": "upload 63 %"}
    assert quarantined.outcomes("awaited") == [awaited]
    quarantined.contribute(3, task(quarantined, 3))
    assert committed(quarantined) == 0
    quarantined.contribute(4, task(quarantined, 4))
    assert committed(quarantined) == 1


def test_a_quarantined_member_that_answers_while_the_round_is_open_counts(quarantined: Manual) -> None:
    quarantined.contribute(4, task(quarantined, 4))
    quarantined.contribute(3, task(quarantined, 3))
    assert quarantined.sites[4].receipts == [None]


def test_a_quarantined_member_that_answers_too_late_is_told_so(quarantined: Manual) -> None:
    late = task(quarantined, 4)
    quarantined.contribute(3, task(quarantined, 3))
    assert committed(quarantined) == 1
    quarantined.contribute(4, late, delta=np.zeros(LAYOUT.elements))
    assert quarantined.sites[4].receipts == [Reason.ROUND_CLOSED]


def test_work_that_is_done_is_not_thrown_away_while_those_away_could_make_up_the_minimum(world: World) -> None:
    net = manual(world)
    net.contribute(1, task(net, 1))
    pass_time(net, 4 * LEASE_S)  # the others stand still; two are needed
    assert net.outcomes("round-abandoned") == []
    progress(net, 2, "train", 0, beat=1)
    net.contribute(2, task(net, 2))
    assert committed(net) == 1


def test_a_round_that_nobody_can_make_up_is_abandoned_at_its_deadline(world: World) -> None:
    net = manual(world)
    net.contribute(1, task(net, 1))
    pass_time(net, net.world.plan.document.deadlines.round_s)
    assert len(net.outcomes("round-abandoned")) == 1


# --- a site's own word


def away(net: Net, connection: int, reason: Reason | None) -> None:
    net.say(connection, {"type": "away", "reason": None if reason is None else int(reason)})


def test_a_paused_site_is_not_drawn_and_stays_a_witness(collecting: Manual) -> None:
    away(collecting, 4, Reason.SITE_PAUSED)
    collecting.say(4, {"type": "failed", "round": 1, "reason": int(Reason.SITE_PAUSED)})
    assert committed(collecting) == 1
    opened = collecting.outcomes("round-opened")[-1]
    assert (opened["round"], opened["waiting_for"]) == (2, ["site-1", "site-2", "site-3"])
    assert collecting.closed == {}
    assert collecting.outcomes("away") == [{"member": "site-4", "reason": "RND-611"}]
    away(collecting, 4, None)
    for connection in (1, 2, 3):
        collecting.contribute(connection, task(collecting, connection))
    assert collecting.sites[4].closed is not None  # it heard of the end like everybody


def test_a_site_that_takes_tasks_again_is_drawn_again(world: World) -> None:
    net = running(world, world.members[:3], net=Manual(world))
    fourth = net.join(SimpleSite(world, "site-4"))
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    away(net, fourth, Reason.SITE_PAUSED)
    away(net, fourth, None)
    net.contribute(fourth, task(net, fourth))
    assert net.outcomes("round-opened")[-1]["waiting_for"] == list(world.members)
    assert net.outcomes("back") == [{"member": "site-4"}]


def test_a_new_session_of_a_paused_site_says_so_anew(collecting: Manual) -> None:
    away(collecting, 4, Reason.SITE_PAUSED)
    back = collecting.join(SimpleSite(collecting.world, "site-4"))
    collecting.contribute(back, task(collecting, back))
    assert collecting.outcomes("round-opened")[-1]["waiting_for"] == list(collecting.world.members)


def test_a_site_that_withdraws_is_lost_at_once_and_the_log_says_why(collecting: Manual) -> None:
    away(collecting, 4, Reason.SITE_WITHDRAWS)
    assert committed(collecting) == 1
    lost = {"round": 1, "member": "site-4", "outcome": "gone", "reason": "RND-612"}
    assert lost in collecting.outcomes("contribution")
    assert collecting.outcomes("left") == [{"session": 4, "member": "site-4", "reason": "RND-612"}]
    assert collecting.closed == {4: Reason.SITE_WITHDRAWS}
    log = b"".join(collecting.store.blobs.values())
    assert b'"kind":"left","member":"site-4","reason":612' in log


def test_a_site_that_withdrew_holds_up_no_further_round(collecting: Manual) -> None:
    away(collecting, 4, Reason.SITE_WITHDRAWS)
    opened = collecting.outcomes("round-opened")[-1]
    assert (opened["round"], opened["waiting_for"]) == (2, ["site-1", "site-2", "site-3"])


def test_a_site_that_has_been_gone_for_a_lease_is_waited_for_once_and_not_before_each_round(world: World) -> None:
    net = manual(world)
    net.perform(net.aggregator.detach(4, net.now))
    del net.sites[4]
    for connection in (1, 2, 3):
        net.contribute(connection, task(net, connection))
    pass_time(net, LEASE_S)
    assert committed(net) == 1
    assert [told["round"] for told in net.outcomes("round-opened")] == [1, 2]  # at once


def test_a_site_that_leaves_for_a_restart_holds_nobody_up_and_counts_when_it_is_back_in_time(world: World) -> None:
    net = manual(world)
    away(net, 4, Reason.SITE_LEAVES)
    for connection in (1, 2):
        net.contribute(connection, task(net, connection))
    back = net.join(SimpleSite(world, "site-4"))
    assert net.outcomes("awaited") == [{"round": 1, "member": "site-4"}]
    net.contribute(3, task(net, 3))
    assert committed(net) == 0
    net.contribute(back, task(net, back))
    assert committed(net) == 1


@pytest.mark.parametrize("reason", [0, int(Reason.CHAIN), 70_000, -1])
def test_a_site_cannot_be_away_for_a_reason_that_is_none(collecting: Manual, reason: int) -> None:
    collecting.say(4, {"type": "away", "reason": reason})
    assert collecting.closed == {4: Reason.MALFORMED}


# --- the clock


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_jumps_ends_no_round_and_everybody_proves_itself_anew(collecting: Manual, years: int) -> None:
    by = timedelta(days=365 * years)
    collecting.now += by
    collecting.perform(collecting.aggregator.clock_jumped(by, collecting.now))
    assert collecting.outcomes("clock-jumped") == [{"seconds": by.total_seconds()}]
    assert set(collecting.closed.values()) == {Reason.CLOCK_JUMPED}
    pass_time(collecting, LEASE_S - STEP_S)
    assert committed(collecting) == 0
    assert collecting.aggregator.state.value == "running"
    collecting.now -= by
    collecting.perform(collecting.aggregator.clock_jumped(-by, collecting.now))
    back = [collecting.join(SimpleSite(collecting.world, member)) for member in collecting.world.members]
    assert collecting.aggregator.state.value == "running"
    collecting.contribute(back[3], task(collecting, back[3]))
    assert committed(collecting) == 1
    counted = [told["member"] for told in collecting.outcomes("contribution") if told["outcome"] == "counted"]
    assert sorted(counted) == list(collecting.world.members)  # each once


def test_a_clock_that_stays_beyond_the_plan_for_a_lease_ends_the_run(collecting: Manual) -> None:
    by = timedelta(days=365)
    collecting.now += by
    collecting.perform(collecting.aggregator.clock_jumped(by, collecting.now))
    pass_time(collecting, LEASE_S + STEP_S)
    assert collecting.aggregator.state.value == "abandoned"
    assert len(collecting.outcomes("expired")) == 1


def test_a_clock_that_is_put_back_makes_no_deadline_longer(collecting: Manual) -> None:
    by = -timedelta(hours=1)
    collecting.now += by
    collecting.perform(collecting.aggregator.clock_jumped(by, collecting.now))
    pass_time(collecting, LEASE_S + STEP_S)
    gone = {"round": 1, "member": "site-4", "outcome": "gone", "reason": "CHN-407"}
    assert gone in collecting.outcomes("contribution")


# --- the state machine alone


def test_a_vigil_tells_of_silence_once_and_again_after_a_move() -> None:
    vigil = Vigil(timedelta(seconds=LEASE_S))
    vigil.begin("a", NOW)
    at = [NOW + timedelta(seconds=seconds) for seconds in (39, 40, 41, 60, 100)]
    assert vigil.newly_silent(["a", "b"], at[0]) == {}
    assert set(vigil.newly_silent(["a", "b"], at[1])) == {"a"}
    assert vigil.newly_silent(["a"], at[2]) == {}
    assert not vigil.hear("a", Sign("download", 0, 0, at[2]))  # the same again
    assert vigil.hear("a", Sign("train", 0, 0, at[3]))
    assert not vigil.hear("a", Sign("train", 1, 0, at[3]))
    assert set(vigil.newly_silent(["a"], at[4])) == {"a"}
    assert vigil.lost(["a"], at[3] + timedelta(seconds=LEASE_S - 1)) == {}
    assert set(vigil.lost(["a"], at[3] + timedelta(seconds=LEASE_S))) == {"a"}
