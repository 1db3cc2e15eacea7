"""Getting the initial model from a member that holds it. Trust zone: aggregator TEE. No I/O of its own, no clock.

Rules: only a member that was asked may send it, under the name it was given. What it sends must have the digest that
the plan pins; a member whose model does not loses its session, and the next one that sent it is read. A name is for one
start of one worker, which sends the same bytes again; once they did not open it is used no more, for a host keeps the
first bytes of a name.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from secrets import token_bytes

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.fold import Contribution, ContributionLost
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.model import read_initial
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from trusted.blob import BlobKind, ContentKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.encoding import Vector
from trusted.errors import Reason, RoundError
from trusted.exchange import Exchanged

Accept = Callable[[str, Vector, datetime], None]


class InitialModel:
    """Asks and reads until one member's model is the plan's; then ``accept`` is told the member and the model."""

    def __init__(self, admissions: Admissions, store: HostStore, jobs: Jobs, accept: Accept) -> None:
        self._admissions = admissions
        self._exchanged = Exchanged.of(admissions.federation.plan)
        self._store = store
        self._jobs = jobs
        self._accept = accept
        self._names: dict[str, tuple[bytes, bytes]] = {}  # verify key and blob
        self._sent: list[Contribution] = []
        self._reading = False
        self._found = False

    def ask(self, member: str) -> None:
        """Let ``member``, which says that it holds the model, send it. The same start of its worker gets one name."""
        peer = self._admissions.peer(member)
        if self._found or peer is None:
            return
        verify_key, blob = self._names.get(member, (b"", b""))
        if verify_key != peer.verify_key:
            if blob:
                self._store.discard(blob)
            blob = token_bytes(BLOB_NAME_BYTES)
            self._names[member] = peer.verify_key, blob
        size = self._exchanged.header(BlobKind.INITIAL, 0, member).sealed_bytes
        self._store.expect(blob, size)
        self._admissions.send(member, {"type": "send-initial", "blob": blob.hex(), "bytes": size})

    def take(self, peer: AdmittedPeer, blob: bytes, key: ContentKey, now: datetime) -> None:
        """``peer`` says that it has sent the model.

        Raises:
            RoundError: INITIAL_MODEL: it was not asked for this blob.
        """
        if self._found:
            return
        if self._names.get(peer.member) != (peer.verify_key, blob):
            raise RoundError(Reason.INITIAL_MODEL, "initial.blob: not the one that was asked for")
        header = self._exchanged.header(BlobKind.INITIAL, 0, peer.member)
        self._sent.append(Contribution(peer.member, 1, blob, header, key, peer.verify_key))
        self._read_next(now)

    def _read_next(self, now: datetime) -> None:
        if self._reading or self._found or not self._sent:
            return
        self._reading = True
        sent, plan = self._sent.pop(0), self._admissions.federation.plan.document

        def read() -> Vector | Reason:
            try:
                return read_initial(plan, sent, self._store)
            except ContributionLost as lost:
                return lost.error.reason
            except RoundError as error:
                return error.reason

        self._jobs.submit(read, lambda outcome, later: self._was_read(sent, outcome, later), now)

    def _was_read(self, sent: Contribution, outcome: Vector | Reason, now: datetime) -> None:
        self._reading, member = False, sent.member
        if isinstance(outcome, Reason):
            if self._names.get(member, (b"", b""))[1] == sent.blob:
                del self._names[member]
            self._admissions.refuse_member(member, outcome)
            self._read_next(now)
            self._store.discard(sent.blob)
            return
        self._found = True
        self._sent.clear()
        self._accept(member, outcome, now)
        for _, name in self._names.values():  # last: with every door broken, what is left is the host's loss
            self._store.discard(name)
