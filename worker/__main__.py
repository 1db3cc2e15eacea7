"""The worker's process shell: joins its plan at its coordinator, and comes back until the run is over.

Trust zone: worker TEE. It only dials out. A lost connection is no failure; a refusal by this worker's own rules, or an
aggregator that does not prove itself, is one, and is never worked around.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from trusted.allocator import keep_chunk_memory
from trusted.channel.results import aggregator_subject
from trusted.channel.session import Identity
from trusted.channel.worker import WorkerChannel
from trusted.clock import SteadyClock
from trusted.errors import ProtocolError, Reason, StateError
from trusted.evidence.boot import Boot
from trusted.exchange import Exchanged
from worker.contribution import BlobTransport, Contributor
from worker.memory import Memory
from worker.participant import Closed, Participant
from worker.session_loop import SessionLoop, Site
from worker.start import Options, Prepared, prepare

if TYPE_CHECKING:
    from worker.collateral import HostCollateral
    from worker.coordinators import Coordinators

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
# What may pass by itself: the host or the network is away, a lease was missed, the aggregator is not there yet.
_PASSING = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.STORE_AWAY,
        Reason.NO_AGGREGATOR,
        Reason.QUOTA,
        Reason.PEER_REFUSED,
        Reason.LEASE_EXPIRED,
        Reason.HANDSHAKE_TIMEOUT,
        Reason.RECORD,
    }
)


def main(boot: Boot) -> int:
    """Take part in one run. 0 when the run finished or was stopped, 1 when this worker cannot go on."""
    keep_chunk_memory()
    try:
        options = Options.read(boot)
        prepared = prepare(boot, options, note)
        return take_part(boot, options, prepared)
    except ProtocolError as error:
        note("worker-refused", reason=error.reason.code, name=error.reason.name, detail=error.detail)
        return 1
    except OSError as error:
        note("worker-failed", detail=f"{error.strerror}: {error.filename}")
        return 1


def take_part(boot: Boot, options: Options, prepared: Prepared) -> int:
    """Join and come back until the run is over; the exit status.

    Raises:
        ProtocolError: this worker's own rules, or an aggregator that does not prove itself, forbid to go on.
    """
    # Not above: gRPC starts threads when it is imported, and the trainer must be forked before.
    from worker.collateral import HostCollateral
    from worker.coordinators import Coordinators

    plan = prepared.federation.plan
    ca_pem = options.ca_pem.encode() or None
    try:
        with Coordinators(options.coordinators, ca_pem, plan.digest, proxy=options.proxy or None) as coordinators:
            roots = prepared.federation.charter.document.roots
            collateral = HostCollateral(lambda: coordinators.channel, options.collateral_store, roots, note)
            closed = _until_closed(_site(boot, prepared, coordinators), prepared, coordinators, collateral)
    finally:
        prepared.trainer.stop()
    note("run-over", outcome=closed.outcome, rounds=closed.rounds)
    return 0 if closed.outcome in {"finished", "stopped"} else 1


def _site(boot: Boot, prepared: Prepared, coordinators: BlobTransport) -> Site:
    identity = Identity.generate(boot.provider)
    plan = prepared.federation.plan.document
    contributor = Contributor(
        exchanged=Exchanged.of(prepared.federation.plan),
        transport=coordinators,
        trainer=prepared.trainer,
        signing_key=identity.signing_key,
        allowed_metrics=frozenset(rule.name for rule in plan.metrics),
        train_timeout_s=plan.deadlines.round_s,
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
        clock=SteadyClock(lambda seconds: note("clock-jumped", seconds=seconds)),
    )


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


def _until_closed(site: Site, prepared: Prepared, coordinators: Coordinators, collateral: HostCollateral) -> Closed:
    pause_s = _FIRST_PAUSE_S
    while True:
        channel = WorkerChannel(prepared.federation, site.identity, site.membership)
        collateral.refresh()
        try:
            with coordinators.attach() as frames:
                closed = SessionLoop(site, channel, frames).run()
                refusal = frames.refusal
            if closed is not None:
                return closed
            note("session-lost", reason=refusal.reason.code if refusal is not None else None)
            if refusal is not None and refusal.reason not in _PASSING:
                raise refusal
        except ProtocolError as error:
            if error.reason not in _PASSING:
                raise
            note("session-lost", reason=error.reason.code, detail=error.detail)
        coordinators.turn()
        if channel.aggregator is not None:  # there was a session: what cut it is no reason to be slow
            pause_s = _FIRST_PAUSE_S
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def note(event: str, **fields: object) -> None:
    """One line for the site's own log: events, numbers and reasons, never data."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()
