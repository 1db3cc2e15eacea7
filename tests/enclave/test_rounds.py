"""One round on its own: who is waited for, whose late answer still counts, and what another aggregator closed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordinator.enclave.fold import Contribution
from coordinator.enclave.record import Counted
from coordinator.enclave.rounds import Round, RoundEvent, RoundState
from tests.world import NOW
from trusted.blob import BlobKind, ContentKey
from trusted.errors import Reason, RoundError
from trusted.exchange import Exchanged
from trusted.wire import sha256

MEMBERS = ("site-1", "site-2", "site-3")
DEADLINE = NOW + timedelta(seconds=60)


@pytest.fixture
def collecting() -> Round:
    current = Round(1, MEMBERS, 2, DEADLINE)
    current.advance(RoundEvent.ANNOUNCED)
    return current


@pytest.fixture
def given_by(world):
    exchanged = Exchanged.of(world.plan)

    def given(member: str, number: int = 1) -> Contribution:
        header = exchanged.header(BlobKind.UPDATE, number, member)
        return Contribution(member, 1, bytes(16), header, ContentKey(bytes(32)), bytes(32), sha256(member.encode()))

    return given


def refusal(current: Round, contribution: Contribution) -> Reason:
    with pytest.raises(RoundError) as caught:
        current.count(contribution, {})
    return caught.value.reason


def test_who_is_away_is_waited_for_no_longer_and_the_round_closes(collecting, given_by):
    for member in MEMBERS[:2]:
        collecting.count(given_by(member), {})
    collecting.settle(NOW)
    assert collecting.state is RoundState.COLLECTING
    collecting.away["site-3"] = Reason.LEASE_EXPIRED
    assert collecting.waiting_for == ()
    collecting.settle(NOW)
    assert collecting.state is RoundState.CLOSED
    assert collecting.lost == {"site-3": Reason.LEASE_EXPIRED}


def test_who_is_away_counts_all_the_same_while_the_round_collects(collecting, given_by):
    collecting.away["site-3"] = Reason.LEASE_EXPIRED
    assert collecting.takes("site-3")
    collecting.count(given_by("site-3"), {})
    assert not collecting.takes("site-3")
    collecting.count(given_by("site-1"), {})
    collecting.count(given_by("site-2"), {})
    collecting.settle(NOW)
    assert set(collecting.counted) == set(MEMBERS)
    assert collecting.lost == {}


def test_with_everybody_away_the_round_waits_for_who_may_come_back_until_its_deadline(collecting):
    collecting.away.update(dict.fromkeys(MEMBERS, Reason.LEASE_EXPIRED))
    collecting.settle(NOW)
    assert collecting.state is RoundState.COLLECTING
    collecting.settle(collecting.deadline)
    assert collecting.state is RoundState.ABANDONED
    assert collecting.lost == dict.fromkeys(MEMBERS, Reason.LEASE_EXPIRED)


def test_who_comes_after_the_round_closed_hears_that_and_not_that_it_answered(collecting, given_by):
    """Whether it was away or late; who really answered before hears of a duplicate."""
    collecting.count(given_by("site-1"), {})
    collecting.count(given_by("site-2"), {})
    collecting.settle(DEADLINE)
    assert collecting.lost == {"site-3": Reason.ROUND_DEADLINE}
    assert refusal(collecting, given_by("site-3")) is Reason.ROUND_CLOSED
    assert refusal(collecting, given_by("site-1")) is Reason.DUPLICATE


def test_who_failed_answers_no_more(collecting, given_by):
    collecting.lose("site-1", Reason.APP_FAILED)
    assert not collecting.takes("site-1")
    assert refusal(collecting, given_by("site-1")) is Reason.DUPLICATE


@pytest.mark.parametrize(
    ("member", "number", "reason"),
    [("site-1", 2, Reason.ROUND_CLOSED), ("site-9", 1, Reason.NOT_IN_COHORT)],
)
def test_an_answer_to_another_round_or_from_outside_is_refused(collecting, given_by, member, number, reason):
    assert refusal(collecting, given_by(member, number)) is reason
    assert collecting.counted == {}


def test_nothing_is_taken_from_outside_or_before_and_after_collecting(collecting):
    assert collecting.takes("site-1")
    assert not collecting.takes("site-9")
    assert not Round(1, MEMBERS, 2, DEADLINE).takes("site-1")
    collecting.settle(DEADLINE)
    assert not collecting.takes("site-1")


def test_a_round_is_closed_as_an_earlier_aggregator_closed_it(collecting, given_by):
    """The same contributions, all of them to be read again, and the same lost; nobody is waited for."""
    counted = [Counted(given_by(member), {"auc": 0.5}) for member in MEMBERS[:2]]
    collecting.close_as(counted, {"site-3": Reason.APP_FAILED})
    assert collecting.state is RoundState.CLOSED
    assert set(collecting.counted) == collecting.unread == set(MEMBERS[:2])
    assert collecting.metrics == {member: {"auc": 0.5} for member in MEMBERS[:2]}
    assert collecting.lost == {"site-3": Reason.APP_FAILED}
    assert collecting.waiting_for == ()
    assert refusal(collecting, given_by("site-3")) is Reason.DUPLICATE


@pytest.mark.parametrize(
    "again",
    [
        lambda given: [Counted(given("site-1"), {}), Counted(given("site-1"), {})],
        lambda given: [Counted(given("site-9"), {})],
        lambda given: [Counted(given("site-1", 2), {})],
    ],
    ids=["twice", "an outsider", "another round"],
)
def test_a_round_that_no_aggregator_can_have_closed_is_refused(collecting, given_by, again):
    with pytest.raises(RoundError):
        collecting.close_as(again(given_by), {})


def test_a_closed_round_from_which_too_many_are_lost_is_abandoned(collecting, given_by):
    collecting.close_as([Counted(given_by(member), {}) for member in MEMBERS], {})
    collecting.exclude({"site-1": Reason.BLOB_OPEN})
    assert collecting.state is RoundState.CLOSED
    assert collecting.unread == {"site-2", "site-3"}
    collecting.exclude({"site-2": Reason.BLOB_OPEN})
    assert collecting.state is RoundState.ABANDONED
