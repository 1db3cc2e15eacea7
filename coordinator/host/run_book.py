"""Every run as the host sees it: stored events, the status folded from them, who waits for the next. Trust zone: host.

The events are the truth; a status is rebuilt from them when the host starts.
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
from coordinator.host.store import Store, StoredRun
from trusted.errors import Reason, RunError

Clock = Callable[[], datetime]

_log = logging.getLogger(__name__)


class RunBook:
    """Runs by plan digest."""

    def __init__(self, store: Store, metrics: HostMetrics, limits: Limits, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._statuses = {run.plan: self._rebuild(run) for run in store.runs()}
        self._news: dict[bytes, asyncio.Event] = {}
        self._count_states()

    def _rebuild(self, run: StoredRun) -> RunStatus:
        status = RunStatus(run.plan.hex(), bytes_in=run.bytes_in, bytes_out=run.bytes_out)
        number = 0
        while page := self._store.events(run.plan, number):
            for number, text in page:  # noqa: B007  # the last number is where the next page starts
                status = status.after(json.loads(text))
        return status

    def status(self, plan: bytes) -> RunStatus:
        """How the run of ``plan`` stands.

        Raises:
            RunError: this host knows no such run.
        """
        status = self._statuses.get(plan)
        if status is None:
            raise RunError(Reason.RUN_UNKNOWN, "run: this host knows no run of this plan")
        return status

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

    def record(self, plan: bytes, event: PublicEvent) -> None:
        """Store an event, fold it, log it and wake the watchers."""
        self._store.add_run(plan)
        self._store.append_event(plan, event.encode())
        status = self._statuses.get(plan) or RunStatus(plan.hex())
        self._statuses[plan] = status.after(event.fields)
        self._metrics.observe_event(event)
        self._count_states()
        _log.info(event.name, extra={key: value for key, value in event.fields.items() if key != "event"})
        news = self._news.pop(plan, None)
        if news is not None:
            news.set()

    def note(self, plan: bytes, event: str, **fields: Any) -> None:
        """Record what the host itself saw."""
        self.record(plan, public_event({"event": event, **fields}, plan=plan, now=self._clock()))

    def carried(self, plan: bytes, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Add what a stream carried between workers and this host."""
        self._store.add_bytes(plan, bytes_in, bytes_out)
        status = self._statuses.get(plan)
        if status is not None:
            self._change(plan, {"bytes_in": status.bytes_in + bytes_in, "bytes_out": status.bytes_out + bytes_out})

    def aggregator(self, plan: bytes, *, present: bool) -> None:
        """Show whether an aggregator is registered for ``plan``, and say so in an event."""
        self.note(plan, "aggregator-registered" if present else "aggregator-gone")
        self._change(plan, {"aggregator": "present" if present else "absent"})

    def sessions(self, plan: bytes, count: int) -> None:
        """Show how many workers' streams are open."""
        self._change(plan, {"sessions": count})
        self._metrics.sessions.labels(plan.hex()[:12]).set(count)

    def _change(self, plan: bytes, values: Mapping[str, Any]) -> None:
        if plan in self._statuses:
            self._statuses[plan] = replace(self._statuses[plan], **values)

    def _count_states(self) -> None:
        states = [status.state for status in self._statuses.values()]
        for state in RunState:
            self._metrics.runs.labels(state.value).set(states.count(state))

    async def watch(self, plan: bytes, after: int) -> AsyncIterator[tuple[int, str]]:
        """Every event behind number ``after``, those to come included, until the caller stops.

        Raises:
            RunError: this host knows no such run.
        """
        self.status(plan)
        while True:
            news = self._news.setdefault(plan, asyncio.Event())  # taken before reading, so that none falls between
            page = self._store.events(plan, after)
            for after, text in page:
                yield after, text
            if not page:
                await news.wait()
