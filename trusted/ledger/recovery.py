"""From where a restarted aggregator may go on (docs/protocol.md §12.4). Trust zone: the aggregator.

The host kept log and sealed state, and may offer old, forked or no ones. What the witnesses remember decides: more than
half of them must have promised themselves to this aggregator, and it goes on from the newest that any of them cosigned.
Whatever a quorum cosigned is known to one of any quorum, so it cannot be passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import EMPTY, Diverged, Quorum, TreeHead
from trusted.ledger.merkle import Tree, leaf_hash
from trusted.ledger.witness import Epoch, WitnessRecord
from trusted.wire import sha256


def newest(promises: Mapping[str, WitnessRecord], epoch: Epoch, quorum: Quorum) -> TreeHead:
    """The log to go on from; empty if no witness knows any. ``promises`` are members' records, promised to ``epoch``.

    Of several, that of the highest epoch, and in it the largest: only what is cosigned in later epochs extends what a
    quorum cosigned before.

    Raises:
        LedgerError: LEDGER_QUORUM: too few promised. LEDGER_EPOCH: one is promised to somebody else.
        Diverged: LEDGER_FORK: two witnesses cosigned different logs in one epoch.
    """
    heard = list(_heard(promises, epoch, quorum).values())
    found = max(
        ((one.pending.epoch.number, one.pending.head) for one in heard if one.pending is not None),
        key=lambda pair: (pair[0], pair[1].size),
        default=(0, EMPTY),
    )
    for record in heard:
        _require_agrees(record, found)
    return found[1]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A log that a quorum could go on from: that quorum holds nothing newer than ``head``; empty: it knows no log.

    ``known`` are its members, and what the log must hold for each: what it knows to be certified, and what it cosigned
    in the epoch of ``head``. ``remembering`` is how many of them know any log at all.
    """

    head: TreeHead
    epoch: int
    known: Mapping[str, tuple[TreeHead, ...]]
    remembering: int


def candidates(promises: Mapping[str, WitnessRecord], epoch: Epoch, quorum: Quorum) -> tuple[Candidate, ...]:
    """All that may be gone on from, the newest first: a later one, where the host can give nothing for those before.

    A witness that lies names a log that nobody has. Those who hold nothing newer than another log can go on from that,
    if they are a quorum: a host chooses which quorum is heard, so to hear a part of those present is no weaker.

    Raises:
        LedgerError: as :func:`newest`, where no quorum is of one mind.
    """
    heard = _heard(promises, epoch, quorum)
    ranks = {(0, EMPTY)} | {(one.pending.epoch.number, one.pending.head) for one in heard.values() if one.pending}
    found = []
    for rank in sorted(ranks, key=lambda rank: (rank[0], rank[1].size, rank[1].root), reverse=True):
        within = {member: record for member, record in heard.items() if _holds_nothing_newer(record, rank)}
        if len(within) >= quorum.needed:
            known = {member: _known(record, rank[0]) for member, record in within.items()}
            remembering = sum(record.pending is not None for record in within.values())
            found.append(Candidate(rank[1], rank[0], known, remembering))
    if not found:
        newest(promises, epoch, quorum)  # says which two logs stand against each other
    return tuple(found)


def require_known(candidate: Candidate, log: Tree, quorum: Quorum) -> None:
    """Require that ``log``, up to the candidate's head, holds what a quorum of the candidate's witnesses knows.

    Raises:
        Diverged: LEDGER_FORK: it does not, and the witnesses for whom it does are no quorum.
    """
    strangers = {
        member: head for member, heads in candidate.known.items() for head in heads if log.root(head.size) != head.root
    }
    if strangers and len(candidate.known) - len(strangers) < quorum.needed:
        held = strangers[min(strangers)]
        offered = TreeHead(held.size, log.root(held.size))
        raise Diverged(Reason.LEDGER_FORK, "state: witnesses know another log", held=held, offered=offered)


def _heard(promises: Mapping[str, WitnessRecord], epoch: Epoch, quorum: Quorum) -> dict[str, WitnessRecord]:
    quorum.require(frozenset(promises), "recovery")
    heard = {member: record for member, record in sorted(promises.items()) if member in quorum.members}
    if any(record.promised != epoch for record in heard.values()):
        raise LedgerError(Reason.LEDGER_EPOCH, "recovery: a witness is not promised to this aggregator")
    return heard


def _known(record: WitnessRecord, number: int) -> tuple[TreeHead, ...]:
    pending = record.pending
    cosigned = pending is not None and pending.epoch.number == number
    return (record.certified, pending.head) if pending is not None and cosigned else (record.certified,)


def _holds_nothing_newer(record: WitnessRecord, rank: tuple[int, TreeHead]) -> bool:
    pending = record.pending
    if pending is not None and (pending.epoch.number, pending.head.size) > (rank[0], rank[1].size):
        return False
    try:
        _require_agrees(record, rank)
    except Diverged:
        return False
    return True


def _require_agrees(record: WitnessRecord, found: tuple[int, TreeHead]) -> None:
    """Refuse where a witness saw what cannot stand beside ``found``, as far as sizes alone tell."""
    number, head = found
    known = [record.certified]
    if record.pending is not None and record.pending.epoch.number == number:
        known.append(record.pending.head)
    for other in known:
        if other.size > head.size or (other.size == head.size and other != head):
            raise Diverged(Reason.LEDGER_FORK, "recovery: witnesses cosigned two logs", held=other, offered=head)


def require_state(witnessed: TreeHead, log: Tree, last_leaf: bytes | None, sealed: bytes | None) -> leaves.State:
    """The state leaf that stands for ``sealed``, the state to go on from; all but ``witnessed`` comes from the host.

    ``log`` is made of the leaves that the host offers, ``last_leaf`` is the one at ``witnessed.size - 1``.

    Raises:
        LedgerError: STATE_MISSING: the host offers no log or state. STATE_ROLLBACK: an older log, or another state.
        Diverged: LEDGER_FORK: another log of the same size.
    """
    if last_leaf is None or sealed is None:
        raise LedgerError(Reason.STATE_MISSING, "state: witnesses cosigned one, and the host has none")
    if log.size < witnessed.size:
        offered = TreeHead(log.size, log.root())
        raise Diverged(Reason.STATE_ROLLBACK, "state: older than what was cosigned", held=witnessed, offered=offered)
    offered = TreeHead(witnessed.size, log.root(witnessed.size))
    if offered != witnessed:
        raise Diverged(Reason.LEDGER_FORK, "state: of another log than was cosigned", held=witnessed, offered=offered)
    if log.hash_of(witnessed.size - 1) != leaf_hash(last_leaf):
        raise LedgerError(Reason.STATE_ROLLBACK, "state: its leaf is not the one that was cosigned")
    leaf = leaves.parse(last_leaf)
    if not isinstance(leaf, leaves.State):
        raise LedgerError(Reason.LEDGER_LEAF, "state: the last leaf is no state leaf")
    if sha256(sealed) != leaf.sealed_sha256:
        raise LedgerError(Reason.STATE_ROLLBACK, "state: not the one that was cosigned")
    return leaf
