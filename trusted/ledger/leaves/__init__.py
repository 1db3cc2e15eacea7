"""What the log of a run says: one typed leaf for each thing that happened (docs/protocol.md §12.2).

Trust zone: every TEE, consoles and auditors.

A leaf is canonical JSON with a ``kind``. Everything in it is public: members, digests, numbers, reasons; no weights, no
keys but public ones, no values of anybody's data. Who serves a leaf may have made it up: its place in the log, under a
witnessed checkpoint, is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from trusted.errors import LedgerError, Reason
from trusted.ledger.leaves.form import MAX_LEAF_BYTES, Leaf, encode
from trusted.ledger.leaves.members import Admitted, Evicted, Genesis, Left, Refused
from trusted.ledger.leaves.rounds import Abandoned, Closed, Committed, Counted, Lost, Opened
from trusted.ledger.leaves.run import Ended, Outcome, Recovered, Released, ServerApp, Spent, State
from trusted.wire import Fields, decode_json

__all__ = [
    "MAX_LEAF_BYTES",
    "Abandoned",
    "Admitted",
    "Closed",
    "Committed",
    "Counted",
    "Ended",
    "Evicted",
    "Genesis",
    "Leaf",
    "Left",
    "Lost",
    "Opened",
    "Outcome",
    "Recovered",
    "Refused",
    "Released",
    "ServerApp",
    "Spent",
    "State",
    "encode",
    "parse",
]

_READERS: Mapping[str, Callable[[Fields], Leaf]] = MappingProxyType(
    {
        Genesis.KIND: Genesis.read,
        Admitted.KIND: Admitted.read,
        Refused.KIND: Refused.read,
        Left.KIND: Left.read,
        Evicted.KIND: Evicted.read,
        Opened.KIND: Opened.read,
        Counted.KIND: Counted.read,
        Closed.KIND: Closed.read,
        Committed.KIND: Committed.read,
        Abandoned.KIND: Abandoned.read,
        State.KIND: State.read,
        Recovered.KIND: Recovered.read,
        ServerApp.KIND: ServerApp.read,
        Spent.KIND: Spent.read,
        Released.KIND: Released.read,
        Ended.KIND: Ended.read,
    }
)


def parse(data: bytes) -> Leaf:
    """The leaf that ``data`` spells, in its one spelling.

    Raises:
        LedgerError: LEDGER_LEAF: of no known kind. WireError, DocumentError: not as its kind must be.
    """
    with Fields(decode_json(data, max_bytes=MAX_LEAF_BYTES), "leaf") as fields:
        kind = fields.text("kind", max_length=32)
        if kind not in _READERS:
            raise LedgerError(Reason.LEDGER_LEAF, "leaf.kind: of no known kind")
        return _READERS[kind](fields)
