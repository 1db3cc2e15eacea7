"""The run's log and sealed state, as they are written, proposed to the witnesses, and certified.

Trust zone: aggregator TEE. No I/O but the store's, no clock. Rules:

1. A checkpoint is proposed only after the host has stored the sealed state and the leaves that it stands for.
2. Checkpoints are written one after the other, each behind all leaves that came before it.
3. A quorum's cosignatures on one certify every earlier one. What waits for it happens then, and not before.
4. What a checkpoint makes superfluous is discarded once it is certified: until then a restart may need it.
5. In a later epoch nothing is proposed before a quorum has promised anew that holds nothing which this log lacks:
   another aggregator may have had more certified meanwhile, and a witness alone would let that go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.effects import Emit
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.record import RecoveryKey, RunRecord
from coordinator.enclave.witnesses import Witnesses
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import EMPTY, Checkpoint, Diverged, TreeHead, origin_of, witness_key
from trusted.ledger.leaves import Leaf, State
from trusted.ledger.merkle import MAX_SIZE, Tree
from trusted.ledger.notes import Note, NoteSignature
from trusted.ledger.segments import Segment, certificate_name, segment_name
from trusted.ledger.witness import Epoch, WitnessRecord
from trusted.wire import Fields, sha256

Then = Callable[[datetime], None]
_COSIGNATURE_BYTES = 72  # time, then Ed25519


@dataclass(slots=True)
class Log:
    """The leaves of a run: all their hashes, and those themselves that are not stored yet."""

    tree: Tree = field(default_factory=Tree)
    stored: TreeHead = EMPTY
    unstored: list[bytes] = field(default_factory=list)

    def append(self, leaf: Leaf) -> int:
        """Add ``leaf``; its index."""
        data = leaves.encode(leaf)
        self.unstored.append(data)
        return self.tree.append(data)

    @property
    def head(self) -> TreeHead:
        """Size and root of all."""
        return TreeHead(self.tree.size, self.tree.root())


@dataclass(frozen=True, slots=True)
class _Step:
    """A state to be written, and what waits for it: once it is stored, and once it is certified.

    ``spent``: which blobs nobody needs any more then. ``urgent``: witnesses are to answer at once.
    """

    record: RunRecord
    stored: Then | None
    then: Then | None
    spent: tuple[bytes, ...]
    urgent: bool = True


@dataclass(slots=True)
class _Proposed:
    """A checkpoint that waits for its quorum."""

    head: TreeHead
    note: Note
    leaf: bytes
    step: _Step
    state_blob: bytes
    proofs: dict[int, dict[str, Any]] = field(default_factory=dict)
    cosigned: dict[str, NoteSignature] = field(default_factory=dict)


@dataclass(slots=True)
class Journal:
    """The one writer of a run's log."""

    admissions: Admissions
    store: HostStore
    jobs: Jobs
    witnesses: Witnesses
    key: RecoveryKey
    log: Log = field(default_factory=Log)
    sequence: int = 0
    certificate: Note | None = None
    certified: TreeHead = EMPTY
    _steps: list[_Step] = field(default_factory=list)
    _writing: bool = False
    _proposed: dict[int, _Proposed] = field(default_factory=dict)
    _bases: dict[str, tuple[int, Epoch, TreeHead]] = field(default_factory=dict)
    _last: RunRecord | None = None
    _is_held: bool = False
    _state_blob: bytes | None = None
    _told: TreeHead = EMPTY  # the newest checkpoint whose certificate lies where auditors look for it
    _log_key: Ed25519PrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._log_key = self.key.log_key(self._plan)

    def append(self, leaf: Leaf) -> int:
        """Note something that happened, behind who came and went until then; its place in the log.

        The next checkpoint covers it.
        """
        self._append_admissions()
        return self.log.append(leaf)

    def _append_admissions(self) -> None:
        for leaf in self.admissions.take_leaves():
            self.log.append(leaf)

    def prove(self, member: str, leaf: Leaf, index: int) -> None:
        """Show ``member`` that ``leaf`` is at ``index`` of the log that it was asked to cosign last."""
        known = self._bases.get(member)
        if known is None or known[2].size <= index:
            return  # it came after, and witnesses the leaf with what it cosigns next
        proof = [node.hex() for node in self.log.tree.inclusion_proof(index, known[2].size)]
        message = {"type": "included", "leaf": leaves.encode(leaf).hex(), "index": index, "proof": proof}
        self.admissions.send(member, message)

    def commit(
        self, record: RunRecord, now: datetime, *, then: Then | None = None, spent: tuple[bytes, ...] = ()
    ) -> None:
        """Let ``record`` be the run's state, witnessed; ``then`` happens, and ``spent`` go, once a quorum cosigned."""
        self._write(_Step(record, None, then, spent), now)

    def keep(
        self,
        record: RunRecord,
        now: datetime,
        *,
        stored: Then,
        spent: tuple[bytes, ...] = (),
        urgent: bool = False,
    ) -> None:
        """Let ``record`` be the run's state; ``stored`` happens once the host has it.

        Witnesses may take their time over it, unless it is ``urgent`` that ``spent`` go.
        """
        self._write(_Step(record, stored, None, spent, urgent), now)

    def _write(self, step: _Step, now: datetime) -> None:
        self._last = step.record
        self._append_admissions()
        self._steps.append(step)
        self._write_next(now)

    def recommit(
        self, now: datetime, *, then: Then | None = None, spent: tuple[bytes, ...] = (), card: bytes | None = None
    ) -> None:
        """Have the newest state witnessed once more, with the leaves that came behind it, and from now on ``card``."""
        if self._last is not None:
            record = self._last if card is None else replace(self._last, card=card)
            self.commit(record, now, then=then, spent=spent)

    @property
    def is_writing(self) -> bool:
        """Whether a step of it is not stored yet."""
        return self._writing or bool(self._steps)

    @property
    def has_state(self) -> bool:
        """Whether there is a state that could be witnessed once more."""
        return self._last is not None

    def continue_from(self, sequence: int, state_blob: bytes) -> None:
        """Go on behind the state that an earlier aggregator had witnessed as number ``sequence``."""
        self.sequence, self._state_blob, self._told = sequence, state_blob, self.log.stored

    @property
    def is_held(self) -> bool:
        """Whether a later epoch began in which no quorum has said yet that this log is the newest."""
        return self._is_held

    def hold(self) -> None:
        """A later epoch began: propose nothing."""
        self._is_held = True

    def settle(self) -> None:
        """Propose again, in the epoch that has begun.

        Raises:
            LedgerError: LEDGER_QUORUM: fewer than a quorum have promised. LEDGER_FORK: they have, and those who hold
                nothing but this log are no quorum: another aggregator has gone on, and this one may not.
        """
        said = self.witnesses.promised
        self.witnesses.quorum.require(frozenset(said), "epoch")
        strangers = [head for one in said.values() for head in self._lacks(one.record)]
        followers = sum(not self._lacks(one.record) for one in said.values())
        if followers < self.witnesses.quorum.needed:
            detail = "epoch: witnesses hold what this log lacks"
            raise Diverged(Reason.LEDGER_FORK, detail, held=strangers[0], offered=self.log.head)
        self._is_held = False

    def _lacks(self, record: WitnessRecord | None) -> tuple[TreeHead, ...]:
        """What ``record`` holds and this log does not."""
        if record is None:
            return ()
        tree = self.log.tree
        held = (record.certified, *(() if record.pending is None else (record.pending.head,)))
        return tuple(head for head in held if head.size > tree.size or tree.root(head.size) != head.root)

    @property
    def waiting_for_witnesses(self) -> tuple[str, ...]:
        """Members whose cosignature could still certify the newest checkpoint; none where none is waited for."""
        if not self._proposed:
            return ()
        newest = self._proposed[max(self._proposed)]
        return tuple(sorted(set(self.witnesses.quorum.members) - set(newest.cosigned)))

    def welcome(self, member: str) -> None:
        """``member`` has promised itself: propose to it what is still open.

        Raises:
            LedgerError: LEDGER_SHRINKS: it remembers more than this run has, which no witness of it can.
        """
        record = self.witnesses.promised[member].record
        if record is not None and record.base(self.witnesses.epoch).size > self.log.tree.size:
            raise LedgerError(Reason.LEDGER_SHRINKS, "witness: remembers a longer log than this run has")
        for size in sorted(self._proposed):
            self._propose(self._proposed[size], member)

    def take(self, peer: AdmittedPeer, fields: Fields, now: datetime) -> None:
        """Count a cosignature of ``peer``. One for a checkpoint that is certified already changes nothing.

        Raises:
            LedgerError: LEDGER_SIGNATURE: it is none of its member's worker. LEDGER_PROOF: for what was never proposed.
        """
        size = fields.integer("size", low=1, high=MAX_SIZE)
        signature = fields.octets("signature", _COSIGNATURE_BYTES)
        proposed = self._proposed.get(size)
        if proposed is None and size > self.certified.size:
            raise LedgerError(Reason.LEDGER_PROOF, "cosigned.size: no checkpoint of this size was proposed")
        if proposed is None or peer.member in proposed.cosigned:
            return
        key = witness_key(self._origin, peer.member, peer.worker_key)
        key.verify(proposed.note.text, signature)
        proposed.cosigned[peer.member] = NoteSignature(key.name, key.key_id, signature)
        if len(proposed.cosigned) >= self.witnesses.quorum.needed:
            self._certify(proposed, now)

    def _certify(self, proposed: _Proposed, now: datetime) -> None:
        self.certified = proposed.head
        self.certificate = proposed.note.with_signatures(*(line for _, line in sorted(proposed.cosigned.items())))
        settled = [self._proposed.pop(size) for size in sorted(self._proposed) if size <= proposed.head.size]
        spent = [blob for step in settled for blob in step.step.spent]
        spent += [step.state_blob for step in settled[:-1]]
        if self._state_blob is not None:
            spent.append(self._state_blob)
        self._state_blob = proposed.state_blob
        for step in settled:
            if step.step.then is not None:
                step.step.then(now)
        for blob in spent:
            self.store.discard(blob)
        if any(step.step.stored is None for step in settled):  # a round closed, or the run released or ended
            self._tell(now)

    def _tell(self, now: datetime) -> None:
        """Leave the newest certificate where auditors look for it, and say in public which checkpoint it is of."""
        head, plan = self.certified, self._plan
        note = b"" if self.certificate is None else self.certificate.encode()

        def told(_: None, later: datetime) -> None:
            older, self._told = sorted((self._told, head), key=lambda one: one.size)
            if older.size and older != self._told:
                self.store.discard(certificate_name(plan, older))
            if self._told == head:
                self.admissions.effects.append(Emit("checkpoint", {"size": head.size, "root": head.root.hex()}))

        self.jobs.submit(lambda: self.store.write(certificate_name(plan, head), len(note), [note]), told, now)

    def _write_next(self, now: datetime) -> None:
        if self._writing or not self._steps:
            return
        self._writing = True
        step = self._steps.pop(0)
        self.sequence += 1
        plan, name = self._plan, token_bytes(BLOB_NAME_BYTES)
        sealed = self.key.seal(plan, self.sequence, step.record.encode())
        self.log.append(State(self.sequence, name, sha256(sealed)))
        head, before = self.log.head, self.log.stored
        taken, self.log.unstored, self.log.stored = tuple(self.log.unstored), [], head
        certificate = b"" if self.certificate is None else self.certificate.encode()
        segment = Segment(before, certificate, taken).encode()

        def write() -> None:
            self.store.write(name, len(sealed), [sealed])
            self.store.write(segment_name(plan, head), len(segment), [segment])

        def written(_: None, later: datetime) -> None:
            self._writing = False
            note = Checkpoint(self._origin, head).sign(self._log_key)
            proposed = self._proposed[head.size] = _Proposed(head, note, taken[-1], step, name)
            if step.stored is not None:
                step.stored(later)
            for member in self.witnesses.promised:
                self._propose(proposed, member)
            self._write_next(later)

        self.jobs.submit(write, written, now)

    def _propose(self, proposed: _Proposed, member: str) -> None:
        said = self.witnesses.promised.get(member)
        if said is None or self._is_held:
            return
        record, now = said.record, (said.connection, self.witnesses.epoch)
        base = EMPTY if record is None else record.base(self.witnesses.epoch)
        known = self._bases.get(member)
        if known is not None and known[:2] == now:  # in another epoch a witness holds on to what was certified alone
            base = known[2]
        if base.size > proposed.head.size:  # it cosigned a later one, which is proposed as well
            return
        self._bases[member] = *now, proposed.head
        settled = self.certified if self.certified.size else None
        self.admissions.send(
            member,
            {
                "type": "witness",
                "note": proposed.note.encode().decode(),
                "leaf": proposed.leaf.hex(),
                **self._proofs(proposed, base.size),
                "certified": None if settled is None else {"size": settled.size, "root": settled.root.hex()},
                "urgent": proposed.step.urgent,
                "log_key": self._log_key.public_key().public_bytes_raw().hex(),
                "recovery_key": self.key.secret.hex(),
            },
        )

    def _proofs(self, proposed: _Proposed, base: int) -> dict[str, Any]:
        """That the state leaf is the last one, and that the log extends that of ``base`` leaves: made once for all."""
        if base not in proposed.proofs:
            tree, size = self.log.tree, proposed.head.size
            proposed.proofs[base] = {
                "inclusion": [node.hex() for node in tree.inclusion_proof(size - 1, size)],
                "consistency": [node.hex() for node in tree.consistency_proof(base, size)],
            }
        return proposed.proofs[base]

    @property
    def _plan(self) -> bytes:
        return self.admissions.federation.plan.digest

    @property
    def _origin(self) -> str:
        return origin_of(self._plan)
