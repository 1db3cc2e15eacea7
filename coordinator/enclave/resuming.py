"""Going on from what witnesses remember: the host gives log and state back, and they are checked.

Trust zone: aggregator TEE.
The host may give an older one, a forked one, another run's, or none. Each is refused for its reason, and the run waits
until it gives the right one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold import Contribution, ContributionLost, Opened, State, in_reads
from coordinator.enclave.ports import HostStore
from coordinator.enclave.record import MAX_SEALED_BYTES, RunRecord, SealedVector
from coordinator.enclave.release import History
from coordinator.enclave.witnesses import Remembered
from trusted.encoding import Vector
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.exchange import AGGREGATOR, Exchanged
from trusted.ledger import leaves
from trusted.ledger.checkpoint import TreeHead
from trusted.ledger.leaves import Leaf
from trusted.ledger.merkle import Tree
from trusted.ledger.recovery import require_known, require_state
from trusted.ledger.segments import MAX_SEGMENT_BYTES, read_log

_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run as it stood at the newest checkpoint that was witnessed: its round starts from ``state``."""

    head: TreeHead
    record: RunRecord
    sequence: int
    state_blob: bytes
    tree: Tree = field(repr=False)
    said: tuple[Leaf, ...] = field(repr=False)
    state: State = field(repr=False)
    base: Vector | None = field(repr=False)

    def history(self) -> History:
        """The rounds that were committed, and whose contributions they hold."""
        closed: dict[int, tuple[str, ...]] = {}
        history = History()
        for leaf in self.said:
            if isinstance(leaf, leaves.Closed):
                closed[leaf.round] = leaf.counted
            elif isinstance(leaf, leaves.Committed):
                history.contributions.append((leaf.round, closed.get(leaf.round, ())))
        return history

    @property
    def outcome(self) -> leaves.Outcome | None:
        """How the run ended, if it has."""
        return next((leaf.outcome for leaf in reversed(self.said) if isinstance(leaf, leaves.Ended)), None)


def resume(exchanged: Exchanged, store: HostStore, remembered: Remembered) -> Resumed | ProtocolError:
    """What the host gives back, if it is the newest that was witnessed; else why it is not."""
    plan, head = exchanged.plan, remembered.head
    try:
        log = read_log(plan, head, lambda name: read_whole(store, name, MAX_SEGMENT_BYTES))
        last, tree = leaves.parse(log.leaves[-1]), log.tree()
        require_known(remembered.candidate, tree, remembered.quorum)
        blob = last.blob if isinstance(last, leaves.State) else b""
        sealed = read_whole(store, blob, MAX_SEALED_BYTES) or None if blob else None
        leaf = require_state(head, tree, log.leaves[-1], sealed)
        record = RunRecord.decode(remembered.key.open(plan, leaf.sequence, sealed or b""), exchanged)
        typed = tuple(map(leaves.parse, log.leaves))
        if any(isinstance(leaf, leaves.Ended) for leaf in typed):  # its blobs are gone, and nobody needs them
            state, base = State(np.empty(0, dtype="<f4")), None
        else:
            model, *moments = (_read_vector(exchanged, store, sealed) for sealed in (record.kept, *record.moments))
            state = State(model, tuple(moments))
            base = None if record.base is None else _read_vector(exchanged, store, record.base)
    except ContributionLost as lost:
        return LedgerError(Reason.STATE_MISSING, f"state: its model cannot be read ({lost.error.reason.code})")
    except ProtocolError as error:
        return error
    return Resumed(head, record, leaf.sequence, leaf.blob, tree, typed, state, base)


def read_whole(store: HostStore, blob: bytes, limit: int) -> bytes:
    """All that the host holds under ``blob``; empty if it holds none.

    Raises:
        LedgerError: TOO_LARGE: more than ``limit``.
    """
    data = bytearray()
    while True:
        read = store.read(blob, len(data), _READ_BYTES)
        if not len(read):
            return bytes(data)
        data += read
        if len(data) > limit:
            raise LedgerError(Reason.TOO_LARGE, "state: larger than any that this run has")


def _read_vector(exchanged: Exchanged, store: HostStore, sealed: SealedVector) -> Vector:
    header = sealed.header(exchanged)
    given = Contribution(AGGREGATOR, 1, sealed.blob, header, sealed.key, sealed.signer)
    vector = np.empty(header.elements, dtype="<f4")
    opened = Opened(given, store)
    scratch = np.empty(min(header.elements, header.encoding.piece_elements), dtype="<f4")
    for pieces in in_reads(header):
        for piece, values in opened.open_each(pieces, scratch):
            vector[piece.start : piece.start + piece.elements] = values
    return vector
