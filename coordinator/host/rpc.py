"""What every gRPC method shares: limits, refusals as statuses, timing. Trust zone: host; this is a process shell.

A refusal travels as a status, its text, and the trailing metadata ``cloister-reason`` with the number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import grpc
from grpc import StatusCode

from coordinator.door import PLAN_BYTES
from coordinator.host.metrics import HostMetrics
from coordinator.host.peers import PeerGate
from coordinator.host.shortages import HostShort, shortage_of
from trusted.errors import ProtocolError, Reason, RunError

REASON_METADATA = "cloister-reason"
PLAN_METADATA = "cloister-plan"
_SAY_S = 5.0
Context = grpc.aio.ServicerContext[Any, Any]


class Caller(Protocol):
    """What is served: gRPC's context, or a request of the blob port."""

    def peer(self) -> str:
        """Its address, as gRPC writes it."""

    async def abort(self, code: StatusCode, details: str, trailing_metadata: Any = ()) -> Any:
        """Refuse it."""


_STATUS = {
    Reason.NO_AGGREGATOR: StatusCode.UNAVAILABLE,
    Reason.UNREACHABLE: StatusCode.UNAVAILABLE,
    Reason.STORE_AWAY: StatusCode.UNAVAILABLE,
    Reason.HOST_SHORT: StatusCode.UNAVAILABLE,
    Reason.RUN_UNKNOWN: StatusCode.NOT_FOUND,
    Reason.BLOB_UNKNOWN: StatusCode.NOT_FOUND,
    Reason.BLOB_OFFSET: StatusCode.OUT_OF_RANGE,
    Reason.BLOB_TOO_LONG: StatusCode.OUT_OF_RANGE,
    Reason.DOCUMENT_SIGNATURE: StatusCode.PERMISSION_DENIED,
    Reason.ORDER_REPLAYED: StatusCode.ALREADY_EXISTS,
    Reason.QUOTA: StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    Reason.MALFORMED: StatusCode.INVALID_ARGUMENT,
    Reason.HANDSHAKE_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
}

_log = logging.getLogger(__name__)


class Reception:
    """Receives calls: one stream counted for its peer, refusals answered, everything timed."""

    def __init__(self, gate: PeerGate, metrics: HostMetrics) -> None:
        self.gate = gate
        self._metrics = metrics
        self._open_calls = 0
        self._idle = asyncio.Event()

    async def idle(self, timeout_s: float) -> None:
        """Wait until no call is under way, so that what calls use can be closed behind them; no longer than given."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._open_calls:
                    self._idle.clear()
                    await self._idle.wait()

    @asynccontextmanager
    async def serve(self, context: Caller, method: str) -> AsyncIterator[None]:
        """Around the body of ``method``. A ``ProtocolError`` becomes its status, all else INTERNAL without words."""
        started, code = time.monotonic(), StatusCode.OK
        self._count_open(+1)
        try:
            with self.gate.enter(context.peer()):
                yield
        except (asyncio.CancelledError, GeneratorExit, EOFError):  # the last: a line that broke, and no fault of ours
            code = StatusCode.CANCELLED
            raise
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:
                code = StatusCode.INTERNAL
                _log.exception("rpc-failed", extra={"outcome": method})
                await _say(context, code, "the host failed; its log has a line for this")
            else:
                code = _STATUS.get(refusal.reason, StatusCode.FAILED_PRECONDITION)
                await _say(context, code, str(refusal), (REASON_METADATA, str(refusal.reason.value)))
        finally:
            self._count_open(-1)
            self._idle.set()
            self._metrics.rpc_seconds.labels(method, code.name).observe(time.monotonic() - started)

    def _count_open(self, change: int) -> None:
        self._open_calls += change
        self._metrics.open_calls.set(self._open_calls)

    def _refusal(self, error: Exception) -> ProtocolError | None:
        """What a caller is told of ``error``, counted; None where it is this host's own fault."""
        shortage = shortage_of(error)
        if shortage is not None:  # it costs this call alone
            self._metrics.shortages.labels(shortage.value).inc()
            _log.warning("host-short", extra={"outcome": shortage.value})
            error = HostShort(shortage)
        if not isinstance(error, ProtocolError):
            return None
        self._metrics.refusals.labels(error.reason.code).inc()
        return error


async def _say(context: Caller, code: StatusCode, text: str, *trailers: tuple[str, str]) -> None:
    """End the call with a status. One whose peer reads nothing is cut: its status would wait behind what it was sent.

    Raises:
        asyncio.CancelledError: that is how gRPC's call is let go, with all that it holds.
        Exception: gRPC's own, which ends the call.
    """
    try:
        async with asyncio.timeout(_SAY_S):
            await context.abort(code, text, trailers)
    except (TimeoutError, grpc.aio.InternalError):  # the latter: what it was sent has not even left
        raise asyncio.CancelledError from None


async def write_in_time(context: Context, message: Any, stall_s: float) -> None:
    """Send ``message``; a reader that takes none for ``stall_s`` seconds has its stream ended, and pins no memory.

    Raises:
        RunError: UNREACHABLE.
    """
    try:
        async with asyncio.timeout(stall_s):
            await context.write(message)
    except TimeoutError:
        raise RunError(Reason.UNREACHABLE, "stream: its reader stands still; come back when it reads") from None


def claimed_plan(context: Context) -> bytes:
    """The plan digest in a call's metadata; empty where it names none, or what is no digest."""
    metadata = dict(context.invocation_metadata() or ())
    try:
        plan = bytes.fromhex(str(metadata.get(PLAN_METADATA, "")))
    except ValueError:
        return b""
    return plan if len(plan) == PLAN_BYTES else b""


def plan_of(context: Context) -> bytes:
    """The plan digest that a call's metadata has to name.

    Raises:
        RunError: it names none.
    """
    plan = claimed_plan(context)
    if not plan:
        raise RunError(Reason.MALFORMED, f"metadata {PLAN_METADATA}: the plan digest, {PLAN_BYTES} bytes in hex")
    return plan
