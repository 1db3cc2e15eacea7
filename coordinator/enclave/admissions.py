"""Who is admitted now: connections, their channels, leases and evictions. Trust zone: aggregator TEE.

Rules: an error on a connection ends that connection and no other. A member has one session: a newer one, itself fully
proved, supersedes the older. A lease that is not renewed evicts its holder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from coordinator.enclave.effects import Close, Effect, Emit, Send
from trusted.channel.aggregator import AdmittedPeer, AggregatorChannel
from trusted.channel.federation import Federation
from trusted.channel.refusal import refusal
from trusted.channel.results import issue_result, worker_subject
from trusted.channel.session import MAX_MESSAGES, Identity, Proof
from trusted.channel.states import State
from trusted.errors import ProtocolError, Reason
from trusted.ledger.leaves import Admitted, Evicted, Leaf, Left, Refused
from trusted.wire import sha256

_MAX_REFUSED = 64  # leaves between two checkpoints


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a frame brought to the run: its sender, whether it has just been admitted, and its messages."""

    peer: AdmittedPeer
    connection: int
    admitted: bool
    messages: tuple[dict[str, Any], ...]


@dataclass(slots=True)
class _Connection:
    channel: AggregatorChannel
    challenged_at: datetime
    told: Proof | None = None  # the proof of which the public knows
    member: str | None = None  # whose session it is, while that is its member's newest


