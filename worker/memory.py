"""What a worker remembers of its run, and what it says by it: promises, cosignatures, the run's recovery key.

Trust zone: worker TEE. Rules: what is remembered is kept before the answer leaves; a worker that forgot says so and
begins anew. The aggregator is attested, and it alone is told the recovery key. (docs/protocol.md §12, §13)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import TreeHead, origin_of
from trusted.ledger.merkle import HASH_BYTES, MAX_PROOF_HASHES, MAX_SIZE, Proof, leaf_hash, verify_inclusion
from trusted.ledger.witness import (
    MAX_RECORD_BYTES,
    Epoch,
    Proposal,
    WitnessRecord,
    begin,
    certified,
    promise,
    repinned,
    witness,
)
from trusted.wire import Fields, decode_json, encode_json

_NAME = "witness"
_SECRET_BYTES = 32
_MAX_NOTE = 4096
_MAX_LEAF_BYTES = 1 << 12  # of a state leaf


class Keeper(Protocol):
    """Where small records outlive a restart, sealed: :class:`trusted.vault.Vault`."""

    def read(self, name: str) -> bytes | None:
        """The record as it was written last; None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Keep ``content``; once this returns it outlives a power cut."""


@dataclass(frozen=True, slots=True)
class Included:
    """A contribution stands in the log ``head``, which this worker cosigned, at ``index``."""

    round: int
    prefix_sha256: bytes
    index: int
    head: TreeHead


@dataclass(slots=True)
class Memory:
    """The memory of the worker of ``member`` for one plan. ``keeper`` is None where it ends with this process."""

    member: str
    plan: bytes
    worker_key: Ed25519PrivateKey = field(repr=False)
    keeper: Keeper | None
    _record: WitnessRecord | None = None
    _promised: Epoch | None = None
    _recovery_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def recall(cls, member: str, plan: bytes, worker_key: Ed25519PrivateKey, keeper: Keeper | None) -> Memory:
        """What an earlier start of this worker left, or nothing.

        Raises:
            StateError, WireError: something lies there that this worker did not write. OSError: it cannot be read.
        """
        memory = cls(member, plan, worker_key, keeper)
        kept = None if keeper is None else keeper.read(_NAME)
        if kept is not None:
            with Fields(decode_json(kept, max_bytes=4 * MAX_RECORD_BYTES), "memory") as fields:
                record = fields.octets("record") if fields.has("record") else None
                promised = fields.take("promised", dict, type(None))
                memory._recovery_key = (
                    fields.octets("recovery_key", _SECRET_BYTES) if fields.has("recovery_key") else None
                )
            memory._record = None if record is None else WitnessRecord.decode(record)
            memory._promised = None if promised is None else Epoch.read(promised, "memory.promised")
        return memory

    def greeting(self) -> dict[str, Any] | None:
        """For ``ready``: the highest epoch that this worker ever promised itself to."""
        return None if self._promised is None else self._promised.to_json()

    def promise(self, fields: Fields) -> dict[str, Any]:
        """The answer to ``epoch``: all that a restarted aggregator needs to go on from the newest that was witnessed.

        Raises:
            LedgerError: LEDGER_EPOCH: this worker serves a later aggregator, or another one.
        """
        epoch = Epoch(fields.integer("number", low=1, high=1 << 31), fields.octets("boot", 16))
        if self._promised is not None and self._promised != epoch and epoch.number <= self._promised.number:
            raise LedgerError(Reason.LEDGER_EPOCH, "epoch: this witness is promised to another, later aggregator")
        record = None if self._record is None else promise(self._record, epoch)
        self._keep(record, epoch, self._recovery_key)
        key = self._recovery_key
        return {
            "type": "promised",
            "number": epoch.number,
            "record": None if record is None else record.encode().hex(),
            "recovery_key": None if key is None else key.hex(),
        }

    def witness(self, fields: Fields, now: datetime) -> dict[str, Any]:
        """The answer to ``witness``: this worker's cosignature.

        Raises:
            LedgerError: the log does not extend what this worker knows, which is named; or this is not its aggregator.
        """
        epoch = self._promised
        if epoch is None:
            raise LedgerError(Reason.LEDGER_EPOCH, "witness: this worker has promised itself to nobody")
        known, key = fields.octets("log_key", 32), fields.octets("recovery_key", _SECRET_BYTES)
        proposal = Proposal(
            epoch=epoch,
            note=fields.text("note", max_length=_MAX_NOTE).encode(),
            last_leaf=_bounded(fields.octets("leaf"), _MAX_LEAF_BYTES),
            inclusion=_proof(fields, "inclusion"),
            consistency=_proof(fields, "consistency"),
        )
        settled = fields.take("certified", dict, type(None))
        record = self._record or replace(begin(origin_of(self.plan), known), promised=epoch)
        if settled is not None:
            record = certified(record, _head(settled))
        cosigning = witness(repinned(record, known, epoch), proposal)
        self._keep(cosigning.record, epoch, key)
        line = cosigning.checkpoint.cosign(self.member, self.worker_key, time_s=int(now.timestamp()))
        return {"type": "cosigned", "size": cosigning.checkpoint.head.size, "signature": line.signature.hex()}

    def require_included(self, fields: Fields) -> Included:
        """What ``included`` shows: a contribution of this site's worker, in the log that it cosigned last.

        Raises:
            LedgerError: LEDGER_PROOF: it is not there. LEDGER_LEAF: it is something else.
        """
        data, index = _bounded(fields.octets("leaf"), _MAX_LEAF_BYTES), fields.integer("index", low=0, high=MAX_SIZE)
        proof = _proof(fields, "proof")
        pending = None if self._record is None else self._record.pending
        if pending is None:
            raise LedgerError(Reason.LEDGER_PROOF, "included: this worker has cosigned nothing")
        head = pending.head
        verify_inclusion(proof, index=index, size=head.size, leaf=leaf_hash(data), root=head.root)
        leaf = leaves.parse(data)
        if not isinstance(leaf, leaves.Counted) or leaf.member != self.member:
            raise LedgerError(Reason.LEDGER_LEAF, "included: not a contribution of this site")
        return Included(leaf.round, leaf.prefix_sha256, index, head)

    def _keep(self, record: WitnessRecord | None, promised: Epoch, recovery_key: bytes | None) -> None:
        if (record, promised, recovery_key) == (self._record, self._promised, self._recovery_key):
            return
        if self.keeper is not None:
            kept: dict[str, Any] = {"promised": promised.to_json()}
            if record is not None:
                kept["record"] = record.encode().hex()
            if recovery_key is not None:
                kept["recovery_key"] = recovery_key.hex()
            self.keeper.write(_NAME, encode_json(kept))
        self._record, self._promised, self._recovery_key = record, promised, recovery_key


def _proof(fields: Fields, key: str) -> Proof:
    hashes = fields.items(key, max_items=MAX_PROOF_HASHES)
    with Fields({str(place): item for place, item in enumerate(hashes)}, fields.path(key)) as each:
        return tuple(each.octets(str(place), HASH_BYTES) for place in range(len(hashes)))


def _head(value: dict[str, Any]) -> TreeHead:
    with Fields(value, "witness.certified") as fields:
        return TreeHead(fields.integer("size", low=1, high=MAX_SIZE), fields.octets("root", HASH_BYTES))


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise LedgerError(Reason.TOO_LARGE, f"witness.leaf: at most {limit} bytes")
    return data
