"""What a witness remembers of a log, and what it will cosign. Trust zone: every TEE; no I/O, no clock.

The host may hold back, repeat and reorder everything, start old aggregators and several at once. The rules:

1. A witness promises itself to one aggregator at a time, by a number, the *epoch*; to a lower epoch, or to another
   aggregator of the same epoch, never again.
2. In the epoch of what it last cosigned (*pending*) it cosigns only what extends that.
3. In a higher epoch it cosigns only what extends the checkpoint that it knows a quorum to have cosigned (*certified*).
   Its pending one is dropped: the new aggregator was told of it by this witness's promise, and has gone on from
   the newest that a quorum of promises names (:mod:`trusted.ledger.recovery`).
4. Each cosigned checkpoint ends with a `state` leaf, so that sealed state is witnessed with it.
5. The caller stores the new record before anything of the answer leaves. Asked the same again, it answers the same.

Then two checkpoints that quorums of honest witnesses cosigned for attested aggregators lie on one line, whatever the
host does. The first log key that a witness learns, from an attested aggregator, is the only one it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import (
    EMPTY,
    Checkpoint,
    Diverged,
    TreeHead,
    log_key,
    require_origin,
    verify_checkpoint,
)
from trusted.ledger.merkle import HASH_BYTES, MAX_SIZE, Proof, leaf_hash, verify_consistency, verify_inclusion
from trusted.ledger.notes import KEY_BYTES, VerifierKey
from trusted.wire import Fields, decode_json, encode_json, exactly

BOOT_BYTES = 16
MAX_EPOCH = 1 << 31
MAX_RECORD_BYTES = 2048
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """One aggregator's time: a number that only grows, and the boot id (16 bytes) that its attestation binds."""

    number: int
    boot: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, for the document that holds them."""
        return {"number": self.number, "boot": self.boot.hex()}

    @classmethod
    def read(cls, value: Any, name: str) -> Epoch:
        """The epoch in a document."""
        with Fields(value, name) as fields:
            return cls(fields.integer("number", low=1, high=MAX_EPOCH), fields.octets("boot", BOOT_BYTES))


@dataclass(frozen=True, slots=True)
class Pending:
    """What a witness last cosigned, and in which epoch."""

    epoch: Epoch
    head: TreeHead


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an aggregator asks a witness to cosign.

    Attributes:
        epoch: the proposer's, from its attested session.
        note: the checkpoint, signed by the log.
        last_leaf: leaf ``size - 1``, a `state` leaf.
        inclusion: that it is there.
        consistency: from :meth:`WitnessRecord.base` of that epoch; empty where that is empty, or the same checkpoint.
    """

    epoch: Epoch
    note: bytes
    last_leaf: bytes
    inclusion: Proof
    consistency: Proof


