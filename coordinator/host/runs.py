"""``Runs.Submit|Get|List|Watch``: signed orders in, public events out. Trust zone: host.

An order is verified here so that strangers cannot start runs. That protects the host's time; what a run may do is
decided by the enclave and each site, which do not ask the host.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from coordinator.door import DoorKind
from coordinator.host.aggregators import Aggregator, Aggregators
from coordinator.host.limits import MAX_ORDER_BYTES
from coordinator.host.rpc import Context, Reception, write_in_time
from coordinator.host.run_book import Clock, RunBook
from coordinator.host.state import HostState, StoredOrder, StoredRun
from protos.v1 import cloister_pb2
from trusted.documents.order import Action, Order, VerifiedOrder
from trusted.errors import ProtocolError, Reason, RunError

OrderVerifier = Callable[[bytes, datetime], VerifiedOrder]

_KINDS = {
    Action.START: DoorKind.START,
    Action.STOP: DoorKind.STOP,
    Action.PAUSE: DoorKind.PAUSE,
    Action.RESUME: DoorKind.RESUME,
}


class OrderDesk:
    """Verifies orders, honours each once, and tells aggregators, also those that register later."""

    def __init__(self, state: HostState, book: RunBook, aggregators: Aggregators, verify: OrderVerifier) -> None:
        self._state = state
        self._book = book
        self._aggregators = aggregators
        self._verify = verify

    async def submit(self, envelope: bytes, now: datetime) -> bytes:
        """Honour the order in ``envelope`` (DSSE JSON) and return its plan digest.

        Raises:
            ProtocolError: not signed by a member, stale, used before, or nothing that this run can obey.
        """
        if len(envelope) > MAX_ORDER_BYTES:
            raise RunError(Reason.TOO_LARGE, f"order: at most {MAX_ORDER_BYTES} bytes")
        order = self._verify(envelope, now).document
        await self._book.learn(order.plan)
        self._require_obeyable(order)
        await self._state.honour_order(StoredOrder(order.nonce, order.plan, order.action.value, envelope))
        await self._book.note(order.plan, "order-honoured", member=order.member, outcome=order.action.value)
        try:
            aggregator = self._aggregators.find(order.plan)
        except ProtocolError:
            return order.plan  # the order stands; the aggregator hears of it when it registers
        if order.action in (Action.PAUSE, Action.RESUME):
            await self._repeat_hold(aggregator)  # which of two that came at once stands, the state says
        else:
            aggregator.post(_KINDS[order.action], 0, envelope)
        return order.plan

    def _require_obeyable(self, order: Order) -> None:
        if order.action is Action.START:
            self._book.require_room(order.plan)
            known = [status for status in self._book.statuses() if status.plan == order.plan.hex()]
            is_over = bool(known) and known[0].state.is_over
        else:
            is_over = self._book.status(order.plan).state.is_over and order.action is not Action.STOP
        if is_over:
            raise RunError(Reason.RUN_STATE, "order: this run is over; sign a new plan to train again")

    async def repeat_for(self, aggregator: Aggregator) -> None:
        """Send a newly registered aggregator the orders that stand; a pause first, so that no round opens before it.

        None starts a run that is over: an aggregator that has still to send workers home learns that from them.
        """
        for run in await self._state.runs():
            if run.plan != aggregator.plan:
                continue
            _post_hold(run, aggregator)
            if run.start_order is not None and not self._book.status(run.plan).state.is_over:
                aggregator.post(DoorKind.START, 0, run.start_order)
            if run.stop_order is not None:
                aggregator.post(DoorKind.STOP, 0, run.stop_order)
        if self._book.status(aggregator.plan).state.is_over:
            aggregator.post(DoorKind.OVER)

    async def _repeat_hold(self, aggregator: Aggregator) -> None:
        for run in await self._state.runs():
            if run.plan == aggregator.plan:
                _post_hold(run, aggregator)


def _post_hold(run: StoredRun, aggregator: Aggregator) -> None:
    if run.hold_order is not None and run.hold_action is not None:
        aggregator.post(_KINDS[Action(run.hold_action)], 0, run.hold_order)


class RunsService:
    """The gRPC servicer."""

    def __init__(self, desk: OrderDesk, book: RunBook, reception: Reception, clock: Clock, stall_s: float) -> None:
        self._desk = desk
        self._book = book
        self._reception = reception
        self._stall_s = stall_s
        self._clock = clock

    async def Submit(self, request: Any, context: Context) -> Any:
        """Honour one signed order."""
        async with self._reception.serve(context, "Runs.Submit"):
            plan = await self._desk.submit(request.envelope, self._clock())
            return cloister_pb2.RunStatus(json=self._book.status(plan).encode())

    async def Get(self, request: Any, context: Context) -> Any:
        """One run."""
        async with self._reception.serve(context, "Runs.Get"):
            await self._book.learn(request.plan)
            return cloister_pb2.RunStatus(json=self._book.status(request.plan).encode())

    async def List(self, request: Any, context: Context) -> Any:
        """Every run."""
        async with self._reception.serve(context, "Runs.List"):
            runs = [cloister_pb2.RunStatus(json=status.encode()) for status in self._book.statuses()]
            return cloister_pb2.RunList(runs=runs)

    async def Watch(self, request: Any, context: Context) -> None:
        """Every event behind a number, as it comes, until the caller hangs up."""
        async with self._reception.serve(context, "Runs.Watch"):
            with self._reception.gate.watch(context.peer()):
                async for number, text in self._book.watch(request.plan, request.after):
                    await write_in_time(context, cloister_pb2.Event(number=number, json=text), self._stall_s)
