"""The workers as witnesses of one aggregator: who has promised itself to it, and from where it may go on.

Trust zone: aggregator TEE. No I/O, no clock. Rules: every session begins with a promise to this aggregator's epoch. A
worker that is promised to a later one moves this aggregator beyond it, and everybody promises anew. What witnesses
remember counts once a quorum has promised (docs/protocol.md §12.4). A member may lie: its word moves this aggregator
once a lease and not far, and what it claims to remember is one candidate among others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.effects import Emit
from coordinator.enclave.record import SECRET_BYTES, RecoveryKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger.checkpoint import Quorum, TreeHead, origin_of
from trusted.ledger.recovery import Candidate, candidates
from trusted.ledger.witness import MAX_EPOCH, MAX_RECORD_BYTES, Epoch, WitnessRecord, begin
from trusted.wire import Fields, exactly

_NO_LOG_KEY = bytes(32)
_LEAP = 1024  # epochs that one member's word may skip: numbers are finite, and a lie must not use them up


@dataclass(frozen=True, slots=True)
class Promise:
    """What an admitted worker said of its memory, in its session ``connection``."""

    connection: int
    record: WitnessRecord | None
    recovery_key: RecoveryKey | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A log that a quorum of witnesses may go on from, and a secret that one of them says is its run's.

    ``is_firm``: that quorum remembers, all of it; else some of it may only have forgotten.
    """

    candidate: Candidate
    key: RecoveryKey
    quorum: Quorum
    is_firm: bool

    @property
    def head(self) -> TreeHead:
        """Where that log ends."""
        return self.candidate.head


@dataclass(frozen=True, slots=True)
class Memories:
    """What a quorum of witnesses knows: logs, the newest first. ``blank`` are a quorum that knows of none."""

    choices: tuple[Remembered, ...]
    blank: bool


