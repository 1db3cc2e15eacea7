"""The table of a round, whole: what is in it follows it, and what is not raises (docs/protocol.md §7)."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from coordinator.enclave.rounds import ENDED, TABLE, Round, RoundEvent, RoundState
from tests.world import NOW
from trusted.errors import Reason, RoundError

PAIRS = list(product(RoundState, RoundEvent))


def round_in(state: RoundState) -> Round:
    return Round(1, {"site-1": bytes(16), "site-2": bytes(16)}, 2, NOW + timedelta(seconds=1), state)


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair not in TABLE])
def test_every_pair_absent_from_the_round_table_raises_and_changes_nothing(
    state: RoundState, event: RoundEvent
) -> None:
    current = round_in(state)
    with pytest.raises(RoundError) as caught:
        current.advance(event)
    assert caught.value.reason is Reason.ROUND_STATE
    assert current.state is state


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_every_pair_in_the_round_table_leads_where_it_says(state: RoundState, event: RoundEvent) -> None:
    current = round_in(state)
    current.advance(event)
    assert current.state is TABLE[state, event]


def test_the_round_table_is_the_one_of_the_protocol() -> None:
    """docs/protocol.md §7, row by row; a change here is a change of the protocol."""
    told = {(before.name, after.name) for (before, _), after in TABLE.items()}
    assert told == {
        ("OPEN", "COLLECTING"),
        ("COLLECTING", "COLLECTING"),
        ("COLLECTING", "CLOSED"),
        ("COLLECTING", "ABANDONED"),
        ("CLOSED", "CLOSED"),
        ("CLOSED", "ABANDONED"),
        ("CLOSED", "FOLDED"),
        ("FOLDED", "COMMITTED"),
    }


def test_nothing_follows_an_ended_round() -> None:
    assert not {state for state, _ in TABLE} & ENDED


def test_every_state_is_reached_from_open() -> None:
    reached = {RoundState.OPEN}
    for _ in RoundState:
        reached |= {after for (before, _), after in TABLE.items() if before in reached}
    assert reached == set(RoundState)


def test_the_minimum_is_what_separates_folding_from_abandoning() -> None:
    early, late = round_in(RoundState.COLLECTING), round_in(RoundState.COLLECTING)
    early.settle(NOW)
    assert early.state is RoundState.COLLECTING
    late.settle(NOW + timedelta(seconds=1))
    assert late.state is RoundState.ABANDONED
    assert set(late.lost.values()) == {Reason.ROUND_DEADLINE}
