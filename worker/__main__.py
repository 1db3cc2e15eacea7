"""The worker's process shell: joins its plan at its coordinator, and comes back until the run is over.

Trust zone: worker TEE. It only dials out. A lost connection is no failure; a refusal by this worker's own rules, or an
aggregator that does not prove itself, is one, and is never worked around. Whatever ends this worker's part ends its
training at once.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trusted.allocator import keep_chunk_memory
from trusted.channel.results import aggregator_subject
from trusted.channel.session import Identity
from trusted.channel.worker import WorkerChannel
from trusted.errors import AttestationError, DocumentError, ProtocolError, Reason, StateError
from trusted.evidence.boot import Boot
from trusted.evidence.clocks import counted_s, watched
from trusted.exchange import Exchanged
from worker.contribution import BlobTransport, Contributor
from worker.evaluation import Evaluator
from worker.memory import Memory
from worker.operator import Departed, Operator, Wish
from worker.participant import Closed, Participant
from worker.session_loop import SessionLoop, Site
from worker.start import Options, Prepared, prepare

if TYPE_CHECKING:
    from worker.collateral import HostCollateral
    from worker.coordinators import Coordinators

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_BEATS_A_LEASE = 12
# What may pass by itself: the host or the network is away, a lease was missed, the aggregator is not there yet.
_PASSING = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.STORE_AWAY,
        Reason.HOST_SHORT,
        Reason.NO_AGGREGATOR,
        Reason.QUOTA,
        Reason.PEER_REFUSED,
        Reason.LEASE_EXPIRED,
        Reason.HANDSHAKE_TIMEOUT,
        Reason.RECORD,
        Reason.CLOCK_JUMPED,
    }
)
# What a clock that somebody set wrong looks like to a worker that was admitted before.
_OF_TIME = frozenset(
    {
        Reason.DOCUMENT_EXPIRED,
        Reason.DOCUMENT_NOT_YET_VALID,
        Reason.CERT_EXPIRED,
        Reason.CERT_NOT_YET_VALID,
        Reason.CRL_STALE,
        Reason.EVIDENCE_AGE,
        Reason.SITE_REFUSES,
    }
)


def main(boot: Boot) -> int:
    """Take part in one run. 0 when it finished or was stopped, or the operator ended this; 1 when this cannot go on."""
    keep_chunk_memory()
    try:
        options = Options.read(boot)
        operator = Operator(Path(options.control) if options.control else None)
        if operator.wish() is Wish.WITHDRAW:
            _note_departure(Departed(Wish.WITHDRAW))
            return 0
        prepared = prepare(boot, options, note)
        try:
            signal.signal(signal.SIGTERM, operator.leave)
            return take_part(boot, options, prepared, operator)
        finally:
            prepared.close()
    except ProtocolError as error:
        note("worker-refused", reason=error.reason.code, name=error.reason.name, detail=error.detail)
        return 1
    except OSError as error:
        note("worker-failed", detail=f"{error.strerror}: {error.filename}")
        return 1


def take_part(boot: Boot, options: Options, prepared: Prepared, operator: Operator | None = None) -> int:
    """Join and come back until the run is over; the exit status.

    Raises:
        ProtocolError: this worker's own rules, or an aggregator that does not prove itself, forbid to go on.
    """
    # Not above: gRPC starts threads when it is imported, and the trainer must be forked before.
    from worker.collateral import HostCollateral
    from worker.coordinators import Coordinators

    plan = prepared.federation.plan
    ca_pem = options.ca_pem.encode() or None
    proxy = options.proxy or None
    try:
        with Coordinators(options.coordinators, ca_pem, plan.digest, proxy=proxy, note=note) as coordinators:
            roots = prepared.federation.charter.document.roots
            collateral = HostCollateral(lambda: coordinators.channel, options.collateral_store, roots, note)
            site = _site(boot, prepared, coordinators, operator or Operator())
            try:
                closed = _until_closed(site, prepared, coordinators, collateral)
            finally:
                prepared.trainer.stop()  # first of all: nothing trains for a run that this site is no part of
    finally:
        prepared.trainer.stop()
    if isinstance(closed, Departed):
        _note_departure(closed)
        return 0
    note("run-over", outcome=closed.outcome, rounds=closed.rounds)
    return 0 if closed.outcome in {"finished", "stopped"} else 1


def _site(boot: Boot, prepared: Prepared, coordinators: BlobTransport, operator: Operator) -> Site:
    identity = Identity.generate(boot.provider)
    plan = prepared.federation.plan.document
    allowed = frozenset(rule.name for rule in plan.metrics)
    evaluator = None
    if plan.evaluation is not None and prepared.strata is not None:
        timeout_s = float(plan.deadlines.round_s)
        evaluator = Evaluator(plan.evaluation, prepared.strata, prepared.trainer, allowed, timeout_s)
    contributor = Contributor(
        exchanged=Exchanged.of(prepared.federation.plan),
        transport=coordinators,
        trainer=prepared.trainer,
        signing_key=identity.signing_key,
        allowed_metrics=allowed,
        train_timeout_s=plan.deadlines.round_s,
        privacy=plan.privacy,
        note=note,
        evaluator=evaluator,
    )
    participant = Participant(prepared.federation, prepared.rule, _memory(prepared))
    return Site(
        participant=participant,
        identity=identity,
        membership=prepared.membership,
        contributor=contributor,
        initial=prepared.initial,
        aggregator=aggregator_subject(prepared.federation.plan.digest),
        reattest_s=plan.deadlines.reattest_s,
        note=note,
        operator=operator,
        trainer_beat=prepared.trainer.beat,
        beat_s=plan.deadlines.lease_s / _BEATS_A_LEASE,
        jumps=watched(),
    )


def _note_departure(departed: Departed) -> None:
    reason = departed.wish.reason
    event = "site-withdrawn" if departed.wish is Wish.WITHDRAW else "worker-left"
    note(event, reason=None if reason is None else reason.code)


def _memory(prepared: Prepared) -> Memory:
    """What an earlier start of this worker remembered.

    What another measurement sealed, as before an upgrade, is forgotten: its host could have deleted it just as well.
    """
    member, key = prepared.rule.member, prepared.membership.worker_key
    plan = prepared.federation.plan.digest
    try:
        return Memory.recall(member, plan, key, prepared.vault)
    except StateError as error:
        note("memory-not-opened", reason=error.reason.code, detail=f"{error.detail}; this worker begins anew")
        return Memory(member, plan, key, prepared.vault)


def _until_closed(
    site: Site, prepared: Prepared, coordinators: Coordinators, collateral: HostCollateral
) -> Closed | Departed:
    pause_s, doubt = _FIRST_PAUSE_S, _Doubt(prepared.federation.plan.document.deadlines.lease_s)
    while True:
        channel = WorkerChannel(prepared.federation, site.identity, site.membership)
        collateral.refresh()
        channel = WorkerChannel(prepared.federation, site.identity, site.membership)
        try:
            with coordinators.attach() as frames:
                closed = SessionLoop(site, channel, frames).run()
                refusal = frames.refusal
            if closed is not None:
                return closed
            doubt.trusted(channel)
            doubt.settled()
            note("session-lost", reason=refusal.reason.code if refusal is not None else None)
            if refusal is not None and refusal.reason not in _PASSING:
                raise refusal
        except ProtocolError as error:
            doubt.trusted(channel)
            if error.reason not in _PASSING and not doubt.may_be_the_clock(error):
                raise
            note("session-lost", reason=error.reason.code, detail=error.detail)
        coordinators.turn()
        if channel.aggregator is not None:  # there was a session: what cut it is no reason to be slow
            pause_s = _FIRST_PAUSE_S
        departed = site.operator.sleep(pause_s)
        if departed is not None:
            return departed
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@dataclass(slots=True)
class _Doubt:
    """Whether it is the clock that is wrong. Once an aggregator was admitted here, a fault of time has to hold for one
    lease of seconds that a clock cannot make up before this worker gives up; at its first start it gives up at once."""

    lease_s: float
    _admitted: bool = False
    _since: float | None = None

    def trusted(self, channel: WorkerChannel) -> None:
        """``channel`` is over; once an aggregator proved itself in one, a later fault may be the clock's."""
        self._admitted = self._admitted or channel.aggregator is not None

    def settled(self) -> None:
        """A session ended for no reason of time."""
        self._since = None

    def may_be_the_clock(self, error: ProtocolError) -> bool:
        """Whether to try again in spite of ``error``."""
        is_of_time = error.reason in _OF_TIME and isinstance(error, DocumentError | AttestationError)
        if not (is_of_time and self._admitted):
            return False
        self._since = counted_s() if self._since is None else self._since
        return counted_s() - self._since < self.lease_s


def note(event: str, **fields: object) -> None:
    """One line for the site's own log: events, numbers and reasons, never data."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()
