"""How far a run is: what its parts share. Trust zone: aggregator TEE. No I/O of its own, no clock.

Parts: :mod:`beginning`, :mod:`round_loop` and :mod:`ending`, one after the other under :mod:`run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.effects import Emit
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.journal import Journal
from coordinator.enclave.model import GlobalModel
from coordinator.enclave.ports import HostStore
from coordinator.enclave.privacy.budget import Spending
from coordinator.enclave.record import SealedVector
from coordinator.enclave.release import History
from coordinator.enclave.sealing import Sealer
from coordinator.enclave.witnesses import Witnesses
from trusted.documents.plan import Plan
from trusted.documents.terms import Rule
from trusted.encoding import Vector
from trusted.errors import LedgerError, Reason
from trusted.exchange import Exchanged

_LARGE_BYTES = 8 << 20  # of one update


@dataclass(slots=True)
class Course:
    """One run under way.

    Attributes:
        journal: its log and state; None until a quorum of witnesses has said from where it goes on.
        seed: from which cohorts and upload names are drawn, 32 bytes.
        model: what the next round starts from; None until a member brought it.
        base: the whole initial model where a part is exchanged, and where it lies sealed.
        card: the model card, once the final model was judged.
        attempts: the number of the newest round that was opened.
        spent: blobs that nobody needs once the next checkpoint is certified.
        resting: members that take no task for now, by their own word, and why.
        privacy: its budget, where the plan has a mechanism.
        finished: whether the app's own server has given the final model, where the plan has one.
    """

    admissions: Admissions
    store: HostStore
    jobs: Jobs
    exchanged: Exchanged
    witnesses: Witnesses
    sealer: Sealer
    journal: Journal | None = None
    seed: bytes = field(default=b"", repr=False)
    model: GlobalModel | None = None
    base: Vector | None = None
    base_sealed: SealedVector | None = None
    card: bytes | None = None
    attempts: int = 0
    abandoned_in_a_row: int = 0
    history: History = field(default_factory=History)
    spent: list[bytes] = field(default_factory=list)
    resting: dict[str, Reason] = field(default_factory=dict)
    privacy: Spending | None = None
    finished: bool = False
    _waits_for: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """What was signed."""
        return self.admissions.federation.plan.document

    @property
    def is_exhausted(self) -> bool:
        """Whether the privacy budget pays for no further round."""
        return self.privacy is not None and not self.privacy.affords_next

    @property
    def has_server_app(self) -> bool:
        """Whether the app's own server says what a round is, and when there is none any more."""
        return self.plan.aggregation.rule is Rule.SERVER_APP

    @property
    def is_complete(self) -> bool:
        """Whether no further round is to open: all that the plan asks for are committed, or its budget is spent."""
        if self.has_server_app:
            return self.finished
        return self.history.rounds >= self.plan.rounds or self.is_exhausted

    @property
    def lease(self) -> timedelta:
        """How long a member may be gone, or silent, before nobody waits for it."""
        return timedelta(seconds=self.plan.deadlines.lease_s)

    def require_journal(self) -> Journal:
        """The journal.

        Raises:
            LedgerError: LEDGER_EPOCH: a worker speaks of what was never proposed to it.
        """
        if self.journal is None:
            raise LedgerError(Reason.LEDGER_EPOCH, "run: nothing was proposed yet")
        return self.journal

    def require_model(self) -> GlobalModel:
        """The model of a run that opens rounds."""
        if self.model is None:
            raise RuntimeError("a round was opened without a model")
        return self.model

    def take_spent(self) -> tuple[bytes, ...]:
        """What may go with the next checkpoint."""
        taken, self.spent = tuple(self.spent), []
        return taken

    def is_large(self, spent: tuple[bytes, ...]) -> bool:
        """Whether the room of ``spent`` is worth a message of each witness: it is there before the next blobs come."""
        exchanged = self.exchanged
        size = exchanged.message_bytes or exchanged.terms.update.size_bytes(exchanged.part.elements)
        return bool(spent) and size >= _LARGE_BYTES

    def discard(self, blobs: Iterable[bytes]) -> None:
        """Let the host forget ``blobs`` now."""
        for blob in blobs:
            self.store.discard(blob)

    def wait_for(self, members: Iterable[str], what: str) -> None:
        """Tell once whom the run waits for, and why."""
        waits = (what, *sorted(members))
        if waits != self._waits_for:
            self._waits_for = waits
            self.emit("run-waits", outcome=what, waiting_for=list(waits[1:]))

    def moves(self) -> None:
        """The run waits for nobody now: what it waits for next is told again."""
        self._waits_for = ()

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the public."""
        self.admissions.effects.append(Emit(event, fields))
