"""What a witness cosigns and what it refuses: its rules as a table, then each lie by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.logs import LOG_PUBLIC, ORIGIN, Log, epoch, fresh, state, states
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import EMPTY, Diverged, TreeHead, VerifiedCheckpoint, origin_of
from trusted.ledger.notes import Note
from trusted.ledger.witness import (
    MAX_RECORD_BYTES,
    Epoch,
    Pending,
    WitnessRecord,
    begin,
    certified,
    promise,
    witness,
)
from trusted.wire import sha256

LOG = states(1, 2, 3, 4, 5, 6)
FORK = LOG.branch(2).add(state(3, b"other"), state(4, b"other"), state(5, b"other"), state(6, b"other"))
FIRST, SECOND = epoch(1, "a"), epoch(2, "b")
STRANGER = Ed25519PrivateKey.from_private_bytes(sha256(b"a stranger"))


def record(*, promised: Epoch = FIRST, certified: int = 0, pending: int = 0, at: Epoch = FIRST) -> WitnessRecord:
    """A witness of LOG: what it holds as certified, and what it last cosigned, and when."""
    return replace(
        fresh(),
        promised=promised,
        certified=LOG.head(certified),
        pending=Pending(at, LOG.head(pending)) if pending else None,
    )


def outcome(call) -> object:
    """The reason of the refusal, or what was returned."""
    try:
        return call()
    except LedgerError as error:
        return error.reason


def proposed(held: WitnessRecord, log: Log, size: int, at: Epoch) -> object:
    """The size that is cosigned, or the reason why none is; the proof is the best that ``log`` can give."""
    result = outcome(lambda: witness(held, log.proposal(at, held.base(at).size, size)))
    return result if isinstance(result, Reason) else result.checkpoint.head.size


TABLE = [  # what the witness holds; what is proposed, of which log; what follows
    ("the first ever", record(), (FIRST, LOG, 2), 2),
    ("nothing was promised", fresh(), (FIRST, LOG, 2), Reason.LEDGER_EPOCH),
    ("the same epoch extends pending", record(pending=2), (FIRST, LOG, 4), 4),
    ("the same again", record(pending=4), (FIRST, LOG, 4), 4),
    ("the same again, certified", record(pending=4, certified=4), (FIRST, LOG, 4), 4),
    ("the same epoch shrinks", record(pending=4), (FIRST, LOG, 3), Reason.LEDGER_SHRINKS),
    ("the same epoch forks, longer", record(pending=4), (FIRST, FORK, 5), Reason.LEDGER_FORK),
    ("the same epoch forks, as long", record(pending=4), (FIRST, FORK, 4), Reason.LEDGER_FORK),
    ("the same epoch forks, shorter", record(pending=4), (FIRST, FORK, 3), Reason.LEDGER_SHRINKS),
    ("before the fork all is well", record(pending=2), (FIRST, FORK, 5), 5),
    ("a lower epoch", record(promised=SECOND, pending=2), (FIRST, LOG, 4), Reason.LEDGER_EPOCH),
    ("a higher epoch without promise", record(pending=2), (SECOND, LOG, 4), Reason.LEDGER_EPOCH),
    ("another aggregator of this epoch", record(pending=2), (epoch(1, "b"), LOG, 4), Reason.LEDGER_EPOCH),
    ("a higher epoch extends pending", record(promised=SECOND, pending=4, certified=2), (SECOND, LOG, 5), 5),
    ("a higher epoch drops pending", record(promised=SECOND, pending=4, certified=2), (SECOND, FORK, 3), 3),
    ("a higher epoch repeats certified", record(promised=SECOND, pending=4, certified=2), (SECOND, LOG, 2), 2),
    ("a higher epoch under certified", record(promised=SECOND, pending=4, certified=4), (SECOND, LOG, 3), Reason.LEDGER_SHRINKS),  # noqa: E501
    ("a higher epoch against certified", record(promised=SECOND, pending=4, certified=4), (SECOND, FORK, 5), Reason.LEDGER_FORK),  # noqa: E501
    ("a rewritten leaf under certified", record(promised=SECOND, pending=4, certified=3), (SECOND, FORK, 6), Reason.LEDGER_FORK),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("held", "offer", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table_of_the_witness(held, offer, expected):
    at, log, size = offer
    assert proposed(held, log, size, at) == expected


PROMISES = [  # (promised before, asked for, what follows)
    (None, FIRST, FIRST),
    (FIRST, FIRST, FIRST),
    (FIRST, SECOND, SECOND),
    (FIRST, epoch(9, "a"), epoch(9, "a")),
    (FIRST, epoch(1, "b"), Reason.LEDGER_EPOCH),
    (SECOND, FIRST, Reason.LEDGER_EPOCH),
    (SECOND, epoch(1, "b"), Reason.LEDGER_EPOCH),
    (SECOND, epoch(2, "a"), Reason.LEDGER_EPOCH),
]


@pytest.mark.parametrize(("before", "asked", "expected"), PROMISES)
def test_a_witness_promises_itself_upwards_and_to_one_aggregator(before, asked, expected):
    result = outcome(lambda: promise(replace(fresh(), promised=before), asked))
    assert (result if isinstance(result, Reason) else result.promised) == expected


def test_a_promise_forgets_nothing():
    held = record(pending=4, certified=2)
    assert promise(held, SECOND) == replace(held, promised=SECOND)


def test_a_proposal_repeated_gives_the_same_answer():
    proposal = LOG.proposal(FIRST, 2, 4)
    once = witness(record(pending=2), proposal)
    assert witness(once.record, proposal) == once


def test_what_is_cosigned_is_what_was_proposed():
    done = witness(record(), LOG.proposal(FIRST, 0, 4))
    assert done.checkpoint.text == LOG.note(4).text
    assert done.record.pending == Pending(FIRST, LOG.head(4))
    assert done.record.certified == EMPTY


@pytest.mark.parametrize(
    ("held", "log", "size", "at"),
    [
        (record(pending=4), FORK, 5, FIRST),
        (record(pending=4), FORK, 4, FIRST),
        (record(pending=4), LOG, 3, FIRST),
        (record(promised=SECOND, certified=4, pending=4), FORK, 6, SECOND),
    ],
)
def test_a_fork_or_shrink_names_both_checkpoints(held, log, size, at):
    with pytest.raises(Diverged) as caught:
        witness(held, log.proposal(at, held.base(at).size, size))
    assert (caught.value.held, caught.value.offered) == (LOG.head(4), log.head(size))
    for head in (LOG.head(4), log.head(size)):
        assert f"size {head.size}, root {head.root.hex()}" in str(caught.value)


def flip(data: bytes, at: int = 0) -> bytes:
    return bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]])


GOOD = LOG.proposal(FIRST, 3, 6)
LIES = [
    ("another log key", replace(GOOD, note=LOG.note(key=STRANGER).encode()), Reason.LEDGER_SIGNATURE),
    ("another run", replace(GOOD, note=LOG.note(origin=origin_of(bytes(32))).encode()), Reason.LEDGER_SIGNATURE),
    ("no note", replace(GOOD, note=b"note"), Reason.MALFORMED),
    ("another leaf", replace(GOOD, last_leaf=state(7)), Reason.LEDGER_PROOF),
    ("an earlier leaf", replace(GOOD, last_leaf=LOG.leaves[4], inclusion=LOG.tree.inclusion_proof(4)), Reason.LEDGER_PROOF),  # noqa: E501
    ("no inclusion", replace(GOOD, inclusion=()), Reason.LEDGER_PROOF),
    ("inclusion, a bit flipped", replace(GOOD, inclusion=(flip(GOOD.inclusion[0]), *GOOD.inclusion[1:])), Reason.LEDGER_PROOF),  # noqa: E501
    ("no consistency", replace(GOOD, consistency=()), Reason.LEDGER_FORK),
    ("consistency, one too many", replace(GOOD, consistency=(*GOOD.consistency, bytes(32))), Reason.LEDGER_FORK),
    ("consistency from another base", LOG.proposal(FIRST, 2, 6), Reason.LEDGER_FORK),
    ("consistency, a bit flipped", replace(GOOD, consistency=(flip(GOOD.consistency[0]), *GOOD.consistency[1:])), Reason.LEDGER_FORK),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("proposal", "reason"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_a_proposal_that_is_not_quite_right_is_refused(proposal, reason):
    held = record(pending=3)
    assert outcome(lambda: witness(held, GOOD)) == witness(held, GOOD)
    assert outcome(lambda: witness(held, proposal)) is reason


def test_an_empty_log_is_not_cosigned():
    empty = replace(GOOD, note=LOG.note(0).encode(), inclusion=(), consistency=())
    assert outcome(lambda: witness(record(), empty)) is Reason.LEDGER_PROOF


def test_a_log_that_does_not_end_with_its_state_is_not_cosigned():
    log = LOG.branch(3).add(leaves.encode(leaves.Committed(1)))
    assert outcome(lambda: witness(record(pending=3), log.proposal(FIRST, 3))) is Reason.LEDGER_LEAF
    unknown = LOG.branch(3).add(b'{"kind":"weights"}')
    assert outcome(lambda: witness(record(pending=3), unknown.proposal(FIRST, 3))) is Reason.LEDGER_LEAF


CERTIFIED = [  # (held, said to be certified, size of what is certified then)
    (record(pending=4), LOG.head(4), 4),
    (record(pending=4, certified=4), LOG.head(4), 4),
    (record(pending=4, certified=2), LOG.head(3), 2),
    (record(pending=4), LOG.head(5), 0),
    (record(pending=4, certified=2), FORK.head(4), 2),
    (record(), LOG.head(4), 0),
    (record(promised=SECOND, pending=4, certified=2), LOG.head(4), 2),
]


@pytest.mark.parametrize(("held", "head", "size"), CERTIFIED)
def test_only_what_a_witness_itself_cosigned_last_in_this_epoch_becomes_certified(held, head, size):
    assert certified(held, head) == (replace(held, certified=head) if size == head.size else held)
    assert certified(held, head).certified.size == size


def test_the_log_key_is_pinned_and_never_exchanged():
    other = STRANGER.public_key().public_bytes_raw()
    held = promise(begin(ORIGIN, other), FIRST)
    assert outcome(lambda: witness(held, LOG.proposal(FIRST, 0))) is Reason.LEDGER_SIGNATURE
    assert held.encode() != promise(begin(ORIGIN, LOG_PUBLIC), FIRST).encode()


@pytest.mark.parametrize(
    "held",
    [fresh(), record(), record(pending=4), record(promised=SECOND, pending=4, certified=2)],
    ids=["nothing", "promised", "pending", "all"],
)
def test_a_record_survives_being_stored(held):
    data = held.encode()
    assert len(data) <= MAX_RECORD_BYTES
    assert WitnessRecord.decode(data) == held
    for at in (0, len(data) // 2, len(data) - 1):
        with pytest.raises(ProtocolError):
            WitnessRecord.decode(data[:at])
        with pytest.raises(ProtocolError):
            WitnessRecord.decode(data[:at] + b" " + data[at:])


@given(st.binary(max_size=200))
def test_bytes_are_a_record_or_are_refused(data):
    with pytest.raises(ProtocolError):
        WitnessRecord.decode(data)


def test_a_refusal_changes_nothing():
    held = record(pending=4, certified=2)
    before = held.encode()
    for proposal in (FORK.proposal(FIRST, 4, 5), LOG.proposal(FIRST, 4, 3), LOG.proposal(SECOND, 2, 5)):
        assert isinstance(outcome(lambda proposal=proposal: witness(held, proposal)), Reason)
    assert held.encode() == before
    assert witness(held, LOG.proposal(FIRST, 4, 5)).checkpoint.head == LOG.head(5)


def test_a_verified_checkpoint_says_its_head():
    checkpoint = witness(record(), LOG.proposal(FIRST, 0, 4)).checkpoint
    assert VerifiedCheckpoint(checkpoint, Note(checkpoint.text, ())).head == TreeHead(4, LOG.tree.root(4))