@dataclass(slots=True)
class Admissions:
    """All connections of one aggregator. ``effects`` is drained by its owner."""

    federation: Federation
    identity: Identity
    effects: list[Effect] = field(default_factory=list)
    _leaves: list[Leaf] = field(default_factory=list)
    _refused: int = 0
    _connections: dict[int, _Connection] = field(default_factory=dict)
    _unsaid: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _members: dict[str, int] = field(default_factory=dict)

    @property
    def members(self) -> Mapping[str, int]:
        """The admitted members and their connections."""
        return self._members

    def peer(self, member: str) -> AdmittedPeer | None:
        """``member`` as it was admitted, if it is here."""
        connection = self._members.get(member)
        return None if connection is None else self._connections[connection].channel.peer

    def take_leaves(self) -> tuple[Leaf, ...]:
        """What the log has to hold since this was asked last: who was admitted, refused, evicted, or left."""
        taken = tuple(self._leaves)
        self._leaves.clear()
        self._refused = 0
        return taken

    def attach(self, connection: int, now: datetime) -> None:
        """The host says that somebody connected."""
        self.detach(connection)  # a number used twice: whoever had it is gone, or nothing below would hold
        channel = AggregatorChannel(self.federation, self.identity, now)
        self._connections[connection] = _Connection(channel, now)

    def receive(self, connection: int, frame: bytes, now: datetime) -> Arrival | None:
        """Take a frame that the host says came on ``connection``. Any fault in it ends this connection alone."""
        entry = self._connections.get(connection)
        if entry is None:
            return None
        before = entry.channel.state
        try:
            entry.channel.require_progress(now)  # a host that keeps us too busy to tick must not lengthen a lease
            received = entry.channel.receive(frame, now)
        except ProtocolError as error:
            self.refuse(connection, error.reason)
            return None
        self.effects.extend(Send(connection, reply) for reply in received.replies)
        if entry.channel.state is not State.OPEN:
            return None
        admitted = before is not State.OPEN
        if admitted:
            self._admit(connection, entry, now)
        self._tell_proof(connection, entry)
        return Arrival(entry.channel.peer, connection, admitted, received.messages)

    def send(self, member: str, message: dict[str, Any]) -> None:
        """Send ``message`` to ``member`` if it is still there."""
        connection = self._members.get(member)
        if connection is not None:
            self._unsaid.setdefault(connection, []).append(message)

    def take_effects(self) -> tuple[Effect, ...]:
        """All that is to be done since this was asked last; what one member is told goes in one frame."""
        for connection, messages in self._unsaid.items():
            session = self._connections[connection].channel.session
            for first in range(0, len(messages), MAX_MESSAGES):
                frame = session.send(*messages[first : first + MAX_MESSAGES])
                self.effects.append(Send(connection, frame))
        self._unsaid.clear()
        taken = tuple(self.effects)
        self.effects.clear()
        return taken

    def refuse(self, connection: int, reason: Reason) -> None:
        """End a connection for ``reason``, and say so to both its peer and the public."""
        entry = self._connections.get(connection)
        if entry is None:
            return
        member = entry.member
        self.effects.append(Send(connection, refusal(reason)))
        self.effects.append(Close(connection, reason))
        fields = {"session": connection, "reason": reason.code}
        self.effects.append(Emit("evicted" if member else "refused", fields | ({"member": member} if member else {})))
        if member:
            self._leaves.append(Evicted(member, reason))
        elif self._refused < _MAX_REFUSED:  # a host can have as many strangers refused as it likes
            self._refused += 1
            self._leaves.append(Refused(reason, None))
        self._forget(connection)

    def refuse_member(self, member: str, reason: Reason) -> None:
        """End the session of ``member``, if it still has one, for ``reason``."""
        connection = self._members.get(member)
        if connection is not None:
            self.refuse(connection, reason)

    def part(self, member: str, reason: Reason) -> None:
        """``member`` goes by its own will, and says why."""
        connection = self._members.get(member)
        if connection is not None:
            self.effects.append(Close(connection, reason))
            fields = {"session": connection, "member": member, "reason": reason.code}
            self.effects.append(Emit("left", fields))
            self._leaves.append(Left(member, reason))
            self._forget(connection)

    def dismiss_all(self, reason: Reason) -> None:
        """End every connection for ``reason``; whoever wants to comes back and proves itself anew."""
        for connection in tuple(self._connections):
            self.refuse(connection, reason)

    def detach(self, connection: int) -> None:
        """The host says that a connection ended."""
        entry = self._connections.get(connection)
        if entry is not None and entry.member is not None:
            self.effects.append(Emit("left", {"session": connection, "member": entry.member}))
            self._leaves.append(Left(entry.member, None))
        self._forget(connection)

    def tick(self, now: datetime) -> None:
        """Challenge those whose evidence grows old; evict those who did not answer."""
        reattest = timedelta(seconds=self.federation.plan.document.deadlines.reattest_s)
        for connection, entry in list(self._connections.items()):
            try:
                entry.channel.require_progress(now)
            except ProtocolError as error:
                self.refuse(connection, error.reason)
                continue
            if entry.channel.state is State.OPEN and now - entry.challenged_at >= reattest:
                challenge = entry.channel.session.challenge()
                entry.challenged_at = now
                if challenge is not None:
                    self.effects.append(Send(connection, challenge))

    def _admit(self, connection: int, entry: _Connection, now: datetime) -> None:
        peer = entry.channel.peer
        earlier = self._members.get(peer.member)
        if earlier is not None:
            self.refuse(earlier, Reason.SUPERSEDED)
        self._members[peer.member] = connection
        entry.member = peer.member
        entry.challenged_at = now
        fields = {
            "session": connection,
            "member": peer.member,
            "assurance": peer.result.assurance.value,
            "measurement": peer.result.measurement.hex(),
        }
        self.effects.append(Emit("admitted", fields))

    def _tell_proof(self, connection: int, entry: _Connection) -> None:
        """A signed result for each proof that granted a lease, so that anybody can verify later who was admitted."""
        session, peer = entry.channel.session, entry.channel.peer
        member = peer.member
        if entry.told is not session.proof:
            first = entry.told is None
            entry.told = session.proof
            subject = worker_subject(self.federation.plan.digest, member)
            token = issue_result(session, subject, self.identity)
            self.effects.append(Emit("attested", {"session": connection, "member": member, "ear": token}))
            if first:
                result = peer.result
                proof = (result.measurement, result.assurance, sha256(token.encode()))
                self._leaves.append(Admitted(member, peer.boot, peer.verify_key, *proof, peer.commitment))

    def _forget(self, connection: int) -> None:
        self._unsaid.pop(connection, None)
        entry = self._connections.pop(connection, None)
        if entry is not None and entry.member is not None:
            del self._members[entry.member]
