"""Gets the key, opens the model, serves, asks the broker again, and forgets. Trust zone: recipient TEE; shell."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from recipient.desk import Desk, Note
from recipient.key_source import HeldGrant, KeySource
from recipient.limits import ServiceLimits
from recipient.model import open_model
from recipient.port import Address, Clocks, ScoringService, open_port
from recipient.quota import Quota
from recipient.start import Options, Prepared
from recipient.tenure import Tenure
from trusted.channel.refusal import PeerRefused
from trusted.documents.schema import write_time
from trusted.errors import ProtocolError, Reason
from trusted.evidence import EvidenceProvider
from trusted.scoring.service import Served

_CHECK_S = 1.0
_RETRY_S = 2.0
# What a broker says of a grant that is over. Who lies here could as well not answer: it is believed at once.
_OVER = frozenset({Reason.GRANT_REVOKED, Reason.GRANT_EXPIRED, Reason.KEY_RETIRED, Reason.KEY_UNKNOWN})


@dataclass(frozen=True, slots=True)
class Runtime:
    """All that serves: what was checked, where keys come from, how this machine gives evidence, and its clocks."""

    prepared: Prepared
    options: Options
    keys: KeySource
    provider: EvidenceProvider
    clocks: Clocks
    note: Note


def obtain(runtime: Runtime) -> HeldGrant:
    """Get the key, open the model with it, hand the model to the process that scores, and keep neither.

    Raises:
        ProtocolError: the broker gives no key, or it does not open what the release announces.
    """
    prepared, granted = runtime.prepared, runtime.keys.obtain()
    held = HeldGrant.of(granted)
    path = Path(runtime.options.sealed_model)
    model = open_model(path, prepared.released, prepared.federation, granted.key)
    try:
        prepared.scorer.load(model)
    finally:
        model[:] = 0
    until = write_time(held.grant.document.validity.not_after)
    runtime.note("model-opened", grant=held.grant.digest.hex(), until=until)
    return held


async def serve(runtime: Runtime, held: HeldGrant, limits: ServiceLimits) -> None:
    """Answer until SIGTERM. What is asked after the key's time gets the reason.

    Raises:
        ProtocolError: the port cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    desk = _desk(runtime, held)
    statement = runtime.prepared.statement.within(desk.quota.limits)
    clocks = runtime.clocks
    served = Served(
        federation=runtime.prepared.federation,
        statement=statement,
        provider=runtime.provider,
        boot=token_bytes(16),
        require_open=lambda: desk.tenure.require(clocks.now(), clocks.counted_s()),
    )
    service = ScoringService(served, desk, clocks, limits, runtime.note)
    try:
        async with AsyncExitStack() as stack:
            port = await open_port(service, _address(runtime.options), limits, stack)
            runtime.note("serving", port=port, model=statement.model_sha256.hex(), limits=statement.limits.to_json())
            renewing = asyncio.create_task(_keep(runtime, held, desk, service))
            stack.callback(renewing.cancel)
            await stop.wait()
            runtime.note("service-drains", requests=desk.quota.total)
    finally:
        desk.end(Reason.SCORING_DRAINS)


def _desk(runtime: Runtime, held: HeldGrant) -> Desk:
    deadlines = runtime.prepared.federation.plan.document.deadlines
    allowed = held.grant.document.scoring
    limits = runtime.options.limits if allowed is None else runtime.options.limits.stricter(allowed)
    tenure = Tenure(
        not_after=held.grant.document.validity.not_after,
        renew_s=deadlines.reattest_s,
        grace_s=deadlines.lease_s,
        confirmed_s=runtime.clocks.counted_s(),
    )
    return Desk(runtime.prepared.scorer, Quota(limits), tenure, runtime.note, runtime.options.timeout_s)


async def _keep(runtime: Runtime, held: HeldGrant, desk: Desk, service: ScoringService) -> None:
    """Ask the broker again whenever it is time, and forget the model when the time is over."""
    tried_s = 0.0
    while desk.tenure.ended is None:
        await asyncio.sleep(_CHECK_S)
        counted_s = runtime.clocks.counted_s()
        if desk.tenure.is_due(counted_s) and counted_s - tried_s >= _RETRY_S:
            tried_s = counted_s
            await _renew(runtime, held, desk, service)
        await service.checked()


async def _renew(runtime: Runtime, held: HeldGrant, desk: Desk, service: ScoringService) -> None:
    begun_s = runtime.clocks.counted_s()
    ask: Callable[[HeldGrant], None] = runtime.keys.renew
    try:
        await asyncio.get_running_loop().run_in_executor(None, ask, held)
    except ProtocolError as error:
        reason = _said(error)
        runtime.note("grant-not-renewed", reason=reason.code)
        if reason in _OVER:
            await service.end(reason)
        return
    desk.tenure.confirm(begun_s)  # when it was asked: its answer may have been held back
    runtime.note("grant-renewed", requests=desk.quota.total)


def _said(error: ProtocolError) -> Reason:
    """Why it failed; of a refusal by the broker, or by who pretends to be it, its own reason."""
    return error.peer_reason if isinstance(error, PeerRefused) else error.reason


def _address(options: Options) -> Address:
    key, chain = (Path(path).read_bytes() if path else b"" for path in (options.certificate_key, options.certificate))
    return Address(options.listen, key, chain)
