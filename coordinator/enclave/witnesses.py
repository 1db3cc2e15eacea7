"""The workers as witnesses of one aggregator: who has promised itself to it, and from where it may go on.

Trust zone: aggregator TEE. No I/O, no clock. Rules: every session begins with a promise to this aggregator's epoch. A
worker that is promised to a later one moves this aggregator beyond it, and everybody promises anew. What witnesses
remember counts once a quorum has promised (docs/protocol.md §12.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.effects import Emit
from coordinator.enclave.record import SECRET_BYTES, RecoveryKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger.checkpoint import Quorum, TreeHead, origin_of
from trusted.ledger.recovery import newest
from trusted.ledger.witness import MAX_EPOCH, MAX_RECORD_BYTES, Epoch, WitnessRecord, begin
from trusted.wire import Fields

_NO_LOG_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class Promise:
    """What an admitted worker said of its memory, in its session ``connection``."""

    connection: int
    record: WitnessRecord | None
    recovery_key: RecoveryKey | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """The newest log that any of a quorum of witnesses cosigned, and the secret of its run."""

    head: TreeHead
    key: RecoveryKey


@dataclass(slots=True)
class Witnesses:
    """The witnesses of one plan. ``on_epoch`` is told of a later epoch, once this aggregator has had to begin it."""

    admissions: Admissions
    on_epoch: Callable[[datetime], None]
    quorum: Quorum = field(init=False)
    epoch: Epoch = field(init=False)
    _promises: dict[str, Promise] = field(default_factory=dict)

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
        """``member`` begins a session, and has ``promised`` itself before: perhaps to somebody else."""
        if promised is not None and promised != self.epoch and promised.number >= self.epoch.number:
            self._begin_epoch(promised.number + 1, now)
        self._ask(member)

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
        if record is not None and (record.promised != self.epoch or record.origin != self._origin):
            raise LedgerError(Reason.LEDGER_EPOCH, "promised.record: of another epoch or log")
        secret = None if key is None else RecoveryKey(_octets(key, SECRET_BYTES))
        self._promises[peer.member] = Promise(connection, record, secret)
        return True

    def remembered(self) -> Remembered | None:
        """What to go on from; None where a quorum knows of no log, and a run begins.

        Raises:
            LedgerError: no quorum yet; or they remember two logs that cannot both be true.
        """
        heard = {member: said.record or self._blank() for member, said in self.promised.items()}
        head = newest(heard, self.epoch, self.quorum)
        if not head.size:
            return None
        for said in self.promised.values():
            pending = None if said.record is None else said.record.pending
            if pending is not None and pending.head == head and said.recovery_key is not None:
                return Remembered(head, said.recovery_key)
        raise LedgerError(Reason.STATE_MISSING, "recovery: a witness remembers the log, and none its key")

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
