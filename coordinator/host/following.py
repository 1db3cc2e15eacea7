"""What other replicas of this host did, taken up as they tell it. Trust zone: host.

A change only says where to look; all that follows is read from the shared state, so a change that comes twice, late or
together with others leads to the same end.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from coordinator.host.aggregators import Aggregators
from coordinator.host.run_book import RunBook
from coordinator.host.runs import OrderDesk
from coordinator.host.shared_spool import SharedSpool
from coordinator.host.spool import BlobName
from coordinator.host.state import Change, ChangeKind, HostState
from trusted.errors import ProtocolError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Follower:
    """Everything of this replica that what others do may concern."""

    state: HostState
    book: RunBook
    desk: OrderDesk
    spool: SharedSpool
    aggregators: Aggregators

    async def follow(self) -> None:
        """Take up changes until cancelled."""
        async for change in self.state.changes():
            try:
                await self._take_up(change)
            except ProtocolError as failure:  # the connection that failed brings MISSED when it is back
                _log.warning("change-not-taken-up", extra={"reason": failure.reason.code})

    async def _take_up(self, change: Change) -> None:
        match change.kind:
            case ChangeKind.EVENT:
                await self.book.learn(change.plan)
            case ChangeKind.ORDER:
                await self._pass_on_orders(change.plan)
            case ChangeKind.SHARED:
                await self.spool.look_again(BlobName(change.plan, change.blob))
            case ChangeKind.DISCARDED:
                self.spool.forget(BlobName(change.plan, change.blob))
            case ChangeKind.MISSED:
                await self._look_at_all()

    async def _look_at_all(self) -> None:
        for run in await self.state.runs():
            await self.book.learn(run.plan)
            await self._pass_on_orders(run.plan)
        await self.spool.look_at_all()

    async def _pass_on_orders(self, plan: bytes) -> None:
        """An aggregator that is connected here alone hears of an order that came to another replica."""
        with suppress(ProtocolError):  # none is connected here
            await self.desk.repeat_for(self.aggregators.find(plan))
