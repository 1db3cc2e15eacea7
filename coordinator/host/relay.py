"""``Relay.Attach``: opaque frames between one worker's stream and the aggregator of its plan. Trust zone: host.

Back-pressure: a frame is taken from gRPC only when the aggregator's door took the one before, and given to gRPC only
when the worker's connection took the one before; between the two stands the session's bounded queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from coordinator.door import DoorKind
from coordinator.host.aggregators import Aggregator, Aggregators, Session
from coordinator.host.limits import MAX_FRAME_BYTES, Limits
from coordinator.host.rpc import Context, Reception, plan_of, write_in_time
from coordinator.host.run_book import RunBook
from protos.v1 import cloister_pb2
from trusted.errors import ProtocolError, Reason, RunError


class RelayService:
    """The gRPC servicer."""

    def __init__(self, aggregators: Aggregators, book: RunBook, reception: Reception, limits: Limits) -> None:
        self._aggregators = aggregators
        self._book = book
        self._reception = reception
        self._limits = limits

    async def Attach(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Relay until the worker, the aggregator or a limit ends the stream."""
        async with self._reception.serve(context, "Relay.Attach"):
            aggregator = self._aggregators.find(plan_of(context))
            with self._reception.gate.attach(context.peer()) as admitted:
                session = self._aggregators.open_session(aggregator, admitted)
                await self._carry(requests, context, aggregator, session)

    async def _carry(
        self, requests: AsyncIterator[Any], context: Context, aggregator: Aggregator, session: Session
    ) -> None:
        self._show(aggregator)
        deadline = asyncio.get_running_loop().call_later(self._limits.handshake_s, _end_if_not_admitted, session)
        upward = asyncio.create_task(self._carry_up(requests, aggregator, session))
        try:
            await self._carry_down(context, aggregator, session)
        finally:
            deadline.cancel()
            upward.cancel()
            self._aggregators.close_session(aggregator, session)
            self._show(aggregator)
            self._book.carried(aggregator.plan, bytes_in=session.received_bytes, bytes_out=session.sent_bytes)

    async def _carry_up(self, requests: AsyncIterator[Any], aggregator: Aggregator, session: Session) -> None:
        """Worker → aggregator. However it ends, the session ends with it."""
        reason: Reason | None = None
        try:
            async for frame in requests:
                if session.is_over:
                    return
                if len(frame.data) > MAX_FRAME_BYTES:
                    raise RunError(Reason.TOO_LARGE, f"frame: at most {MAX_FRAME_BYTES} bytes")
                session.count_received(len(frame.data))
                await aggregator.send(DoorKind.FRAME, session.number, frame.data)
        except ProtocolError as refusal:
            reason = refusal.reason
        finally:
            session.end(reason)

    async def _carry_down(self, context: Context, aggregator: Aggregator, session: Session) -> None:
        """Aggregator → worker."""
        # Before the first frame: while one waits to be sent with the metadata, gRPC can tell no reason for the end.
        await context.send_initial_metadata(())
        while (frame := await session.next_frame()) is not None:
            write = write_in_time(context, cloister_pb2.Frame(data=frame), self._limits.stall_s)
            session.writing = asyncio.ensure_future(write)
            try:
                await session.writing
            except asyncio.CancelledError:
                if not session.overrun:
                    raise
                raise RunError(Reason.QUOTA, "session: its worker does not read") from None
            session.sent_bytes += len(frame)

    def _show(self, aggregator: Aggregator) -> None:
        self._book.sessions(aggregator.plan, len(aggregator.sessions))


def _end_if_not_admitted(session: Session) -> None:
    if not session.admitted:
        session.end(Reason.HANDSHAKE_TIMEOUT)