@dataclass(frozen=True, slots=True)
class WitnessRecord:
    """All that a witness must not forget. It is sealed where it is stored, for integrity: nothing in it is secret."""

    origin: str
    log_public_key: bytes
    promised: Epoch | None = None
    certified: TreeHead = EMPTY
    pending: Pending | None = None

    def __post_init__(self) -> None:
        require_origin(self.origin)
        exactly(self.log_public_key, KEY_BYTES, "witness.log_key")

    @property
    def key(self) -> VerifierKey:
        """The log's key, pinned when the record was begun."""
        return log_key(self.origin, self.log_public_key)

    def base(self, epoch: Epoch) -> TreeHead:
        """What a proposal of ``epoch`` must extend: the caller of a new aggregator asks before it makes a proof."""
        return self.pending.head if self.pending is not None and self.pending.epoch == epoch else self.certified

    def encode(self) -> bytes:
        """Canonical bytes, at most 2 KiB."""
        pending = self.pending
        return encode_json(
            {
                "version": _VERSION,
                "origin": self.origin,
                "log_key": self.log_public_key.hex(),
                "promised": None if self.promised is None else self.promised.to_json(),
                "certified": _head_json(self.certified),
                "pending": None if pending is None else {"epoch": pending.epoch.to_json(), **_head_json(pending.head)},
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> WitnessRecord:
        """The record that ``data`` spells.

        Raises:
            WireError, LedgerError: it spells none.
        """
        with Fields(decode_json(data, max_bytes=MAX_RECORD_BYTES), "witness") as fields:
            fields.integer("version", low=_VERSION, high=_VERSION)
            promised, pending = fields.take("promised", dict, type(None)), fields.take("pending", dict, type(None))
            return cls(
                origin=fields.text("origin", max_length=128),
                log_public_key=fields.octets("log_key", KEY_BYTES),
                promised=None if promised is None else Epoch.read(promised, "witness.promised"),
                certified=_read_head(fields.take("certified", dict), "witness.certified"),
                pending=None if pending is None else _read_pending(pending),
            )


@dataclass(frozen=True, slots=True)
class Cosigning:
    """The record to store first, and the checkpoint to cosign then (:meth:`Checkpoint.cosign`)."""

    record: WitnessRecord
    checkpoint: Checkpoint


def begin(origin: str, log_public_key: bytes) -> WitnessRecord:
    """The record of a witness that knows nothing yet. The key is told by an attested aggregator, in its session."""
    return WitnessRecord(origin, log_public_key)


def promise(record: WitnessRecord, epoch: Epoch) -> WitnessRecord:
    """The record once the witness has promised itself to ``epoch``; asked again, the same.

    The answer to the aggregator is this record's ``certified`` and ``pending``.

    Raises:
        LedgerError: LEDGER_EPOCH: promised to a higher one, or to another aggregator of the same.
    """
    if record.promised is not None and record.promised != epoch and epoch.number <= record.promised.number:
        raise LedgerError(Reason.LEDGER_EPOCH, "epoch: this witness is promised to another, later aggregator")
    return replace(record, promised=epoch)


def witness(record: WitnessRecord, proposal: Proposal) -> Cosigning:
    """What to store, and what to cosign. Nothing changes where it raises.

    1. The epoch is the promised one. 2. The log's key signed. 3. The last leaf is there, and a `state` leaf. 4. It
    extends what this witness holds.

    Raises:
        Diverged: LEDGER_FORK, LEDGER_SHRINKS, naming both checkpoints.
        LedgerError: LEDGER_EPOCH, LEDGER_SIGNATURE, LEDGER_PROOF, LEDGER_LEAF, MALFORMED.
    """
    if proposal.epoch != record.promised:
        raise LedgerError(Reason.LEDGER_EPOCH, "epoch: this witness is not promised to this aggregator")
    offered = verify_checkpoint(proposal.note, record.key)
    _require_state(offered.head, proposal)
    _require_extends(record.base(proposal.epoch), offered.head, proposal.consistency)
    return Cosigning(replace(record, pending=Pending(proposal.epoch, offered.head)), offered.checkpoint)


def certified(record: WitnessRecord, head: TreeHead) -> WitnessRecord:
    """The record once the attested aggregator of the promised epoch says that a quorum cosigned ``head``.

    Its code is measured, so its word stands among witnesses, whom a certificate of a thousand lines each round would
    drown; auditors check the lines. Only what this witness itself cosigned last becomes certified.
    """
    pending = record.pending
    if pending is not None and pending.epoch == record.promised and pending.head == head:
        return replace(record, certified=head)
    return record


def repinned(record: WitnessRecord, log_public_key: bytes, epoch: Epoch) -> WitnessRecord:
    """The record for the log of ``log_public_key``, as the attested aggregator of the promised ``epoch`` names it.

    A log of which nothing was certified may have died with its first aggregator, seen by few; a quorum of promises then
    knew none, and the next one began another. Whatever was certified pins its key for ever.
    """
    if log_public_key == record.log_public_key or record.certified != EMPTY or epoch != record.promised:
        return record
    if record.pending is not None and record.pending.epoch.number >= epoch.number:
        return record
    return replace(begin(record.origin, log_public_key), promised=record.promised)


def _require_state(head: TreeHead, proposal: Proposal) -> None:
    verify_inclusion(
        proposal.inclusion, index=head.size - 1, size=head.size, leaf=leaf_hash(proposal.last_leaf), root=head.root
    )
    if not isinstance(leaves.parse(proposal.last_leaf), leaves.State):
        raise LedgerError(Reason.LEDGER_LEAF, "proposal: the last leaf is no state leaf")


def _require_extends(held: TreeHead, offered: TreeHead, proof: Proof) -> None:
    """Refuse a log that is not ``held``, and more.

    A proof that fails is a fork to this witness: an attested aggregator with the log it signs has the right one.
    """
    if offered == held:  # asked again; the proof is from what was held before
        return
    if offered.size < held.size:
        raise Diverged(Reason.LEDGER_SHRINKS, "log: shorter than what was cosigned", held=held, offered=offered)
    try:
        verify_consistency(proof, old=held.size, old_root=held.root, new=offered.size, new_root=offered.root)
    except LedgerError as error:
        detail = f"log: does not extend what was cosigned ({error.detail})"
        raise Diverged(Reason.LEDGER_FORK, detail, held=held, offered=offered) from None


def _head_json(head: TreeHead) -> dict[str, Any]:
    return {"size": head.size, "root": head.root.hex()}


def _read_head(value: Any, name: str) -> TreeHead:
    with Fields(value, name) as fields:
        return TreeHead(fields.integer("size", low=0, high=MAX_SIZE), fields.octets("root", HASH_BYTES))


def _read_pending(value: Any) -> Pending:
    with Fields(value, "witness.pending") as fields:
        epoch = Epoch.read(fields.take("epoch", dict), "witness.pending.epoch")
        head = TreeHead(fields.integer("size", low=1, high=MAX_SIZE), fields.octets("root", HASH_BYTES))
    return Pending(epoch, head)
