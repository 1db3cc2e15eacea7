"""A restarted aggregator goes on from the newest that a quorum cosigned; a host that offers anything else is named."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from tests.ledger.logs import MEMBERS, QUORUM, Log, epoch, fresh, sealed_state, state, states
from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import EMPTY, Diverged, Quorum, TreeHead
from trusted.ledger.recovery import candidates, newest, require_known, require_state
from trusted.ledger.witness import Epoch, Pending, WitnessRecord

LOG = states(1, 2, 3, 4, 5, 6)
FORK = LOG.branch(2).add(state(3, b"other"), state(4, b"other"), state(5, b"other"))
OLD, OLDER, MINE = epoch(2, "b"), epoch(1, "a"), epoch(3, "c")


def promised(log: Log = LOG, *, pending: int = 0, at: Epoch = OLD, certified: int = 0) -> WitnessRecord:
    held = Pending(at, log.head(pending)) if pending else None
    return replace(fresh(), promised=MINE, certified=log.head(certified), pending=held)


def found(*records: WitnessRecord, quorum: Quorum = QUORUM) -> object:
    try:
        return newest(dict(zip(MEMBERS, records, strict=False)), MINE, quorum)
    except LedgerError as error:
        return error.reason


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([promised()] * 3, EMPTY),
        ([promised(pending=4), promised(), promised()], LOG.head(4)),
        ([promised(pending=4), promised(pending=5), promised(pending=3)], LOG.head(5)),
        ([promised(pending=5, at=OLDER), promised(pending=3), promised()], LOG.head(3)),
        ([promised(FORK, pending=5, at=OLDER), promised(pending=4, certified=2), promised()], LOG.head(4)),
        ([promised(pending=4, certified=4), promised(pending=5), promised(pending=4)], LOG.head(5)),
        ([promised(pending=4)] * 2, Reason.LEDGER_QUORUM),
        ([], Reason.LEDGER_QUORUM),
        ([replace(promised(pending=4), promised=OLD), promised(), promised()], Reason.LEDGER_EPOCH),
        ([replace(promised(pending=4), promised=None), promised(), promised()], Reason.LEDGER_EPOCH),
        ([promised(pending=4), promised(FORK, pending=4), promised()], Reason.LEDGER_FORK),
        ([promised(pending=5, certified=5, at=OLDER), promised(FORK, pending=4), promised()], Reason.LEDGER_FORK),
    ],
    ids=[
        "nothing yet", "one knows", "the largest", "a later epoch", "an uncertified fork", "certified", "too few",
        "none", "promised to another", "not promised", "two logs in one epoch", "certified, and passed over",
    ],
)  # fmt: skip
def test_the_table_of_recovery(records, expected):
    assert found(*records) == expected


def test_who_is_no_witness_is_not_heard():
    assert found(promised(pending=4), promised(), promised(), quorum=Quorum(MEMBERS[2:], 2)) is Reason.LEDGER_QUORUM
    heard = newest({"guest": promised(pending=6)} | dict.fromkeys(MEMBERS[:3], promised(pending=4)), MINE, QUORUM)
    assert heard == LOG.head(4)


def choices(*records: WitnessRecord) -> list[object]:
    return [one.head for one in candidates(dict(zip(MEMBERS, records, strict=False)), MINE, QUORUM)]


LIE = replace(promised(), pending=Pending(OLD, TreeHead(1 << 30, bytes(32))))
CERTIFIED_LIE = replace(promised(pending=4), certified=TreeHead(1 << 30, bytes(32)))


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([promised()] * 3, [EMPTY]),
        ([promised(pending=4)] * 5, [LOG.head(4)]),
        ([promised(pending=5), *[promised(pending=4)] * 2], [LOG.head(5)]),
        ([promised(pending=5), *[promised(pending=4)] * 3], [LOG.head(5), LOG.head(4)]),
        ([promised(pending=5), *[promised(pending=4)] * 2, promised()], [LOG.head(5), LOG.head(4)]),
        ([LIE, *[promised()] * 3], [LIE.pending.head, EMPTY]),
        ([LIE, *[promised(pending=4)] * 3], [LIE.pending.head, LOG.head(4)]),
        ([CERTIFIED_LIE, *[promised(pending=4)] * 3], [LOG.head(4)]),
        ([promised(FORK, pending=4), *[promised(pending=4)] * 3], [LOG.head(4)]),
        ([promised(pending=5), *[promised(pending=4, certified=4)] * 3, promised()], [LOG.head(5), LOG.head(4)]),
        ([promised(pending=4, certified=4), *[promised(pending=4)] * 2, promised(), promised()], [LOG.head(4)]),
    ],
    ids=[
        "nothing yet", "all agree", "too few without the newest", "enough without it", "one of them forgot",
        "a lie at the beginning", "a lie", "a lie that is certified", "a fork", "certified", "nothing but certified",
    ],
)  # fmt: skip
def test_whoever_holds_nothing_newer_may_go_on_if_they_are_a_quorum(records, expected):
    assert choices(*records) == expected


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([promised(pending=4)] * 2, Reason.LEDGER_QUORUM),
        ([replace(promised(pending=4), promised=OLD), promised(), promised()], Reason.LEDGER_EPOCH),
        ([promised(pending=4), promised(FORK, pending=4), promised()], Reason.LEDGER_FORK),
        ([CERTIFIED_LIE, promised(), promised()], Reason.LEDGER_FORK),
    ],
    ids=["too few", "promised to another", "two logs", "a lie among three"],
)
def test_where_no_quorum_is_of_one_mind_nothing_is_gone_on_from(records, reason):
    with pytest.raises(LedgerError) as caught:
        choices(*records)
    assert caught.value.reason is reason


def test_what_a_quorum_certified_is_in_every_candidate():
    """Three of five certified four leaves; whichever three of the five are of one mind, one of them knows."""
    knows, not_yet = promised(pending=4, certified=4), promised(pending=3)
    for records in permutations([knows, knows, knows, not_yet, not_yet]):
        assert choices(*records) == [LOG.head(4)]
        assert choices(*records[:4]) == [LOG.head(4)]


def known_in(log: Log, *records: WitnessRecord) -> None:
    candidate = candidates(dict(zip(MEMBERS, records, strict=False)), MINE, QUORUM)[0]
    require_known(candidate, log.tree, QUORUM)


def test_a_log_that_lacks_what_a_quorum_knows_is_refused_and_one_liar_is_not_enough():
    newer, other = promised(pending=5), replace(promised(pending=3, at=OLDER), certified=FORK.head(3))
    known_in(LOG, newer, newer, newer, other)
    with pytest.raises(Diverged) as caught:
        known_in(LOG, newer, newer, other)
    assert (caught.value.reason, caught.value.held) == (Reason.LEDGER_FORK, FORK.head(3))
    with pytest.raises(Diverged):
        known_in(FORK, newer, newer, promised(pending=3, certified=3, at=OLDER), promised())


def offered(log: Log, size: int, sealed: bytes | None) -> leaves.State:
    return require_state(LOG.head(5), log.tree, log.leaves[size - 1] if size else None, sealed)


def test_the_witnessed_state_is_gone_on_from():
    assert offered(LOG, 5, sealed_state(5)).sequence == 5
    assert offered(LOG.branch(5), 5, sealed_state(5)).sequence == 5


@pytest.mark.parametrize(
    ("log", "size", "sealed", "reason"),
    [
        (LOG.branch(4), 4, sealed_state(4), Reason.STATE_ROLLBACK),
        (LOG, 4, sealed_state(4), Reason.STATE_ROLLBACK),
        (LOG, 6, sealed_state(6), Reason.STATE_ROLLBACK),
        (LOG, 5, sealed_state(4), Reason.STATE_ROLLBACK),
        (LOG, 5, b"", Reason.STATE_ROLLBACK),
        (Log(), 0, None, Reason.STATE_MISSING),
        (LOG, 5, None, Reason.STATE_MISSING),
        (LOG, 0, sealed_state(5), Reason.STATE_MISSING),
        (FORK, 5, sealed_state(5), Reason.LEDGER_FORK),
    ],
    ids=["older", "its leaf", "newer", "other state", "cut", "deleted", "no state", "no leaf", "a fork"],
)
def test_any_other_state_is_refused(log, size, sealed, reason):
    with pytest.raises(LedgerError) as caught:
        offered(log, size, sealed)
    assert caught.value.reason is reason


def test_a_rollback_names_both_checkpoints():
    with pytest.raises(Diverged) as caught:
        offered(LOG.branch(4), 4, sealed_state(4))
    assert (caught.value.held, caught.value.offered) == (LOG.head(5), LOG.head(4))


def test_a_log_whose_last_leaf_is_no_state_is_refused():
    log = Log().add(leaves.encode(leaves.Committed(1)))
    with pytest.raises(LedgerError) as caught:
        require_state(log.head(), log.tree, log.leaves[-1], b"")
    assert caught.value.reason is Reason.LEDGER_LEAF
