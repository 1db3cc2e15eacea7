"""Every run as the host sees it: stored events, the status folded from them, who waits for the next. Trust zone: host.

The events are the truth: a status is folded from what the state holds, whichever replica wrote it, and is rebuilt when
the host starts. Whether an aggregator is present, and how many sessions, is this replica's own view.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from coordinator.host.events import PublicEvent, public_event
from coordinator.host.limits import Limits
from coordinator.host.metrics import HostMetrics
from coordinator.host.run_status import RunState, RunStatus
from coordinator.host.shortages import HostShort
from coordinator.host.state import EventSource, HostState
from trusted.errors import ProtocolError, Reason, RunError

_PAGE = 256
_WATCH_PAGE = 16  # events of up to 64 KiB that a watcher who reads slowly may hold
_COUNT_S = 1.0  # after which what was carried is stored

Clock = Callable[[], datetime]

_log = logging.getLogger(__name__)


class RunBook:
    """Runs by plan digest."""

    def __init__(self, state: HostState, metrics: HostMetrics, limits: Limits, clock: Clock) -> None:
        self._state = state
        self.metrics = metrics
        self._limits = limits
        self._clock = clock
        self._statuses: dict[bytes, RunStatus] = {}
        self._folded: dict[bytes, int] = {}  # the number of the last event that a status holds
        self._over = False
        self._news: dict[bytes, asyncio.Event] = {}
        self._carried: dict[bytes, tuple[int, int]] = {}  # in and out, and not yet stored
        self._storing: asyncio.Task[None] | None = None

    def now(self) -> datetime:
        """The time by this host's clock, for people to read: nothing waits for it."""
        return self._clock()

    async def load(self) -> None:
        """Take up every run that the state knows; to be called once, before anything else."""
        for run in await self._state.runs():
            self._statuses[run.plan] = RunStatus(run.plan.hex(), bytes_in=run.bytes_in, bytes_out=run.bytes_out)
            await self.learn(run.plan)
        self._count_states()

    async def learn(self, plan: bytes) -> None:
        """Fold the events of ``plan`` that are not folded yet, and wake its watchers."""
        more = True
        while more and (page := await self._state.events(plan, self._folded.get(plan, 0), _PAGE)):
            more = len(page) == _PAGE
            for number, text in page:
                if number == self._folded.get(plan, 0) + 1:  # another call may have folded it while this one read
                    self._fold(plan, json.loads(text))
                    self._folded[plan] = number
            news = self._news.pop(plan, None)
            if news is not None:
                news.set()

    def _fold(self, plan: bytes, event: Mapping[str, Any]) -> None:
        before = self._statuses.get(plan)
        after = self._statuses[plan] = (before or RunStatus(plan.hex())).after(event)
        if before is None or before.state is not after.state:
            self._count_states()

    def end_watches(self) -> None:
        """This host stops: let every watcher go."""
        self._over = True
        for news in self._news.values():
            news.set()

    def status(self, plan: bytes) -> RunStatus:
        """How the run of ``plan`` stands.

        Raises:
            RunError: this host knows no such run.
        """
        status = self._statuses.get(plan)
        if status is None:
            raise RunError(Reason.RUN_UNKNOWN, "run: this host knows no run of this plan")
        return status

    def knows(self, plan: bytes) -> bool:
        """Whether this host has a run of ``plan``."""
        return plan in self._statuses

    def statuses(self) -> list[RunStatus]:
        """Every run, in the order of plan digests."""
        return [self._statuses[plan] for plan in sorted(self._statuses)]

    def require_room(self, plan: bytes) -> None:
        """Refuse a plan that would be one run too many.

        Raises:
            RunError: the host holds as many runs as it may.
        """
        if plan not in self._statuses and len(self._statuses) >= self._limits.runs:
            raise RunError(Reason.QUOTA, "runs: this host holds as many as limits.runs allows")

    async def record(self, plan: bytes, event: PublicEvent, source: EventSource | None = None) -> None:
        """Store an event, fold it, log it and wake the watchers; nothing of that if its ``source`` was heard before."""
        if not await self._state.append_event(plan, event.encode(), source):
            return
        self.metrics.observe_event(event)
        _log.info(event.name, extra={key: value for key, value in event.fields.items() if key != "event"})
        await self.learn(plan)

    async def note(self, plan: bytes, event: str, **fields: Any) -> None:
        """Record what the host itself saw. On a full disk it is only logged: what was seen goes on."""
        try:
            await self.record(plan, public_event({"event": event, **fields}, plan=plan, now=self._clock()))
        except HostShort as lacking:
            self.metrics.shortages.labels(lacking.shortage.value).inc()
            _log.warning(event, extra={"plan": plan.hex(), "reason": lacking.reason.code, "outcome": "not stored"})

    def carried(self, plan: bytes, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Add what a stream carried between workers and this host; it is stored a second later, with what came since.

        A crash costs the counts of that second. A count that cannot be stored ends no stream.
        """
        before_in, before_out = self._carried.get(plan, (0, 0))
        self._carried[plan] = before_in + bytes_in, before_out + bytes_out
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_carried_soon())
        status = self._statuses.get(plan)
        if status is not None:
            self._change(plan, {"bytes_in": status.bytes_in + bytes_in, "bytes_out": status.bytes_out + bytes_out})

    async def close(self) -> None:
        """Store what was carried until now."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        await self._store_carried()

    async def _store_carried_soon(self) -> None:
        await asyncio.sleep(_COUNT_S)
        self._storing = None
        await self._store_carried()

    async def _store_carried(self) -> None:
        carried, self._carried = self._carried, {}
        for plan, (bytes_in, bytes_out) in carried.items():
            try:
                await self._state.add_bytes(plan, bytes_in, bytes_out)
            except ProtocolError as failure:
                _log.warning("bytes-not-counted", extra={"reason": failure.reason.code})

    async def aggregator(self, plan: bytes, *, present: bool) -> None:
        """Show whether an aggregator is registered for ``plan`` at this replica, and say so in an event."""
        await self.note(plan, "aggregator-registered" if present else "aggregator-gone")
        self._change(plan, {"aggregator": "present" if present else "absent"})

    def sessions(self, plan: bytes, count: int) -> None:
        """Show how many workers' streams are open."""
        self._change(plan, {"sessions": count})
        self.metrics.sessions.labels(plan.hex()[:12]).set(count)

    def _change(self, plan: bytes, values: Mapping[str, Any]) -> None:
        if plan in self._statuses:
            self._statuses[plan] = replace(self._statuses[plan], **values)

    def _count_states(self) -> None:
        states = [status.state for status in self._statuses.values()]
        for state in RunState:
            self.metrics.runs.labels(state.value).set(states.count(state))

    async def watch(self, plan: bytes, after: int) -> AsyncIterator[tuple[int, str]]:
        """Every event behind number ``after``, those to come included, until the caller stops.

        Who saw more than this host has, because an older copy of its state was put back, sees what comes next.

        Raises:
            RunError: this host knows no such run, or it stops.
        """
        await self.learn(plan)
        self.status(plan)
        after = min(after, self._folded.get(plan, 0))
        while True:
            if self._over:
                raise RunError(Reason.UNREACHABLE, "host: it stops; ask again from the number of the last event")
            news = self._news.setdefault(plan, asyncio.Event())  # taken before reading, so that none falls between
            page = await self._state.events(plan, after, _WATCH_PAGE)
            for after, text in page:
                yield after, text
            if len(page) < _WATCH_PAGE:
                await news.wait()
