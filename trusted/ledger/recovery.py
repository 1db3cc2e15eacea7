"""From where a restarted aggregator may go on (docs/protocol.md §12.4). Trust zone: the aggregator.

The host kept log and sealed state, and may offer old, forked or no ones. What the witnesses remember decides: more than
half of them must have promised themselves to this aggregator, and it goes on from the newest that any of them cosigned.
Whatever a quorum cosigned is known to one of any quorum, so it cannot be passed over.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    quorum.require(frozenset(promises), "recovery")
    heard = [record for member, record in sorted(promises.items()) if member in quorum.members]
    if any(record.promised != epoch for record in heard):
        raise LedgerError(Reason.LEDGER_EPOCH, "recovery: a witness is not promised to this aggregator")
    found = max(
        ((one.pending.epoch.number, one.pending.head) for one in heard if one.pending is not None),
        key=lambda pair: (pair[0], pair[1].size),
        default=(0, EMPTY),
    )
    for record in heard:
        _require_agrees(record, found)
    return found[1]


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