@dataclass(slots=True)
class Witnesses:
    """The witnesses of one plan. ``on_epoch`` is told of a later epoch, once this aggregator has had to begin it."""

    admissions: Admissions
    on_epoch: Callable[[datetime], None]
    quorum: Quorum = field(init=False)
    epoch: Epoch = field(init=False)
    _promises: dict[str, Promise] = field(default_factory=dict)
    _claims: dict[str, int] = field(default_factory=dict)
    _moved_at: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = self.admissions.federation.plan.document.cohort.members
        self.quorum = Quorum(members, len(members) // 2 + 1)
        self.epoch = Epoch(1, self.admissions.identity.boot)

    @property
    def promised(self) -> Mapping[str, Promise]:
        """Members that are here and promised to this epoch."""
        here = self.admissions.members
        return {member: said for member, said in self._promises.items() if here.get(member) == said.connection}

    @property
    def missing(self) -> int:
        """How many more must promise before anything counts."""
        return max(0, self.quorum.needed - len(self.promised))

    def greet(self, member: str, promised: Epoch | None, now: datetime) -> None:
        """``member`` begins a session, and has ``promised`` itself before: perhaps to somebody else.

        Raises:
            LedgerError: LEDGER_EPOCH: it moves this aggregator more often, or farther, than one member's word may.
        """
        if promised is not None:
            self._claims[member] = promised.number
            if promised != self.epoch and promised.number >= self.epoch.number:
                self._require_may_move(member, promised.number, now)
                self._begin_epoch(promised.number + 1, now)
        self._ask(member)

    def _require_may_move(self, member: str, number: int, now: datetime) -> None:
        """An honest worker moves an aggregator when it comes from another one; who makes up epochs gets nowhere."""
        lease = timedelta(seconds=self.admissions.federation.plan.document.deadlines.lease_s)
        moved = self._moved_at.get(member)
        if moved is not None and now - moved < lease:
            raise LedgerError(Reason.LEDGER_EPOCH, "ready.promised: moved this aggregator within a lease already")
        claims = sorted(self._claims.values(), reverse=True)
        agreed = claims[self.quorum.needed - 1] if len(claims) >= self.quorum.needed else 0
        if number > max(self.epoch.number, agreed) + _LEAP or number >= MAX_EPOCH:
            raise LedgerError(Reason.LEDGER_EPOCH, "ready.promised: far beyond this aggregator, and no quorum says so")
        self._moved_at[member] = now

    def take(self, peer: AdmittedPeer, fields: Fields) -> bool:
        """Hear what ``peer`` remembers; whether it is of this epoch.

        Raises:
            ProtocolError: it says what no worker says.
        """
        number = fields.integer("number", low=1, high=MAX_EPOCH)
        told, key = fields.take("record", str, type(None)), fields.take("recovery_key", str, type(None))
        record = None if told is None else WitnessRecord.decode(_octets(told, MAX_RECORD_BYTES))
        connection = self.admissions.members.get(peer.member)
        if number != self.epoch.number or connection is None:
            return False  # it answers an epoch that is over, and has been asked again
        secret = (
            None
            if key is None
            else RecoveryKey(exactly(_octets(key, SECRET_BYTES), SECRET_BYTES, "promised.recovery_key"))
        )
        if record is not None:
            self._require_believable(record, secret)
        self._promises[peer.member] = Promise(connection, record, secret)
        return True

    def _require_believable(self, record: WitnessRecord, secret: RecoveryKey | None) -> None:
        """Refuse what no worker remembers; the rest is true, or a candidate that the host will have nothing for."""
        if record.promised != self.epoch or record.origin != self._origin:
            raise LedgerError(Reason.LEDGER_EPOCH, "promised.record: of another epoch or log")
        if record.pending is not None and record.pending.epoch.number > self.epoch.number:
            raise LedgerError(Reason.LEDGER_EPOCH, "promised.record: cosigned in an epoch that is still to come")
        if record.pending is None and record.certified.size:
            raise LedgerError(Reason.LEDGER_PROOF, "promised.record: certified, and never cosigned")
        plan = self.admissions.federation.plan.digest
        known = None if secret is None else secret.log_key(plan).public_key().public_bytes_raw()
        if known != record.log_public_key:
            raise LedgerError(Reason.LEDGER_SIGNATURE, "promised.recovery_key: not that of the log in the record")

    def memories(self) -> Memories:
        """What there is to go on from; no choice where a quorum knows of no log, and a run begins.

        Raises:
            LedgerError: no quorum yet; or they remember two logs that cannot both be true.
        """
        heard = {member: said.record or self._blank() for member, said in self.promised.items()}
        choices: list[Remembered] = []
        blank = False
        for candidate in candidates(heard, self.epoch, self.quorum):
            blank = blank or not candidate.head.size
            is_firm = candidate.remembering >= self.quorum.needed
            choices += [Remembered(candidate, key, self.quorum, is_firm) for key in self._keys_of(candidate)]
        return Memories(tuple(choices), blank)

    def _keys_of(self, candidate: Candidate) -> Iterator[RecoveryKey]:
        """The recovery keys of those who cosigned its head, each once, by how many of them say so."""
        told: Counter[bytes] = Counter()
        for member in candidate.known:
            said = self.promised[member]
            pending = None if said.record is None else said.record.pending
            if pending is None or said.recovery_key is None:
                continue
            if (pending.epoch.number, pending.head) == (candidate.epoch, candidate.head):
                told[said.recovery_key.secret] += 1
        return (RecoveryKey(secret) for secret, _ in told.most_common())

    def _begin_epoch(self, number: int, now: datetime) -> None:
        self.epoch = replace(self.epoch, number=number)
        self._promises.clear()
        for member in self.admissions.members:
            self._ask(member)
        self.on_epoch(now)

    def _ask(self, member: str) -> None:
        message = {"type": "epoch", "number": self.epoch.number, "boot": self.epoch.boot.hex()}
        self.admissions.send(member, message)

    def _blank(self) -> WitnessRecord:
        return replace(begin(self._origin, _NO_LOG_KEY), promised=self.epoch)

    @property
    def _origin(self) -> str:
        return origin_of(self.admissions.federation.plan.digest)


def refusal_event(error: ProtocolError) -> Emit:
    """How the public hears that this run cannot go on from what its host offers, and between which two logs."""
    fields: dict[str, object] = {"reason": error.reason.code}
    held, offered = getattr(error, "held", None), getattr(error, "offered", None)
    if isinstance(held, TreeHead) and isinstance(offered, TreeHead):
        fields |= {"held": f"{held.size}:{held.root.hex()}", "offered": f"{offered.size}:{offered.root.hex()}"}
    return Emit("state-refused", fields)


def _octets(text: str, limit: int) -> bytes:
    with Fields({"value": text[: 2 * limit + 2]}, "promised") as fields:
        return fields.octets("value")
