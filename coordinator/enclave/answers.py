"""What members answer in a round: counted, read, refused, told. Trust zone: aggregator TEE. No clock of its own.

Rules: a fault in an answer costs its sender that answer, and nobody else anything. A member and the public hear of
each answer once: when it was read, or when it is known why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.disclosure import parse_metrics
from coordinator.enclave.effects import Emit
from coordinator.enclave.fold import Contribution, ContributionLost, check
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.rounds import Round, RoundState
from coordinator.enclave.stages import Stages, read_stages
from trusted.blob import BlobKind, ContentKey
from trusted.channel.aggregator import AdmittedPeer
from trusted.documents.plan import Plan
from trusted.errors import Reason, RoundError
from trusted.exchange import Exchanged
from trusted.wire import Fields

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Answers:
    """The counter at which answers arrive. ``proceed`` is called when one was read in the background."""

    admissions: Admissions
    store: HostStore
    jobs: Jobs
    exchanged: Exchanged
    proceed: Callable[[datetime], None]

    def update(
        self, peer: AdmittedPeer, fields: Fields, current: Round | None, stages: Stages | None, now: datetime
    ) -> None:
        """Count an update of ``current`` and read it, or refuse it and say why; the round goes on either way."""
        plan = self.admissions.federation.plan.document
        number = fields.integer("round", low=1, high=1 << 31)
        blob, key = fields.octets("blob", BLOB_NAME_BYTES), ContentKey(fields.octets("key", 32))
        prefix_sha256 = fields.octets("prefix_sha256", _DIGEST_BYTES)
        weight = fields.integer("weight", low=-(1 << 53), high=1 << 53)
        claimed_metrics = fields.mapping("metrics")
        seconds = read_stages(fields.mapping("seconds")) if fields.has("seconds") else None
        steps = fields.integer("private_steps", low=0, high=1 << 31) if fields.has("private_steps") else None
        try:
            round_ = _require_round(current, peer.member, number, blob)
            if not 1 <= weight <= plan.aggregation.max_weight:
                raise RoundError(Reason.WEIGHT, "update.weight: 1 to the plan's max_weight expected")
            _require_private(plan, steps)
            metrics = parse_metrics(dict(claimed_metrics), plan)
        except RoundError as error:
            if current is not None and current.number == number and error.reason is not Reason.DUPLICATE:
                current.lose(peer.member, error.reason)  # its answer, unless it answers another round or again
            self.tell(peer.member, number, error.reason)
            return
        header = self.exchanged.header(BlobKind.UPDATE, number, peer.member)
        contribution = Contribution(peer.member, weight, blob, header, key, peer.verify_key, prefix_sha256)
        round_.count(contribution, metrics)
        if seconds is not None and stages is not None:
            stages.add_worker(seconds)
        self._read(round_, contribution, now)

    def failed(self, member: str, fields: Fields, current: Round | None) -> None:
        """``member`` says that it cannot answer, and why."""
        number, reason = fields.integer("round", low=0, high=1 << 31), _reason(fields)
        if current is not None and current.number == number:
            current.lose(member, reason)
            self._emit(number, member, "failed", reason)

    def tell(self, member: str, number: int, fault: Reason | None) -> None:
        """Everybody, and the member itself, whether its update counts."""
        self._emit(number, member, "counted" if fault is None else "refused", fault)
        receipt = {"type": "receipt", "round": number, "reason": None if fault is None else int(fault)}
        self.admissions.send(member, receipt)

    def tell_lost(self, member: str, number: int, reason: Reason) -> None:
        """Everybody, that what counted before does not open for the fold."""
        self._emit(number, member, "lost", reason)

    def faults(self, contributions: Iterable[Contribution]) -> dict[str, Reason]:
        """Everybody among them whose update does not open: many bad ones cost one more fold, and not one each."""
        found = {entry.member: self._fault_of(entry, lambda: False) for entry in contributions}
        return {member: fault for member, fault in found.items() if fault is not None}

    def _read(self, current: Round, contribution: Contribution, now: datetime) -> None:
        """Read an update while the round collects; once the round is closed the fold reads what is left."""

        def was_read(fault: Reason | None, later: datetime) -> None:
            member = contribution.member
            if current.state is RoundState.COLLECTING and member in current.unread:
                if fault is None:
                    current.found_good(member)
                else:
                    current.found_bad(member, fault)
                self.tell(member, current.number, fault)
            self.proceed(later)

        def is_closed() -> bool:
            return current.state is not RoundState.COLLECTING

        self.jobs.submit_later(lambda: self._fault_of(contribution, is_closed), was_read, now)

    def _fault_of(self, contribution: Contribution, given_up: Callable[[], bool]) -> Reason | None:
        """What is wrong with an update, or None. Once it is ``given_up`` the answer means nothing."""
        try:
            check(contribution, self.store, given_up=given_up)
        except ContributionLost as lost:
            return lost.error.reason
        return None

    def _emit(self, number: int, member: str, outcome: str, reason: Reason | None) -> None:
        fields = {"round": number, "member": member, "outcome": outcome}
        self.admissions.effects.append(
            Emit("contribution", fields if reason is None else fields | {"reason": reason.code})
        )


def _require_private(plan: Plan, steps: int | None) -> None:
    """An attested worker counts its own steps; what it says is held against what the round is paid for.

    Raises:
        RoundError: PRIVACY_REPORT.
    """
    terms = plan.privacy.dp_sgd
    if (terms is None) != (steps is None):
        raise RoundError(Reason.PRIVACY_REPORT, "update.private_steps: expected under DP-SGD, and only then")
    if terms is not None and steps is not None and not 0 < steps <= terms.max_steps:
        raise RoundError(Reason.PRIVACY_REPORT, "update.private_steps: 1 to plan.privacy.max_steps expected")


def _require_round(current: Round | None, member: str, number: int, blob: bytes) -> Round:
    if current is None:
        raise RoundError(Reason.ROUND_CLOSED, "update: no round is open")
    current.require_accepts(member, number)
    if current.uploads.get(member) != blob:
        raise RoundError(Reason.ROUND_STATE, "update.blob: not the one that this member was given")
    return current


def _reason(fields: Fields) -> Reason:
    """The reason that a worker gives for its failure; it may be lying, but only by a number that exists."""
    try:
        return Reason(fields.integer("reason", low=0, high=1 << 16))
    except ValueError:
        raise RoundError(Reason.MALFORMED, "failed.reason: no such reason") from None
